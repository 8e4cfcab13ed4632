"""docs/own_classes.md, walked word for word on two sets made here: names that CLIP knows, and codes."""

import csv
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import CPU, clipos, refused

from clipos_lightning import Detector
from clipos_lightning.data.scenes import render
from clipos_lightning.evaluation.metrics import auroc

PAGE = (Path(__file__).parents[2] / "docs/own_classes.md").read_text(encoding="utf-8")
CODES = {"circle": "A12", "heart": "B47", "star": "C83"}
pytestmark = pytest.mark.slow


def code(first: str) -> str:
    """The Python block of the page that starts with a line."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return next(block for block in blocks if block.startswith(first))


def commands() -> list[str]:
    """The page's commands with their results, in its order; those that other tools take part in are left out."""
    found = [
        block.splitlines()[0].removeprefix("$ ") for block in re.findall(r"```\n(\$ clipos .*?)```", PAGE, re.DOTALL)
    ]
    return [command for command in found if not command.startswith("clipos export")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The page's example images."""
    monkeypatch.chdir(tmp_path)
    exec(compile(code("from pathlib"), "own_classes.md", "exec"), {})
    return tmp_path


def walk() -> str:
    """Run the page's commands; the checkpoint's name is that of the fit here. Returns what they printed."""
    printed, checkpoint = [], ""
    for command in commands():
        words = [re.sub(r"^runs/fit-\d+-\d+/last.ckpt$", checkpoint, word) for word in shlex.split(command)[1:]]
        extra = CPU if words[0] == "fit" else ("--num_workers", 0) if words[0] in ("calibrate", "predict") else ()
        run = clipos(*words, *extra)
        assert run.code == 0, (command, run.err)
        printed.append(run.out + run.err)
        if words[0] == "fit":
            checkpoint = run.checkpoint
    return "\n".join(printed)


def area(detector: str) -> float:
    """AUROC against the page's strangers and letters and noise, of the rows that predict writes."""
    for kind in ("letters", "noise"):
        for n in range(40):
            path = Path(f"strangers/{kind}-{n}.png")
            if not path.exists():
                from PIL import Image

                Image.fromarray(render(kind, "report", 0, n).image).save(path)
    scores = {}
    for folder in ("more", "strangers"):
        run = clipos("predict", detector, folder, "--format", "csv", "--num_workers", 0)
        scores[folder] = np.array([float(row["score"]) for row in csv.DictReader(run.lines)])
    return auroc(scores["more"], scores["strangers"])


def test_with_names_that_clip_knows(home: Path) -> None:
    printed = walk()
    assert "image weight 0, chosen on 8 views" in printed and "warning: this is close to guessing" not in printed
    assert area("detector.safetensors") > 90 and area("remembering.safetensors") > 90
    report = Detector.load("detector.safetensors", "cpu")
    labels = [report(f"mixed/{name}.png").label for name in ("0-0", "3-0", "4-0", "5-0", "5-1", "5-2")]
    assert labels == ["circle", "star", "heart", "unknown", "unknown", "unknown"]
    scope: dict[str, object] = {}
    exec(compile(code("from clipos_lightning import Detector"), "own_classes.md", "exec"), scope)
    assert isinstance(scope["detector"], Detector)


def test_with_names_that_mean_nothing(home: Path) -> None:
    for shape, name in CODES.items():
        for folder in ("photos", "more"):
            shutil.move(f"{folder}/{shape}", f"{folder}/{name}")
    printed = walk()
    assert "image weight 1, chosen on 8 views" in printed and "names and their wordings change nothing" in printed
    assert "warning: this is close to guessing" not in printed
    assert area("detector.safetensors") > 90 and area("remembering.safetensors") > 90
    detector = Detector.load("detector.safetensors", "cpu")
    labels = [detector(f"mixed/{name}.png").label for name in ("0-1", "3-1", "4-1", "5-0", "5-1", "5-2")]
    assert labels == ["A12", "C83", "B47", "unknown", "unknown", "unknown"]


def test_outputs_are_never_overwritten(home: Path) -> None:
    Path("detector.safetensors").write_bytes(b"mine")
    run = clipos("calibrate", "last.ckpt", "more")
    refused(run, "no file last.ckpt")
    assert Path("detector.safetensors").read_bytes() == b"mine"


def test_the_page_names_every_option_of_calibrate() -> None:
    from clipos_lightning.cli.calibrate import calibrate_parser

    known = {"--help", "-h", "--views", "--batch_size", "--num_workers", "--device", "--pretrained"}
    for action in calibrate_parser()._actions:
        for option in action.option_strings:
            assert option in known or option in PAGE, option
