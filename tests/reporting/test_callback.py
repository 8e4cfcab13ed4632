"""The command that a report offers: for the tested checkpoint, only if a threshold of its own score is shown."""

import re
import shlex
from pathlib import Path

import pytest
from running import clipos, done

from clipos_lightning.detector.detector import Detector

QUICK = ("--data.limit_per_set", 40, "--data.ood_sets", "[noise]")


def test_the_report_names_the_command_for_its_threshold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = done("fit", "--config", "demo.yaml", "--trainer.max_steps", 1)
    test = done("test", "--ckpt_path", fit.checkpoint, *QUICK)
    assert test.report["run"]["checkpoint"] == fit.checkpoint
    page = (test.folder / "report.html").read_text(encoding="utf-8")
    (command,) = re.findall(r'<code id="command"[^>]*>([^<]*)</code>', page)
    assert shlex.split(command)[1:4] == ["calibrate", fit.checkpoint, "--threshold"]
    run = clipos(*shlex.split(command)[1:])
    assert run.code == 0, run.err
    detector = Detector.load("detector.safetensors", "cpu")
    assert detector.threshold == pytest.approx(test.report["operating"]["threshold"], rel=1e-8)
    assert detector.score == test.report["headline"]


def test_no_command_for_another_score_or_without_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fit = done("fit", "--config", "demo.yaml", "--trainer.max_steps", 1)
    for run in (
        done("test", "--ckpt_path", fit.checkpoint, "--model.score", "mcm", *QUICK),
        done("test", "--config", "demo.yaml", *QUICK),
    ):
        assert run.report["run"]["checkpoint"] is None
        assert 'id="command"' not in (run.folder / "report.html").read_text(encoding="utf-8")
