"""``clipos rerun``: a run again from its folder, with the same numbers."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from running import CPU, Run, clipos, done, refused

from clipos_lightning.cli.rerun import compare, largest_gap

QUICK = ("--data.ood_sets", "[noise]", "--data.limit_per_set", 10)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return done("fit", "--config", "demo.yaml", "--trainer.max_steps", 2)


def test_fit_and_test_again_give_the_same_numbers(fit: Run) -> None:
    test = done("test", "--ckpt_path", fit.checkpoint, *QUICK)
    for run, file in ((fit, "last.ckpt"), (test, "scores.npz")):
        again = clipos("rerun", run.folder)
        assert again.code == 0, again.err
        line = next(line for line in again.lines if line.startswith(file))
        assert line.endswith("identical") and int(line.split()[1].replace(",", "")) > 100
        assert again.lines[-1].startswith(f"the same numbers: {run.folder} and runs/")


def test_other_numbers_are_an_error_that_names_them(fit: Run) -> None:
    saved = torch.load(fit.checkpoint, weights_only=True)
    saved["state_dict"]["prompts.context"][0, 0] += 0.5
    torch.save(saved, fit.checkpoint)
    provenance = fit.folder / "provenance.json"
    recorded = json.loads(provenance.read_text())
    assert recorded["command"].startswith("clipos fit --config demo.yaml")
    provenance.write_text(json.dumps(recorded | {"versions": {"torch": "1.0"}}))
    again = clipos("rerun", fit.folder)
    assert again.code == 2
    note, error = again.err.strip().splitlines()
    assert note.startswith("note: other versions than in the run: torch 1.0 → ")
    assert "1 of the numbers in" in error and "last.ckpt prompts.context (0.5)" in error
    assert clipos("rerun", fit.folder, "--tolerance", "0.6").code == 0


def test_options_of_the_command_may_follow(fit: Run) -> None:
    assert "prompts.context" in clipos("rerun", fit.folder, "--trainer.max_steps", 1, *CPU).err


def test_what_is_not_a_run(tmp_path: Path) -> None:
    refused(clipos("rerun", tmp_path / "none"), "rerun: no folder")
    (tmp_path / "fit-1").mkdir()
    refused(clipos("rerun", tmp_path / "fit-1"), "the run did not finish")
    (tmp_path / "fit-1/metrics.csv").write_text("train/loss\n1\n")
    refused(clipos("rerun", tmp_path / "fit-1"), "it has no config.yaml")
    (tmp_path / "fit-1/grid.json").touch()
    refused(clipos("rerun", tmp_path / "fit-1"), "of a benchmark")


def test_differences() -> None:
    ones = np.ones(3)
    assert largest_gap(ones, ones) == 0
    assert largest_gap(ones, np.ones(2)) == largest_gap(ones, np.array([1, np.nan, 1])) == float("inf")
    assert largest_gap(np.array([2, 5]), np.array([2, 3])) == 2
    before = {"a": {"x": ones, "y": ones}, "b": {"z": ones}}
    assert compare(before, {"a": {"x": ones, "y": ones + 0.25, "new": ones}}, 0.0) == [
        *("a new (inf)", "b z (inf)", "a y (0.25)"),
    ]
