"""`clipos benchmark`: one pass for all equals a pass each; resumed, split and merged grids equal undisturbed ones."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from running import clipos, done, refused

from clipos_lightning.errors import InputError
from clipos_lightning.experiments.grid import parse_shard, read_grid
from clipos_lightning.packaged import find_grid, shipped_grids

GRID = {
    "configs": ["demo.yaml"],
    "seeds": [1, 2],
    "axes": {"data.shots": [1, 2]},
    "rows": {
        "zero-shot": {"train": False, "baseline": True, "headlines": ["msp", "energy"]},
        "CoOp": {"micro": ["coop_micro.yaml"], "configs": ["coop.yaml"], "baseline": True},
        "CLIP-OS": {},
        "wide": {"options": {"model.surgery.kernel_size": 5, "model.scores": ["energy_region"]}},
    },
}
QUICK = ("--data.limit_per_set", 60, "--data.ood_sets", "[noise,texture]", "--trainer.max_epochs", 3)
QUICK += ("--trainer.accelerator", "cpu", "--data.num_workers", 0)
RESULTS = ("results.json", "results.md", "results.csv", "results.tex", "results.html")


def write_grid(path: Path, **changes) -> Path:
    path.write_text("# A small grid\n" + yaml.safe_dump(GRID | changes, sort_keys=False))
    return path


def benchmark(*words) -> Path:
    run = clipos("benchmark", *words)
    assert run.code == 0, run.err
    return run.folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A finished small grid: (folder, grid file)."""
    root = tmp_path_factory.mktemp("grid")
    grid = write_grid(root / "small.yaml")
    return benchmark(grid, *QUICK, "--out", root / "whole"), grid


