"""The W&B dashboard without an account: runs are recorded offline with a table of results and no login prompt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from running import PHOTO_OPTIONS, Run, done

from clipos_lightning.reporting.charts import roc_points

CREDENTIALS = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR")


@pytest.fixture
def offline_runs(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, Run]:
    """fit and test with the overlay, without a login, and with a stdin that must not be read."""
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # no ~/.netrc
    monkeypatch.setenv("NETRC", str(tmp_path / "home/.netrc"))
    monkeypatch.chdir(tmp_path)

    def asked(*_: Any) -> str:
        raise AssertionError("a question was asked")

    monkeypatch.setattr("builtins.input", asked)
    overlay = ("--config", "demo.yaml", "--config", "wandb.yaml")
    options = ("--data.root", tiny_folder, *PHOTO_OPTIONS)
    fit = done("fit", *overlay, *options, "--trainer.max_steps", 2)
    wandb.finish()  # as the end of its process would
    test = done("test", "--config", "wandb.yaml", "--ckpt_path", fit.checkpoint, pictures=True)
    wandb.finish()
    return fit, test


def test_without_credentials_a_run_is_recorded_offline(offline_runs: tuple[Run, Run], tmp_path: Path) -> None:
    fit, test = offline_runs
    for run in (fit, test):
        assert "offline" in run.out
        assert list((run.folder / "wandb").glob("offline-run-*/*.wandb"))
        assert (run.folder / "metrics.csv").is_file()
    assert {p.name for p in tmp_path.iterdir()} - {"home"} == {"runs"}  # nothing of W&B's elsewhere
    tables = list((test.folder / "wandb").glob("offline-run-*/files/media/table/**/*.table.json"))
    contents = [json.loads(path.read_text()) for path in tables]
    (results,) = [content for content in contents if "detector" in content["columns"]]
    rows = [dict(zip(results["columns"], row, strict=True)) for row in results["data"]]
    report = test.report
    for detector, part in (("trained", report), ("zero-shot", report["zero_shot"])):
        for score, metrics in part["ood"]["other"].items():
            (row,) = [r for r in rows if (r["detector"], r["set"], r["score"]) == (detector, "other", score)]
            assert (row["n_id"], row["n_ood"]) == (15, 7)
            assert row["auroc"] == pytest.approx(metrics["auroc"])
            assert row["fpr95"] == pytest.approx(metrics["fpr95"])
    assert len(rows) == sum(len(part["ood"]["other"]) for part in (report, report["zero_shot"]))
    pictures = list((test.folder / "wandb").glob("offline-run-*/files/media/images/**/*.png"))
    assert len(pictures) == 2  # heat maps of the classes, worst mistakes
    (curves,) = [content for content in contents if "lineKey" in content["columns"]]
    scores, headline = test.scores, report["headline"]
    for detector, prefix in (("trained", ""), ("zero-shot", "zero_shot/")):
        points = roc_points(scores[f"{prefix}id/{headline}"], scores[f"{prefix}other/{headline}"])
        lines = [dict(zip(curves["columns"], row, strict=True)) for row in curves["data"]]
        drawn = [[line["step"], line["lineVal"]] for line in lines if line["lineKey"] == detector]
        assert np.allclose(drawn, points)
