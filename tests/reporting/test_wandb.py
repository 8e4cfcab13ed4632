"""The W&B dashboard without an account: runs are recorded offline, without a login prompt, and are read back here."""

import csv
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from running import PHOTO_OPTIONS, Run, clipos, done, inside
from sklearn.metrics import precision_recall_curve
from wandb_records import OfflineRun, read_run

from clipos_lightning.cli.dashboard import SCORES
from clipos_lightning.reporting.charts import precision_recall_points, roc_points
from clipos_lightning.reporting.wandb_artifacts import fit_record
from clipos_lightning.reporting.wandb_log import MAX_CLASSES, ClassLabels, confusion_of

CREDENTIALS = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_RUN_ID", "WANDB_DIR")
TAGS = ["objective:unknown", "MicroCLIP", "photos", "1-shot"]


@dataclass
class Recorded:
    """A fit, and a test, a calibration and predictions of its detector, with what W&B recorded of them."""

    place: Path
    fit: Run
    test: Run
    fit_run: OfflineRun
    test_run: OfflineRun
    calibrate_run: OfflineRun
    predict_run: OfflineRun
    rows: str


@pytest.fixture(scope="module")
def recorded(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    """fit and test with the overlay, without a login, and with a stdin that must not be read."""
    place = tmp_path_factory.mktemp("wandb")

    def asked(*_: Any) -> str:
        raise AssertionError("a question was asked")

    with pytest.MonkeyPatch.context() as patch, inside(place):
        for name in CREDENTIALS:
            patch.delenv(name, raising=False)
        patch.setenv("HOME", str(place / "home"))  # no ~/.netrc
        patch.setenv("NETRC", str(place / "home/.netrc"))
        patch.setattr("builtins.input", asked)
        overlay = ("--config", "demo.yaml", "--config", "wandb.yaml", "--data.root", tiny_folder, *PHOTO_OPTIONS)
        fit = done("fit", *overlay, "--trainer.max_steps", 2, "--data.validate", "true")
        sets = ("--data.ood_sets", "[folder:other,same=folder:photos/test]")  # ID images as OOD ones are mistakes
        test = done("test", "--config", "wandb.yaml", "--ckpt_path", fit.checkpoint, *sets, pictures=True)
        for name in ("made", "rows"):
            Path(name).mkdir()
        images, logged = tiny_folder / "photos/test", ("--num_workers", 0, "--device", "cpu", "--wandb", "clipos")
        calibrate = clipos("calibrate", fit.checkpoint, images, "--out", "made/detector.safetensors", *logged)
        predict = clipos("predict", "made/detector.safetensors", images, "--out", "rows/rows.csv", *logged)
        assert (calibrate.code, predict.code) == (0, 0), calibrate.err + predict.err
        wandb.teardown()
        runs = [read_run(place / folder) for folder in (fit.folder, test.folder, "made", "rows")]
        yield Recorded(place, fit, test, *runs, calibrate.out + predict.out)


def test_without_credentials_a_run_is_recorded_offline(recorded: Recorded) -> None:
    for run in (recorded.fit, recorded.test):
        assert "offline" in run.out
        assert (recorded.place / run.folder / "metrics.csv").is_file()
    names = {p.name for p in recorded.place.iterdir()}
    assert names - {"home"} == {"runs", "made", "rows"}  # nothing of W&B's elsewhere
    assert not list((recorded.place / "home").rglob("*.ckpt"))  # no copies of artifacts


def test_job_type_tags_group_and_summary(recorded: Recorded) -> None:
    fit, test = recorded.fit_run, recorded.test_run
    assert (fit.fields.job_type, test.fields.job_type) == ("fit", "test")
    assert fit.tags == test.tags == TAGS
    assert fit.fields.run_group == test.fields.run_group
    assert fit.fields.run_group.startswith("photos unknown 1-shot ")
    metrics = (recorded.place / recorded.fit.folder / "metrics.csv").read_text().splitlines()
    header, *lines = [line.split(",") for line in metrics]
    for name, best in (("val/accuracy", max), ("val/outliers/auroc", max), ("val/outliers/fpr95", min)):
        values = [float(line[header.index(name)]) for line in lines if line[header.index(name)]]
        assert len(values) == 2
        assert fit.summary[name] == {best.__name__: pytest.approx(best(values), abs=1e-4)}
    with inside(recorded.place):
        report = recorded.test.report
    assert test.summary["id/accuracy"] == pytest.approx(report["id"]["accuracy"])
    assert test.summary["average/energy/auroc"] == pytest.approx(report["average"]["energy"]["auroc"])


def test_the_detector_is_an_artifact_and_the_test_names_its_run(recorded: Recorded) -> None:
    fit, test = recorded.fit_run, recorded.test_run
    run_id = fit.fields.run_id
    assert fit.artifacts == {"detector": ["config.yaml", "last.ckpt", "shots.json"]}
    assert fit.aliases == {"latest", f"run-{run_id}"}
    assert test.artifacts == {} and test.config["fit_run"] == f"clipos/{run_id}"
    assert test.fields.notes == f"test of the detector of clipos/{run_id}"
    record = fit_record(recorded.place / recorded.fit.checkpoint)
    assert record is not None and (record["run"], record["entity"]) == (run_id, None)


def test_calibrate_and_predict_use_and_make_a_detector(recorded: Recorded) -> None:
    calibrate, predict = recorded.calibrate_run, recorded.predict_run
    assert (calibrate.fields.job_type, predict.fields.job_type) == ("calibrate", "predict")
    assert calibrate.tags == predict.tags == ["MicroCLIP"]
    assert calibrate.fields.run_group == recorded.fit_run.fields.run_group
    assert calibrate.config["fit_run"] == f"clipos/{recorded.fit_run.fields.run_id}"
    assert calibrate.artifacts == {"detector": ["detector.safetensors"]} and predict.artifacts == {}
    digest = hashlib.sha256((recorded.place / "made/detector.safetensors").read_bytes()).hexdigest()
    assert calibrate.config["made_sha256"] == predict.config["detector_sha256"] == digest
    assert calibrate.summary["recall"] == 0.95 and calibrate.summary["point.n"] == 15
    rows = list(csv.DictReader((recorded.place / "rows/rows.csv").open()))
    unknown = sum(float(row["score"]) < float(row["threshold"]) for row in rows)
    figures = {name: predict.summary[name] for name in ("images", "unknown", "unreadable")}
    assert figures == {"images": 15, "unknown": unknown, "unreadable": 0}
    assert "W&B" not in recorded.rows  # its messages are on stderr


def test_the_results_table(recorded: Recorded) -> None:
    (rows,) = recorded.test_run.tables("detector")
    with inside(recorded.place):
        report = recorded.test.report
    for detector, part in (("trained", report), ("zero-shot", report["zero_shot"])):
        for name, n_ood in (("other", 7), ("same", 15)):
            for score, metrics in part["ood"][name].items():
                (row,) = [r for r in rows if (r["detector"], r["set"], r["score"]) == (detector, name, score)]
                assert (row["n_id"], row["n_ood"]) == (15, n_ood)
                assert row["auroc"] == pytest.approx(metrics["auroc"])
                assert row["fpr95"] == pytest.approx(metrics["fpr95"])
    assert len(rows) == sum(2 * len(part["ood"]["other"]) for part in (report, report["zero_shot"]))


def test_curves_confusion_and_pictures(recorded: Recorded) -> None:
    with inside(recorded.place):
        scores, headline = recorded.test.scores, recorded.test.report["headline"]
    drawn = [curve for curve in recorded.test_run.tables("lineKey")]
    for points_of in (roc_points, precision_recall_points):
        for detector, prefix in (("trained", ""), ("zero-shot", "zero_shot/")):
            points = points_of(scores[f"{prefix}id/{headline}"], scores[f"{prefix}other/{headline}"])
            lines = [[[r["step"], r["lineVal"]] for r in rows if r["lineKey"] == detector] for rows in drawn]
            assert any(len(line) == len(points) and np.allclose(line, points) for line in lines)
    (confusion,) = recorded.test_run.tables("nPredictions")
    true, predicted = scores["id/labels"], scores["id/predicted"]
    assert sum(row["nPredictions"] for row in confusion) == len(true)
    right = sum(row["nPredictions"] for row in confusion if row["Actual"] == row["Predicted"])
    assert right == (true == predicted).sum()
    pictures = list((recorded.test_run.folder / "files/media/images/pictures").glob("*.png"))
    assert len(pictures) == 2  # heat maps of the classes, worst mistakes


def test_the_table_of_mistakes(recorded: Recorded) -> None:
    with inside(recorded.place):
        scores, report = recorded.test.scores, recorded.test.report
    threshold, headline = report["operating"]["threshold"], report["headline"]
    expected = {}
    for name in ("id", "other", "same"):
        for i, key in enumerate(scores[f"{name}/paths"]):
            accepted = scores[f"{name}/{headline}"][i] >= np.float32(threshold)
            wrong = name == "id" and scores["id/labels"][i] != scores["id/predicted"][i]
            if name != "id" and accepted:
                expected[name, str(key)] = "accepted OOD"
            elif name == "id" and not accepted:
                expected[name, str(key)] = "rejected ID"
            elif wrong:
                expected[name, str(key)] = "accepted, wrong class"
    (rows,) = recorded.test_run.tables("decision")
    assert len(rows) >= 6 and all(expected[row["set"], row["name"]] == row["decision"] for row in rows)
    assert {key for key in expected if key[0] == "id"} <= {(row["set"], row["name"]) for row in rows}
    assert all((row["class"] is None) == (row["set"] != "id") for row in rows)
    pictures = [name for name in recorded.test_run.table_files["mistakes"] if name.endswith(".png")]
    assert len(pictures) == 2 * len(rows)  # image and map


def test_the_dashboard_shows_what_runs_log(recorded: Recorded) -> None:
    pytest.importorskip("wandb_workspaces")
    from clipos_lightning.reporting import wandb_dashboard

    logged = recorded.fit_run.history | recorded.test_run.history | {*recorded.test_run.summary}
    logged |= {
        f"{name}.{kind}" for name, best in recorded.fit_run.summary.items() if isinstance(best, dict) for kind in best
    }
    parts = wandb_dashboard.dashboard_parts(SCORES)
    shown = {name for part in parts for panel in part.panels for name in shown_by(panel)}
    assert shown <= logged and len(shown) > 15
    options = {name for name in wandb_dashboard.SWEPT if not has_option(recorded.fit_run.config, name)}
    assert not options


def shown_by(panel: Any) -> Iterator[str]:
    """The keys that a panel of W&B shows."""
    given = [value for name in ("y", "metrics", "media_keys") for value in as_list(getattr(panel, name, None))]
    given += [getattr(panel, name, None) for name in ("x", "with_respect_to", "table_name")]
    given += [column.metric for column in getattr(panel, "columns", [])]
    names = [getattr(item, "name", item) for item in given if item and type(item).__name__ != "Config"]
    return iter(names)


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def has_option(config: dict[str, Any], name: str) -> bool:
    """Whether a configuration of nested mappings has an option with dots."""
    first, _, rest = name.partition(".")
    return first in config and (not rest or has_option(config[first], rest))


def test_precision_and_recall_are_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    inside_scores, outside = generator.normal(1, 1, 30).round(1), generator.normal(0, 1, 20).round(1)
    labels = np.append(np.ones(30), np.zeros(20))
    precision, recall, _ = precision_recall_curve(labels, np.append(inside_scores, outside))
    points = np.round(500 * np.stack([recall, precision], 1)[::-1]) / 5
    distinct = points[np.append(True, (np.diff(points, axis=0) != 0).any(1))]
    assert np.allclose(precision_recall_points(inside_scores, outside), distinct)


def test_a_confusion_matrix_of_many_classes_is_left_out() -> None:
    names = [f"class {i}" for i in range(MAX_CLASSES + 1)]
    labels = np.arange(len(names))
    assert confusion_of(ClassLabels(names, labels, labels)) == {}
    assert "confusion" in confusion_of(ClassLabels(names[1:], labels[1:] - 1, labels[1:] - 1))


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"wandb": 3}', '{"wandb": {"project": "p"}}', '{"wandb": {"project": 1, "run": "x"}}', "{"]
)
def test_a_damaged_record_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "provenance.json").write_text(text)
    assert fit_record(tmp_path / "last.ckpt") is None
    record = {"wandb": {"project": "p", "run": "x", "entity": None}}
    (tmp_path / "provenance.json").write_text(json.dumps(record))
    assert fit_record(tmp_path / "last.ckpt") == record["wandb"]
