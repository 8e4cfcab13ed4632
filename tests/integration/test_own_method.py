"""A method from outside the package: one Python file and one YAML file, those of docs/extend.md."""

import math
import re
from pathlib import Path

import pytest
import torch
from running import clipos, done, refused, state_of

from clipos_lightning import ClipOS, Detector

PAGE = (Path(__file__).parents[2] / "docs/extend.md").read_text(encoding="utf-8")
FILES = ("my_method.py", "my_method.yaml")
SMALL = ("--data.limit_per_set", 10, "--data.ood_sets", "[noise]", "--trainer.max_steps", 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the two files of the page."""
    for name in FILES:
        (block,) = re.findall(rf"```\w+\n# {re.escape(name)}\n(.*?)```", PAGE, re.DOTALL)
        (tmp_path / name).write_text(block, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_it_is_short_and_trains_and_scores(folder: Path) -> None:
    lines = (folder / FILES[0]).read_text().splitlines()
    assert 20 < len(lines) < 40
    fit = done("fit", "--config", "my_method.yaml", *SMALL)
    state = state_of(fit.checkpoint)
    assert state["own.own"].shape == (4, 4, 128) and set(state) >= {"prompts.context", "own.own"}
    start = ClipOS(**torch.load(fit.checkpoint, weights_only=True)["hyper_parameters"])
    assert (state["own.own"] - start.own.own).abs().max() > 1e-5  # the negatives learn
    test = done("test", "--ckpt_path", fit.checkpoint)
    assert test.report["headline"] == "my_method.others" and "my_method.others" in test.report["average"]
    assert "my_method.others" not in test.report["zero_shot"]["average"]
    detector = Detector.load(fit.checkpoint, "cpu", trust=True)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = detector.backbone.encode_image(pixels, frozenset(["local"]))
    text, negatives = (rows.double() for rows in (detector.head.text[:10], detector.head.extra.negatives))
    for i, found in enumerate(detector.predict(pixels).score.tolist()):
        shares = []
        for feature in (features.cls[i], *features.path("local")[i]):
            inside, outside = (
                [math.exp(detector.head.scale * float(feature.double() @ row)) for row in rows]
                for rows in (text, negatives)
            )
            shares.append(sum(inside) / (sum(inside) + sum(outside)))
        assert found == pytest.approx(shares[0] + sum(shares[1:]) / len(shares[1:]), abs=1e-5)
    assert clipos("predict", fit.checkpoint, ".").code == 2  # a file may come from anyone: --trust


def test_its_arguments_are_options(folder: Path) -> None:
    """On the command line, and in a config on top of another."""
    Path("more.yaml").write_text("model: {objective: {init_args: {count: 3}}}\n")
    for words, count in (
        (("--model.objective.init_args.count", 2), 2),
        (("--model.objective.count", 5), 5),
        (("--config", "more.yaml"), 3),
        (("--model.objective", "my_method.Others"), 8),
    ):
        run = clipos("fit", "--config", "my_method.yaml", *words, "--print_config")
        assert run.code == 0, run.err
        assert (f"count: {count}" in run.out) == (count != 8)
    run = clipos("fit", "--config", "my_method.yaml", "--model.objective.sizes", 2, "--trainer.max_steps", 1)
    refused(run, "my_method.Others", "unexpected keyword argument 'sizes'")