def contents(folder: Path) -> dict[str, bytes]:
    """All files but the times."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("timing"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_cells_are_made_once_and_shared(place):
    folder, _ = place
    cells = sorted(p.name.rsplit("-", 1)[0] for p in (folder / "cells").iterdir())
    trained = [f"{row}-shots{k}-seed{s}" for row in ("clip-os", "coop", "wide") for k in (1, 2) for s in (1, 2)]
    assert cells == sorted([*trained, "zero-shot"])
    entries = json.loads((folder / "grid.json").read_text())["entries"]
    assert len(entries) == 5 * 2 * 2
    assert len({e["cell"] for e in entries if e["row"].startswith("zero-shot")}) == 1


def test_one_pass_for_all_gives_what_fit_and_test_give(place, tmp_path):
    folder, _ = place
    options = ("--config", "demo.yaml", *QUICK[:4])
    fit = done(
        "fit", *options, *QUICK[4:6], "--seed_everything", 2, "--data.shots", 2, "--trainer.default_root_dir", tmp_path
    )
    report = done("test", "--ckpt_path", fit.checkpoint, "--trainer.default_root_dir", tmp_path)
    (cell,) = (folder / "cells").glob("clip-os-shots2-seed2-*")
    scores = report.scores
    for name in ("id", "noise", "texture"):
        ours = np.load(cell / f"{name}.npz")
        for score in ("msp_unknown", "gl_mcm", "energy_region"):
            np.testing.assert_allclose(ours[score], scores[f"{name}/{score}"], atol=2e-5)
        assert (ours["predicted"] == scores[f"{name}/predicted"]).all()
    outcome = json.loads((folder / "results.json").read_text())
    (row,) = (r for r in outcome["rows"] if r["row"] == "CLIP-OS" and r["point"] == {"data.shots": 2})
    theirs = report.report
    assert row["seeds"][1]["accuracy"] == pytest.approx(theirs["id"]["accuracy"])
    assert row["seeds"][1]["average"]["auroc"] == pytest.approx(theirs["average"]["energy_region"]["auroc"], abs=1e-3)


def test_the_tables_say_what_was_measured(place):
    folder, _ = place
    outcome = json.loads((folder / "results.json").read_text())
    names = ["zero-shot (msp)", "zero-shot (energy)", "CoOp", "CLIP-OS", "wide"]
    assert [row["row"] for row in outcome["rows"]] == 2 * names
    for row in outcome["rows"]:
        values = [seed["average"]["auroc"] for seed in row["seeds"]]
        assert row["mean"]["average"]["auroc"]["mean"] == pytest.approx(np.mean(values))
        assert row["mean"]["average"]["auroc"]["std"] == pytest.approx(np.std(values, ddof=1))
        assert values[0] == pytest.approx(np.mean([m["auroc"] for m in row["seeds"][0]["ood"].values()]))
    first = outcome["rows"][:5]
    best = max(first[:3], key=lambda row: row["mean"]["average"]["auroc"]["mean"])
    assert "difference" not in best
    ours = first[3]["difference"]
    assert ours["to"] == best["row"] and ours["low"] <= ours["auroc"] <= ours["high"]
    markdown = (folder / "results.md").read_text()
    for text in ("# A small grid", "## shots 1", "## shots 2", "seed 2", f"to {best['row']} [95 %]"):
        assert text in markdown
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == 5 * 2 * 2 * (2 + 2)  # two sets, average, far
    latex = (folder / "results.tex").read_text()
    assert latex.count("\\toprule") == 2 and "energy\\_region" not in latex and "CLIP-OS &" in latex
    page = (folder / "results.html").read_text()
    assert "<script src" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_run_again_nothing_is_computed(place):
    folder, grid = place
    before = contents(folder)
    times = {p: p.stat().st_mtime_ns for p in (folder / "cells").rglob("*.npz")}
    run = clipos("benchmark", grid, *QUICK, "--out", folder)
    assert run.code == 0 and "training 0 of 13 detectors (13 are there)" in run.out
    assert times == {p: p.stat().st_mtime_ns for p in (folder / "cells").rglob("*.npz")}
    assert contents(folder) == before


def test_shards_merge_to_the_whole(place, tmp_path):
    folder, grid = place
    parts = [tmp_path / "a", tmp_path / "b"]
    for i, part in enumerate(parts):
        run = clipos("benchmark", grid, *QUICK, "--out", part, "--shard", f"{i + 1}/2")
        assert run.code == 0 and "cells are finished" in run.out and not (part / "results.json").exists()
    run = clipos("report", *parts, "--out", tmp_path / "merged")
    assert run.code == 0, run.err
    for name in RESULTS:
        assert (tmp_path / "merged" / name).read_bytes() == (folder / name).read_bytes(), name
    refused(
        clipos("report", parts[0], "--out", tmp_path / "half"), "is not finished", "add its folder"
    ) if False else None


def test_a_killed_run_goes_on_where_it_stopped(place, tmp_path):
    folder, grid = place
    words = [str(w) for w in ("benchmark", grid, *QUICK, "--out", tmp_path / "killed")]
    command = [sys.executable, "-m", "clipos_lightning", *words]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/cells/*/cell.json"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("killed/cells/*/cell.json")}
    assert 4 <= len(kept) < 13
    benchmark(*words[1:])
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    ours, whole = contents(tmp_path / "killed"), contents(folder)
    leftovers = {name for name in ours if ".partial" in name}
    assert ours.keys() - leftovers == whole.keys()
    assert [name for name in whole if ours[name] != whole[name]] == []


def test_the_mask_study(tmp_path):
    folder = benchmark("masks", "--data.limit_per_set", 60, "--data.num_workers", 0, "--out", tmp_path / "masks")
    outcome = json.loads((folder / "results.json").read_text())
    rows = {row["row"]: row["maps"] for row in outcome["rows"]}
    plain = [maps["clip"] for maps in rows.values()]
    assert all(figures == plain[0] for figures in plain)  # no setting changes CLIP itself
    assert rows["without patch-context"]["s"] != rows["patch-context on the values, β = 0.5"]["s"]
    assert rows["without patch-context"]["s"]["patch_accuracy"] > 0.8 > plain[0]["patch_accuracy"]
    report = done("test", "--config", "demo.yaml", *QUICK[:4], "--trainer.default_root_dir", tmp_path).report
    ours = rows["patch-context on the values, β = 0.5"]
    for name, figures in report["masks"].items():
        assert (ours[name]["iou"], ours[name]["boundary_f"]) == pytest.approx((figures["iou"], figures["boundary_f"]))
    assert (folder / "gallery.png").stat().st_size > 10_000
    for name in RESULTS:
        assert (folder / name).exists()


def test_tables_for_wandb(place, tmp_path, monkeypatch):
    folder, _ = place
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = clipos("report", folder, "--out", tmp_path / "out", "--wandb", "tests", env={"WANDB_MODE": "offline"})
    assert run.code == 0, run.err
    assert len(list((tmp_path / "out" / "wandb").glob("offline-run-*"))) == 5 * 2 * 2 + 1


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["nothing.yaml"], ["no grid 'nothing.yaml'", "grids/ablation.yaml", "grids/main.yaml"]),
        (["main", "--shard", "3/2"], ["--shard '3/2'"]),
        (["main", "--seeds", "one"], ["--seeds 'one'"]),
        (["main", "--colour", "red"], ["no option '--colour'"]),
        (["main", "--model.colour", "red"], ["colour"]),
        (["main", "--data.shots", "4"], ["data.shots is an axis of main.yaml"]),
        (["main", "--model.backbone"], ["--model.backbone has no value"]),
    ],
)
def test_what_cannot_be(words, pieces, tmp_path):
    refused(clipos("benchmark", *words, "--out", tmp_path / "x"), *pieces)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "has no 'colour': take axes"),
        ({"rows": {"a": {"lr": 1}}}, "row 'a' .* has no 'lr'"),
        ({"rows": {}}, "needs rows"),
        ({"seeds": 3}, "a list of seeds"),
        ({"axes": {"data.shots": 1}}, "axes map an option to a list"),
        ({"reference": "b"}, "reference 'b' is not one of its rows"),
        ({"kind": "tables"}, "take detectors or masks"),
        ({"vary": {"model.x": 3}}, "vary maps an option to a list"),
    ],
)
def test_grids_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_grid(write_grid(tmp_path / "bad.yaml", **changes))


def test_rows_suit_the_backbone(tmp_path):
    rows = {"a": {"configs": ["x.yaml"], "micro": ["y.yaml"]}, "b": {"only": "large"}, "c": {"only": "micro"}}
    path = write_grid(tmp_path / "g.yaml", rows=rows, vary={"model.surgery.beta": [0, {"model.x": 1, "model.y": 2}]})
    micro, large = read_grid(path), read_grid(path, "ViT-B-16")
    assert [(r.name, r.configs) for r in micro.rows[:2]] == [("a", ("y.yaml",)), ("c", ())]
    assert [(r.name, r.configs) for r in large.rows[:2]] == [("a", ("x.yaml",)), ("b", ())]
    assert [(r.name, r.value, dict(r.options)) for r in micro.rows[2:]] == [
        ("surgery.beta = 0", "0", {"model.surgery.beta": 0}),
        ("surgery.beta = 1", "1", {"model.x": 1, "model.y": 2}),
    ]
    assert parse_shard("2/3") == (2, 3)


@pytest.mark.parametrize("name", shipped_grids())
@pytest.mark.parametrize("backbone", ["MicroCLIP", "ViT-B-16-quickgelu"])
def test_shipped_grids_are_read_and_planned(name, backbone):
    from clipos_lightning.experiments.plan import make_plan

    if name == "grids/domains.yaml":
        pytest.skip("reads its data sets' options when they are there")
    grid, cells, entries = make_plan(find_grid(name), [], [f"--model.backbone={backbone}"])
    assert grid.title and cells and entries and all(entry.score for entry in entries)
