"""Each method with texts of its own: fit, test, detectors and their files, resuming, what is refused."""

import csv
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import CPU, Run, clipos, done, inside, make_photos, refused

from clipos_lightning import Detector

TINY = {
    "fa": "{class_path: fa, init_args: {copies: 2}}",
    "id_like": "{class_path: id_like, init_args: {count: 5, length: 3, crops: 6, kept: 2}}",
    "local_prompt": "{class_path: local_prompt, init_args: {count: 5, length: 3, top: 8, crops: 6, positives: 2}}",
    "gallop": "{class_path: gallop, init_args: {count: 2, dropout: 0.5}}",
    "mambo": "mambo",
}
SCORES = {"fa": ["fa", "gl_fa"], "mambo": ["mambo"]}
RANDOM = ("--model.context.length", 4)  # the authors' 16 tokens are more than MicroCLIP reads
CONTEXT = {"id_like": RANDOM, "local_prompt": RANDOM, "mambo": RANDOM}
METHODS = sorted(TINY)
QUICK = [pytest.param(name, marks=[] if name in ("local_prompt", "id_like") else pytest.mark.slow) for name in METHODS]


def options(name: str) -> tuple[Any, ...]:
    """Of a small run of a method by its config."""
    given = ("--config", "scenes_1shot_micro.yaml", "--config", f"{name}.yaml", *CONTEXT.get(name, ()))
    photos = ("--data.root", ".", "--data.id", "folder:photos", "--data.ood_sets", "[noise]", "--data.shots", 2)
    return *given, *photos, "--data.limit_per_set", 12, "--data.batch_size", 4, "--model.objective", TINY[name]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes."""
    return make_photos(tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="module")
def fitted(home: Path) -> Callable[[str], Run]:
    """A method after one epoch of two steps."""

    @cache
    def fit(name: str) -> Run:
        with inside(home):
            return done("fit", *options(name), "--trainer.max_epochs", 1)

    return fit


@pytest.fixture
def there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture(scope="module")
def pixels(home: Path) -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", QUICK)
def test_checkpoint_and_file_give_the_scores_of_the_report(
    name: str, fitted: Callable[[str], Run], pixels: torch.Tensor, tmp_path: Path
) -> None:
    test = done("test", "--ckpt_path", fitted(name).checkpoint)
    scores, headline = SCORES.get(name, [name]), "gl_fa" if name == "fa" else name
    assert test.report["headline"] == headline
    assert [score for score in test.report["average"] if score in scores] == scores
    assert not set(scores) & set(test.report["zero_shot"]["average"])  # the zero-shot detector has no such texts
    detector = Detector.load(fitted(name).checkpoint, "cpu")
    assert detector.score == headline and detector.head.extra.tensors
    paths, values = test.scores["id/paths"], test.scores[f"id/{headline}"]
    found = [decision.score for decision in detector([f"photos/test/{path}" for path in paths])]
    np.testing.assert_allclose(found, values, atol=1e-4)
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors", "cpu")
    one, other = detector.predict(pixels), again.predict(pixels)
    assert torch.equal(one.score, other.score) and torch.equal(one.probabilities, other.probabilities)
    again.save(tmp_path / "e.safetensors")
    assert (tmp_path / "e.safetensors").read_bytes() == (tmp_path / "d.safetensors").read_bytes()


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", ["local_prompt", pytest.param("gallop", marks=pytest.mark.slow)])
def test_calibrate_and_predict(name: str, fitted: Callable[[str], Run], tmp_path: Path) -> None:
    images = sorted(Path("photos/test").rglob("*.png"))[:6]
    out = tmp_path / "d.safetensors"
    run = clipos("calibrate", fitted(name).checkpoint, *images, "--out", out, "--num_workers", 0)
    assert run.code == 0, run.err
    run = clipos("predict", out, *images, "--format", "csv", "--num_workers", 0)
    found = [float(row["score"]) for row in csv.DictReader(run.lines)]
    expected = [decision.score for decision in Detector.load(fitted(name).checkpoint, "cpu")(images)]
    assert found == pytest.approx(expected, abs=1e-4)
    assert sum(score >= Detector.load(out, "cpu").threshold - 1e-4 for score in found) >= 5  # recall 95 %


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", ["local_prompt", pytest.param("gallop", marks=pytest.mark.slow)])
def test_resuming_is_exact(name: str, fitted: Callable[[str], Run]) -> None:
    """GalLoP's drops, Local-Prompt's views and the own prompts go on where they were."""
    rest = done("fit", "--ckpt_path", fitted(name).checkpoint, "--trainer.max_epochs", 2)
    both = done("fit", *options(name), "--trainer.max_epochs", 2)
    assert torch.equal(rest.context, both.context) and not torch.equal(rest.context, fitted(name).context)


@pytest.mark.usefixtures("there")
def test_further_classes(fitted: Callable[[str], Run], tmp_path: Path) -> None:
    """OOD prompts belong to no class, so ID-like's detector takes another; prompts of the classes do not."""
    run = clipos("add", fitted("id_like").checkpoint, "other", "--out", tmp_path / "more.safetensors")
    assert run.code == 0, run.err
    before = Detector.load(fitted("id_like").checkpoint, "cpu")
    more = Detector.load(tmp_path / "more.safetensors", "cpu")
    assert more.class_names == [*before.class_names, "other"] and more.score == "id_like"
    torch.testing.assert_close(more.head.extra.negatives, before.head.extra.negatives, rtol=0, atol=0)
    assert more("other/0.png").score > before("other/0.png").score  # another class, the same OOD prompts
    run = clipos("add", fitted("local_prompt").checkpoint, "other", "--out", tmp_path / "no.safetensors")
    refused(run, "cannot get another class: some of its prompts belong to one class each", "fit again")
    assert len(run.err.strip().splitlines()) == 1


