"""Checkpoints and detectors changed at random: finite scores, or one line; never another error, and no file is lost."""

import csv
import io
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import changed, damaged, fewer, mostly
from hypothesis import given
from hypothesis import strategies as st
from running import CPU, Run, clipos, done, save_noise
from safetensors.torch import load_file, save

from clipos_lightning.detector.file import KEY, read_detector

pytestmark = pytest.mark.badinput
FIT = ("--config", "demo.yaml", "--trainer.max_steps", 1, "--data.validate", "false")
SMALL = ("--data.limit_per_set", 6, "--data.ood_sets", "[noise]")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.png, b.png, a checkpoint of one step, and a calibrated detector with a memory."""
    home = tmp_path_factory.mktemp("home")
    for i, name in enumerate(("a.png", "b.png")):
        save_noise(home / name, i)
    run = done("fit", *FIT, "--model.score", "knn", "--trainer.default_root_dir", home)
    Path(run.checkpoint).rename(home / "last.ckpt")
    words = ("calibrate", home / "last.ckpt", "--threshold", 1, "--out", home / "detector.safetensors")
    assert clipos(*words, "--num_workers", 0).code == 0
    return home


def check_run(run: Run, started_with: bytes, file: Path) -> Run:
    """A run that ended well, or with one line; the file is as it was."""
    assert run.code in (0, 2), run.err
    assert "Traceback" not in run.err
    if run.code == 2:
        assert run.err.startswith("clipos: error: ") and run.err.strip().isprintable(), run.err
    assert file.read_bytes() == started_with
    return run


def check_predict(file: Path, home: Path) -> None:
    """Rows with finite scores, or one line."""
    run = check_run(
        clipos("predict", file, home / "a.png", home / "b.png", "--num_workers", 0), file.read_bytes(), file
    )
    rows = list(csv.DictReader(io.StringIO(run.out))) if run.code == 0 else []
    for row in rows:
        assert math.isfinite(float(row["score"])) and 0 <= float(row["probability"]) <= 1


# ---- checkpoints


def checkpoint_files(home: Path) -> st.SearchStrategy[bytes]:
    """The checkpoint with other parts, often of the record and the options, or damaged."""
    valid = torch.load(home / "last.ckpt", weights_only=True)
    parts = st.sampled_from([(), ("clipos",), ("hyper_parameters",), ("state_dict",), ("datamodule_hyper_parameters",)])
    return mostly(
        parts.flatmap(lambda below: changed(valid, tensors=True, below=below)).map(as_checkpoint),
        damaged((home / "last.ckpt").read_bytes()),
    )


def as_checkpoint(value: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@given(data=st.data())
def test_checkpoints_in_predict(data: st.DataObject, home: Path, tmp_path: Path) -> None:
    data.draw(checkpoint_files(home).map((tmp_path / "x.ckpt").write_bytes))
    check_predict(tmp_path / "x.ckpt", home)


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
@fewer(12)
@given(data=st.data())
def test_checkpoints_in_training_and_tests(command: str, data: st.DataObject, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.ckpt"
    data.draw(checkpoint_files(home).map(file.write_bytes))
    steps = ("--trainer.max_steps", 2, *SMALL[2:]) if command == "fit" else SMALL
    words = (command, "--ckpt_path", file, *steps, *CPU, "--trainer.default_root_dir", tmp_path / "runs")
    check_run(clipos(*words), file.read_bytes(), file)


# ---- detectors


def detector_files(home: Path) -> st.SearchStrategy[bytes]:
    """The detector with another record or other tensors, or damaged."""
    path = home / "detector.safetensors"
    tensors, record = load_file(path), read_detector(path)[1]
    records = changed(record).map(lambda one: (tensors, one))
    others = changed(tensors, tensors=True).map(lambda one: (one, record))
    return mostly(st.one_of(records, records, others).map(as_detector), damaged(path.read_bytes()))


def as_detector(parts: tuple[Any, Any]) -> bytes:
    """The tensors that the format can hold, and the record as JSON."""
    tensors = parts[0] if isinstance(parts[0], dict) else {}
    dense = {
        name.encode("utf-8", "replace").decode(): tensor.detach().contiguous().clone()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor) and not tensor.is_sparse
    }
    return save(dense, {KEY: json.dumps(parts[1])})


@given(data=st.data())
def test_detectors(data: st.DataObject, home: Path, tmp_path: Path) -> None:
    data.draw(detector_files(home).map((tmp_path / "x.safetensors").write_bytes))
    check_predict(tmp_path / "x.safetensors", home)


def test_the_files_are_right_before_they_are_changed(home: Path) -> None:
    for name in ("last.ckpt", "detector.safetensors"):
        run = clipos("predict", home / name, home / "a.png", "--num_workers", 0)
        assert run.code == 0 and len(run.lines) == 2, run.err
