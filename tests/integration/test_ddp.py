"""Several processes train and test as one does, to the order of sums."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import CPU, Run, clipos, done, refused, relative_difference

TWO = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
METHOD = ("--config", "demo.yaml", "--data.shots", "3", "--data.batch_size", "7", "--trainer.max_steps", "6")
LIMIT = ("--data.limit_per_set", "31", "--data.eval_batch_size", "8", "--data.ood_sets", "[new_shapes,noise]")


def two(*words: Any, folder: Path) -> Run:
    """A command in two processes; the first starts the second."""
    command = [sys.executable, "-m", "clipos_lightning", *map(str, words), *CPU, *TWO]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("CLIPOS_DATA", None)
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False)
    return Run(run.returncode, run.stdout, run.stderr)


def check_two_are_one(folder: Path, *options: str) -> None:
    """The learned context, every score of every image, and every figure of the report."""
    one = done("fit", *METHOD, *options, "--trainer.default_root_dir", folder)
    both = two("fit", *METHOD, *options, folder=folder)
    assert both.code == 0, both.err
    assert both.err == ""
    assert both.out.count("run: ") == 1
    checkpoint = folder / both.folder / "last.ckpt"
    assert len(list((folder / "runs").iterdir())) == 1  # one folder for both processes
    figures = [[line for line in run.lines if line.startswith("val/")] for run in (one, both)]
    assert figures[0] == figures[1] and len(figures[0]) == 6 * ("--data.validate" in options)
    assert relative_difference(Run(0, f"run: {checkpoint.parent}", "").context, one.context) < 1e-5
    shots = [json.loads((f / "shots.json").read_text()) for f in (one.folder, checkpoint.parent)]
    assert shots[0] == shots[1]

    alone = done("test", "--ckpt_path", checkpoint, *LIMIT, "--trainer.default_root_dir", folder)
    shared = two("test", "--ckpt_path", checkpoint, *LIMIT, folder=folder)
    assert shared.code == 0, shared.err
    assert shared.out.count("run: ") == 1
    shared.out = f"run: {folder / shared.folder}"
    assert alone.scores.keys() == shared.scores.keys()
    for name, values in alone.scores.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(shared.scores[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(shared.scores[name], values, err_msg=name)
    first, second = alone.report, shared.report
    assert first["id"]["n"] == second["id"]["n"] == 31
    assert second["id"]["accuracy"] == pytest.approx(first["id"]["accuracy"], abs=1e-3)
    for ours, theirs in ((first, second), (first["zero_shot"], second["zero_shot"])):
        for name, scores in ours["ood"].items():
            for score, metrics in scores.items():
                assert theirs["ood"][name][score] == pytest.approx(metrics, abs=1e-3)
    for name, judged in first["masks"].items():
        assert second["masks"][name] == pytest.approx(judged, abs=1e-5)


def test_two_processes_are_one(tmp_path: Path) -> None:
    check_two_are_one(tmp_path, "--data.validate", "true", "--data.limit_per_set", "20")


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--config", "locoop.yaml", "--model.context.length", "8", "--data.batch_size", "7"],
        ["--model.synthesis.level", "patch", "--model.context.learn", "own"],
        ["--model.objective", "energy", "--model.feature_budget_mb", "0"],
    ],
    ids=["locoop", "patch", "energy"],
)
def test_two_processes_are_one_whatever_the_objective(options: list[str], tmp_path: Path) -> None:
    check_two_are_one(tmp_path, *options)


@pytest.mark.slow
def test_a_process_without_a_share_does_not_hang(tiny_folder: Path, tmp_path: Path) -> None:
    """Batches of one image, a test set of one image: the second process has nothing to do, and still takes part."""
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(tiny_folder / "other/0.png", single)
    options = ("--config", "demo.yaml", "--data.root", tiny_folder, "--data.id", "folder:photos")
    options += ("--data.ood_sets", f"[folder:other,folder:{single}]", "--data.batch_size", 1, "--trainer.max_steps", 3)
    both = two("fit", *options, folder=tmp_path)
    assert both.code == 0, both.err
    one = done("fit", *options, "--trainer.default_root_dir", tmp_path)
    both.out = f"run: {tmp_path / both.folder}"
    assert relative_difference(both.context, one.context) < 1e-5
    test = two("test", "--ckpt_path", both.checkpoint, folder=tmp_path)
    assert test.code == 0, test.err
    assert test.err == ""
    test.out = f"run: {tmp_path / test.folder}"
    assert {name: scores["energy"]["n"] for name, scores in test.report["ood"].items()} == {"other": 7, "single": 1}


@pytest.mark.slow
def test_validation_by_two_processes_is_that_of_one(tiny_folder: Path, tmp_path: Path) -> None:
    options = ("--config", "demo.yaml", "--data.root", tiny_folder, "--data.id", "folder:photos")
    alone = done("validate", *options, "--data.limit_per_set", 5, "--trainer.default_root_dir", tmp_path)
    shared = two("validate", *options, "--data.limit_per_set", 5, folder=tmp_path)
    assert shared.code == 0, shared.err
    figures = [[line for line in run.lines if line.startswith("val/")] for run in (alone, shared)]
    assert figures[0] == figures[1] != []


@pytest.mark.slow
def test_an_error_ends_all_processes(tiny_folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for i in range(6):
        (broken / f"{i}.png").write_bytes(b"not an image")
    words = ("test", "--config", "demo.yaml", "--data.id", f"folder:{tiny_folder / 'photos'}")
    run = two(*words, "--data.ood_sets", f"[folder:{broken}]", folder=tmp_path)
    refused(run, "cannot read image")
    missing = two("test", "--ckpt_path", "nowhere.ckpt", folder=tmp_path)
    refused(missing, "nowhere.ckpt")
    assert clipos("configs").code == 0  # the test's own process is as it was