@pytest.mark.badinput
@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(
    ("given", "pieces"),
    [
        ((*options("id_like"), "--model.negatives", "words.txt"), ["--model.negatives", "has its own", "leave"]),
        ((*options("mambo"), "--model.negatives", "words.txt"), ["--model.negatives", "leave the words out"]),
        ((*options("fa"), "--model.score", "gallop"), ["'gallop' is the score of another method", "gl_fa"]),
        (("--config", "demo.yaml", "--model.score", "fa"), ["'fa' is the score of another method", "energy_region"]),
        (("--config", "demo.yaml", "--model.scores", "[energy, mambo]"), ["--model.scores 'mambo' is the score of"]),
        ((*options("id_like"), "--model.objective.init_args.count", 1), ["id_like: count is 1", "at least 2"]),
        ((*options("id_like"), "--model.objective.init_args.length", 13), ["of 17 tokens", "to at most 12"]),
        ((*options("local_prompt"), "--model.objective.init_args.positives", 6), ["keeps 6 and 1 of 6 crops"]),
        ((*options("gallop"), "--model.objective.init_args.dropout", 1), ["gallop: dropout is 1", "in [0, 1)"]),
    ],
)
def test_what_is_refused(given: tuple[Any, ...], pieces: list[str], tmp_path: Path) -> None:
    Path("words.txt").write_text("sky\nwall\n")
    run = clipos("fit", *given, *CPU, "--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", 1)
    refused(run, *pieces)
    assert len(run.err.strip().splitlines()) == 1 and not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.usefixtures("there")
def test_words_and_a_method_without_negatives(home: Path, tmp_path: Path) -> None:
    """GalLoP's further prompts and negative words go together."""
    Path("words.txt").write_text("sky\nwall\n")
    words = ("--model.negatives", "words.txt", "--trainer.max_steps", 1, "--trainer.default_root_dir", tmp_path)
    run = done("fit", *options("gallop"), *words)
    test = done("test", "--ckpt_path", run.checkpoint, "--trainer.default_root_dir", tmp_path)
    assert {"gallop", "neg_label"} <= set(test.report["average"])
    extra = Detector.load(run.checkpoint, "cpu").head.extra.tensors
    assert set(extra) == {"further", "negatives", "local_map"}
    assert not any(tensor.requires_grad for tensor in extra.values())  # W is a parameter itself


@pytest.mark.slow
@pytest.mark.usefixtures("there")
def test_a_detector_before_training_and_validation(tmp_path: Path) -> None:
    """Without a fit the zero-shot class prompts decide, beside the method's texts as they start."""
    folder = ("--trainer.default_root_dir", tmp_path)
    test = done("test", *options("gallop"), *folder)
    expected = ["gl_mcm", "gallop"]  # all prompts are the plain ones at first, and W is the identity
    first, second = (test.scores[f"id/{score}"] for score in expected)
    np.testing.assert_allclose(first, second, atol=1e-5)
    assert "val/outliers/auroc" in done("validate", *options("id_like"), *folder).out


@pytest.mark.slow
@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", METHODS)
def test_export(name: str, fitted: Callable[[str], Run], tmp_path: Path) -> None:
    """ONNX agrees with PyTorch, which the command checks."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    run = clipos("export", fitted(name).checkpoint, "--out", tmp_path / "d.onnx")
    assert run.code == 0, run.err
    assert (tmp_path / "d.onnx").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", METHODS)
def test_explain_and_an_image_weight(name: str, tmp_path: Path) -> None:
    """With images in the class features, and a small budget for features."""
    more = ("--model.image_weight", 0.5, "--model.feature_budget_mb", 0, "--trainer.max_epochs", 1)
    run = done("fit", *options(name), *more, "--trainer.default_root_dir", tmp_path)
    done("test", "--ckpt_path", run.checkpoint, "--trainer.default_root_dir", tmp_path)
    found = clipos("explain", run.checkpoint, "photos/test/star/0.png", "--out", tmp_path / "maps.png")
    assert found.code == 0, found.err
