"""`clipos benchmark`: one pass for all equals one pass each; resumed, split and merged grids equal whole ones."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from running import clipos, done, refused

from clipos_lightning.clip import loading, weight_checks
from clipos_lightning.errors import InputError
from clipos_lightning.experiments.grid import parse_shard, read_grid
from clipos_lightning.options.configs import find_grid, shipped_grids

GRID = {
    "configs": ["scenes_1shot_micro.yaml"],
    "seeds": [1, 2],
    "axes": {"data.shots": [1, 2]},
    "rows": {
        "zero-shot": {"train": False, "baseline": True, "headlines": ["msp", "energy"]},
        "CoOp": {"micro": ["coop_micro.yaml"], "configs": ["coop.yaml"], "baseline": True},
        "CLIP-OS": {},
        "the same again": {},
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
    """All files except those with times."""
    files = (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("timing"))
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in files}


def test_runs_are_made_once_and_shared(place):
    folder, _ = place
    runs = sorted(p.name.rsplit("-", 1)[0] for p in (folder / "runs").iterdir())
    trained = [f"{row}-shots{k}-seed{s}" for row in ("clip-os", "coop", "wide") for k in (1, 2) for s in (1, 2)]
    assert runs == sorted([*trained, "zero-shot"])
    entries = json.loads((folder / "grid.json").read_text())["entries"]
    assert len(entries) == 6 * 2 * 2
    assert len({e["run"] for e in entries if e["row"] == "zero-shot"}) == 1


def test_a_missing_test_set_is_an_error_before_anything_is_trained(place, tmp_path):
    _, grid = place
    none = ("--data.root", tmp_path, "--data.ood_sets", "[noise,svhn]")
    run = clipos("benchmark", grid, *QUICK, *none, "--out", tmp_path / "out")
    refused(run, f"clipos data download svhn --root {tmp_path}")
    assert not (tmp_path / "out/runs").exists()


def test_one_pass_for_all_gives_what_fit_and_test_give(place, tmp_path):
    folder, _ = place
    options = ("--config", "scenes_1shot_micro.yaml", *QUICK[:4])
    fit = done(
        "fit", *options, *QUICK[4:6], "--seed_everything", 2, "--data.shots", 2, "--trainer.default_root_dir", tmp_path
    )
    report = done("test", "--ckpt_path", fit.checkpoint, "--trainer.default_root_dir", tmp_path)
    (run,) = (folder / "runs").glob("clip-os-shots2-seed2-*")
    scores = report.scores
    for name in ("id", "noise", "texture"):
        ours = np.load(run / f"{name}.npz")
        for score in ("msp_unknown", "gl_mcm", "energy_region"):
            np.testing.assert_allclose(ours[score], scores[f"{name}/{score}"], atol=2e-5)
        assert (ours["predicted"] == scores[f"{name}/predicted"]).all()
    outcome = json.loads((folder / "results.json").read_text())
    (row,) = (r for r in outcome["grid_points"][1]["rows"] if r["row"] == "CLIP-OS")
    theirs = report.report
    assert row["seeds"][1]["accuracy"] == pytest.approx(theirs["id"]["accuracy"])
    assert row["seeds"][1]["average"]["auroc"] == pytest.approx(theirs["average"]["energy_region"]["auroc"], abs=1e-3)


def test_the_tables_say_what_was_measured(place):
    folder, _ = place
    outcome = json.loads((folder / "results.json").read_text())
    names = ["zero-shot (msp)", "zero-shot (energy)", "CoOp", "CLIP-OS", "the same again", "wide"]
    assert [[row["name"] for row in point["rows"]] for point in outcome["grid_points"]] == [names, names]
    for row in (row for point in outcome["grid_points"] for row in point["rows"]):
        values = [seed["average"]["auroc"] for seed in row["seeds"]]
        assert row["mean"]["average"]["auroc"]["mean"] == pytest.approx(np.mean(values))
        assert row["mean"]["average"]["auroc"]["std"] == pytest.approx(np.std(values, ddof=1))
        assert values[0] == pytest.approx(np.mean([m["auroc"] for m in row["seeds"][0]["ood"].values()]))
    first = outcome["grid_points"][0]["rows"]
    best = max(first[:3], key=lambda row: row["mean"]["average"]["auroc"]["mean"])
    assert "difference" not in best
    ours = first[3]["difference"]
    assert ours["to"] == best["name"] and ours["low"] <= ours["auroc"] <= ours["high"]
    assert first[4]["difference"] == ours
    markdown = (folder / "results.md").read_text()
    limited = "# A small grid — at most 60 images per set, not a full run"
    for text in (limited, "## shots 1", "## shots 2", "seed 2", f"to {best['name']} [95 %]", "noise (n 60)"):
        assert text in markdown
    rows = list(csv.DictReader((folder / "results.csv").open()))
    assert len(rows) == 6 * 2 * 2 * (2 + 2)  # two sets, average, far
    assert {(row["n_id"], row["n_ood"]) for row in rows} == {("60", "60"), ("60", "")}
    latex = (folder / "results.tex").read_text()
    assert latex.count("\\toprule") == 2 and "CLIP-OS & energy\\_region &" in latex
    assert "\\label{tab:small-shots-2}" in latex and "multicolumn{2}{c}{noise}" not in latex
    page = (folder / "results.html").read_text()
    assert "<script src" not in page and "http://" not in page.replace("http://www.w3.org", "")


def test_the_terminal_shows_the_main_tables_and_everything_if_verbose(place, tmp_path):
    folder, _ = place
    outcome = json.loads((folder / "results.json").read_text())
    run = clipos("report", folder, "--out", tmp_path / "out")
    heads = [line.split("  ") for line in run.lines if line.strip().startswith("method ")]
    assert [[word.strip() for word in head if word.strip()] for head in heads] == [
        ["method", "score", f"Δ AUROC to {reference_of(point)}", "AUROC ↑", "FPR95 ↓", "ID accuracy ↑"]
        for point in outcome["grid_points"]
    ]
    assert "noise (n 60)" not in run.out and "--verbose" in run.out
    mean = outcome["grid_points"][0]["rows"][2]["mean"]
    (line,) = [line for line in run.lines if line.startswith("  CoOp ")][:1]
    for spread in (mean["average"]["auroc"], mean["average"]["fpr95"], mean["accuracy"]):
        assert f"{spread['mean']:.1f} ± {spread['std']:.1f}" in line
    run = clipos("report", folder, "--out", tmp_path / "out", "--verbose", "--latex", "sets")
    assert run.out.count("noise (n 60)") == 4 and "energy_region_unknown" in run.out and "--verbose" not in run.out
    assert "multicolumn{2}{c}{noise}" in (tmp_path / "out" / "results.tex").read_text()


def reference_of(grid_point):
    """The row that the others of a grid point are compared with."""
    (name,) = {row["difference"]["to"] for row in grid_point["rows"] if "difference" in row}
    return name


def test_a_detector_against_itself_differs_by_nothing(place, tmp_path):
    folder, grid = place
    own = write_grid(tmp_path / "small.yaml", reference="CLIP-OS")
    outcome = json.loads((benchmark(own, *QUICK, "--out", folder) / "results.json").read_text())
    (row,) = (r for r in outcome["grid_points"][0]["rows"] if r["name"] == "the same again")
    assert (row["difference"]["auroc"], row["difference"]["low"], row["difference"]["high"]) == (0, 0, 0)
    benchmark(grid, *QUICK, "--out", folder)


def test_what_changes_the_result_changes_the_run(tmp_path):
    from clipos_lightning.experiments.plan import make_plan

    def ids(*flags: str, **changes) -> set[str]:
        grid = write_grid(tmp_path / "g.yaml", rows={"CLIP-OS": {}}, axes={}, seeds=[1], **changes)
        return {run.id for run in make_plan(grid, [], flags)[1]}

    usual = ids()
    for flag in ("--data.root=/elsewhere", "--trainer.accelerator=cpu", "--data.num_workers=0", "--data.cache=false"):
        assert ids(flag) == usual
    for flag in ("--trainer.limit_train_batches=1", "--trainer.precision=bf16-mixed", "--model.template=my {}"):
        assert not ids(flag) & usual
    for option in ("--model.pretrained", "--data.class_names"):
        file = tmp_path / "file.yaml"
        found = []
        for text in ("circle: disc", "circle: round"):
            file.write_text(text)
            found.append(ids(f"{option}={file}"))
        other = tmp_path / "other.yaml"
        other.write_text(text)
        assert not found[0] & found[1] and ids(f"{option}={other}") == found[1]


def test_equal_detectors_are_made_once_whatever_they_are_called(tmp_path):
    from clipos_lightning.experiments.plan import make_plan

    rows = {"a": {}, "b": {"options": {"model.surgery.beta": 0.5}}, "c": {"options": {"model.surgery.beta": 0.1}}}
    runs, entries = make_plan(write_grid(tmp_path / "g.yaml", rows=rows, axes={}), [], [])[1:]
    assert [run.id.rsplit("-", 1)[0] for run in runs] == [f"{n}-shots1-seed{s}" for n in "ac" for s in (1, 2)]
    assert [e.run for e in entries if e.row == "a"] == [e.run for e in entries if e.row == "b"]


def test_rows_that_do_not_follow_a_flag_are_named(tmp_path):
    from clipos_lightning.experiments.plan import overridden_flags

    grid, flags = write_grid(tmp_path / "g.yaml"), ["--model.optimizer.init_args.lr=1", "--data.shots=2"]
    lines = overridden_flags(grid, [], flags)
    assert lines == ["note: row 'CoOp' keeps its own model.optimizer.init_args.lr 0.005"]


def test_run_again_nothing_is_computed(place):
    folder, grid = place
    before = contents(folder)
    times = {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.npz")}
    run = clipos("benchmark", grid, *QUICK, "--out", folder)
    assert run.code == 0 and "training 0 of 13 detectors (13 already trained)" in run.out
    assert times == {p: p.stat().st_mtime_ns for p in (folder / "runs").rglob("*.npz")}
    assert contents(folder) == before


def test_shards_merge_to_the_whole(tmp_path):
    grid = write_grid(tmp_path / "small.yaml", rows={"zero-shot": {"train": False}, "CLIP-OS": {}}, axes={})
    folder = benchmark(grid, *QUICK, "--out", tmp_path / "whole")
    parts = [tmp_path / "a", tmp_path / "b"]
    for i, part in enumerate(parts):
        run = clipos("benchmark", grid, *QUICK, "--out", part, "--shard", f"{i + 1}/2")
        assert run.code == 0 and "runs are finished" in run.out and not (part / "results.json").exists()
    run = clipos("report", *parts, "--out", tmp_path / "merged")
    assert run.code == 0, run.err
    for name in RESULTS:
        assert (tmp_path / "merged" / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(place, tmp_path):
    folder, grid = place
    words = [str(w) for w in ("benchmark", grid, *QUICK, "--out", tmp_path / "killed")]
    command = [sys.executable, "-m", "clipos_lightning", *words]
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.glob("killed/runs/*/run.json"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in tmp_path.glob("killed/runs/*/run.json")}
    assert 4 <= len(kept) < 13
    benchmark(*words[1:])
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    ours, whole = contents(tmp_path / "killed"), contents(folder)
    leftovers = {name for name in ours if ".partial" in name}
    assert ours.keys() - leftovers == whole.keys()
    assert [name for name in whole if ours[name] != whole[name]] == []


@pytest.mark.slow
def test_the_mask_study(tmp_path):
    folder = benchmark("masks", "--data.limit_per_set", 30, "--data.num_workers", 0, "--out", tmp_path / "masks")
    outcome = json.loads((folder / "results.json").read_text())
    rows = {row["row"]: row["maps"] for row in outcome["rows"]}
    plain = [maps["clip"] for maps in rows.values()]
    for kind in ("clip", "locoop", "mambo", "mambo_unknown", "fobor", "attention"):
        assert len({json.dumps(maps[kind]) for maps in rows.values()}) == 1  # no setting changes CLIP itself
    assert rows["without patch-context"]["s"] != rows["patch-context on the values, β = 0.5"]["s"]
    assert rows["without patch-context"]["s"]["patch_accuracy"] > 0.8 > plain[0]["patch_accuracy"]
    words = (
        "test",
        "--config",
        "scenes_1shot_micro.yaml",
        "--data.limit_per_set",
        30,
        *QUICK[2:4],
        "--trainer.default_root_dir",
        tmp_path,
    )
    options = {"patch-context on the values, β = 0.5": "false", "feature surgery (Li et al.)": "true"}
    for row, value in options.items():
        report = done(*words, "--model.mask.feature_surgery", value).report
        for name, figures in report["masks"].items():
            ours = rows[row][name]
            assert (ours["iou"], ours["boundary_f"]) == pytest.approx((figures["iou"], figures["boundary_f"]))
    assert len({maps["s"]["iou"] for maps in rows.values()}) == len(rows)
    assert (folder / "gallery.png").stat().st_size > 10_000
    again = benchmark("masks", "--data.limit_per_set", 30, "--data.num_workers", 0, "--out", folder)
    assert json.loads((again / "results.json").read_text()) == outcome
    refused(clipos("report", folder), "nothing to merge")
    for name in RESULTS:
        assert (folder / name).exists()


def test_equal_rows_of_a_mask_study_are_one_run_and_its_words_are_the_methods(tmp_path):
    (tmp_path / "names.yaml").write_text("'0': [circle, disc]\n_templates: ['a {}.', 'one {}, {curly}.']\n")
    grid = {
        "kind": "masks",
        "configs": ["scenes_1shot_micro.yaml"],
        "rows": {"a": {}, "b": {}},
        "vary": {"model.surgery.beta": [0, 0.5]},
    }
    (tmp_path / "g.yaml").write_text(yaml.safe_dump(grid))
    words = ("--data.class_names", tmp_path / "names.yaml", *QUICK[:4], "--data.num_workers", 0)
    folder = benchmark(tmp_path / "g.yaml", *words, "--out", tmp_path / "out")
    rows = {row["row"]: row["maps"] for row in json.loads((folder / "results.json").read_text())["rows"]}
    assert list(rows) == ["a", "b", "surgery.beta = 0", "surgery.beta = 0.5"]
    assert rows["a"] == rows["b"] == rows["surgery.beta = 0.5"] != rows["surgery.beta = 0"]
    report = done(
        "test", "--config", "scenes_1shot_micro.yaml", *words[:6], "--trainer.default_root_dir", tmp_path
    ).report
    for name, figures in report["masks"].items():
        assert rows["a"][name]["iou"] == pytest.approx(figures["iou"])


@pytest.mark.parametrize("kind", ["detectors", "masks"])
def test_weights_whose_activation_is_unknown_are_noted_once(kind, tmp_path, monkeypatch):
    """MicroCLIP's file does not tell its activation; here open_clip seems to have the model with the other one, too."""
    monkeypatch.setattr(loading, "load_clip", loading.load_clip.__wrapped__)  # the file is read
    monkeypatch.setattr(weight_checks, "other_activation", lambda name: f"{name}-quickgelu")
    rows = {"zero-shot": {"train": False}} if kind == "detectors" else {"one": {}}
    grid = {"kind": kind, "configs": ["scenes_1shot_micro.yaml"], "rows": rows}
    (tmp_path / "g.yaml").write_text(yaml.safe_dump({k: v for k, v in grid.items() if v != "detectors"}))
    sets = () if kind == "masks" else QUICK[2:4]
    options = ("--data.limit_per_set", 20, *sets, "--data.num_workers", 0)
    run = clipos("benchmark", tmp_path / "g.yaml", *options, "--out", tmp_path / "out")
    assert run.code == 0, run.err
    assert run.err.count("does not tell its activation: MicroCLIP uses GELU") == 1


def test_tables_for_wandb(place, tmp_path, monkeypatch):
    folder, _ = place
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))  # nobody is logged in: recorded offline
    run = clipos("report", folder, "--out", tmp_path / "out", "--wandb", "tests")
    assert run.code == 0, run.err
    assert len(list((tmp_path / "out" / "wandb").glob("offline-run-*"))) == 6 * 2 * 2 + 1


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (["nothing.yaml"], ["no grid 'nothing.yaml'", "ablation.yaml", "main.yaml"]),
        (["maim"], ["Did you mean 'main.yaml'?"]),
        (["main", "--shard", "3/2"], ["--shard '3/2'"]),
        (["main", "--seeds", "one"], ["--seeds 'one'"]),
        (["main", "--colour", "red"], ["--colour"]),
        (["main", "--model.colour", "red"], ["colour"]),
        (["main", "--data.shots", "4"], ["data.shots is an axis of main"]),
        (["main", "--model.backbone"], ["--model.backbone needs a value"]),
        (["main", "--seeds", "1,1"], ["--seeds '1,1'", "different"]),
        (["main", "--trainer.precision", "16-true"], ["16-true: scores are fp32"]),
        (["masks", "--shard", "1/2"], ["takes neither --shard nor --wandb"]),
        (["--trainer.accelerator", "gpu", "ood_loss", "--seeds", "1"], ["accelerator"]),
    ],
)
def test_what_cannot_be(words, pieces, tmp_path):
    refused(clipos("benchmark", *words, "--out", tmp_path / "x"), *pieces)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": 1}, "has the unknown key 'colour': use axes"),
        ({"rows": {"a": {"lr": 1}}}, "row 'a' .* has the unknown key 'lr'"),
        ({"rows": {}}, "needs rows"),
        ({"seeds": 3}, "a list of seeds"),
        ({"axes": {"data.shots": 1}}, "axes must map options to lists"),
        ({"reference": "b"}, "reference 'b' is not one of its rows"),
        ({"kind": "tables"}, "use detectors or masks"),
        ({"vary": {"model.x": 3}}, "vary must map options to lists"),
        ({"vary": {"model.x": [{}]}}, "vary must map options to lists"),
        ({"vary": {"model.x": [{1: 2}]}}, "vary must map options to lists"),
        ({"vary": {1: [2]}}, "vary must map options to lists"),
        ({"axes": {1: [2]}}, "axes must map options to lists"),
        ({"options": {1: 2}}, "options must map dotted options"),
        ({"seeds": [True]}, "a list of seeds"),
        ({"seeds": [2**63]}, "a list of seeds"),
        ({"seeds": [1, 1]}, "has the seed 1 twice"),
        ({"vary": {"model.x": [1, 1]}}, "has the row 'x = 1' twice"),
        ({"rows": {"a": {"headlines": "energy"}}}, r"headlines must be a list of names, like \[msp"),
        ({"rows": {"a": {"options": [1]}}}, "options must map dotted options"),
        ({"rows": {"a": {"only": "lrage"}}}, "only is 'lrage': use micro or large"),
        ({"rows": {"a": {"train": "false"}}}, "train and baseline must be true or false"),
        ({"configs": "scenes_1shot_micro.yaml"}, "configs must be a list of names"),
    ],
)
def test_grids_that_cannot_be(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_grid(write_grid(tmp_path / "bad.yaml", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": {"CoOp": {"micro": ["coop_micro.yaml"], "headlines": ["unknown"]}}}, "'unknown' needs an unknown"),
        ({"rows": {"a": {"headlines": ["enrgy"]}}}, "'enrgy' is not a score"),
        ({"rows": {"a": {"headlines": ["math.hypot"]}}}, "fails on a small example|reports 'math.hypot', which"),
        ({"rows": {"a": {"headlines": ["msp"], "options": {"model.scores": ["mcm"]}}}}, "reports 'msp', which"),
        ({"rows": {"a": {"options": {"data.shots": 3}}}}, "data.shots is an axis of g, and row 'a' sets it"),
    ],
)
def test_plans_that_cannot_be(tmp_path, changes, message):
    from clipos_lightning.experiments.plan import make_plan

    with pytest.raises(InputError, match=message):
        make_plan(write_grid(tmp_path / "g.yaml", **changes), [], [])


def test_folders_of_other_grids_and_other_files_are_left_alone(place, tmp_path):
    folder, _ = place
    refused(clipos("benchmark", "ood_loss", "--out", folder), "holds grid 'small'")
    (tmp_path / "results.csv").write_text("mine")
    refused(clipos("benchmark", "ood_loss", "--out", tmp_path), "has results.csv that `clipos benchmark` did not write")
    refused(clipos("benchmark", "ood_loss", "--out", tmp_path / "results.csv"), "is a file")
    other = benchmark(
        write_grid(tmp_path / "small.yaml", rows={"a": {}}, axes={}, seeds=[7]), *QUICK, "--out", tmp_path / "o"
    )
    tables = (other / "results.md").read_bytes()
    refused(clipos("report", folder, "--out", other), "holds grid 'small' with other options")
    refused(clipos("report", folder, "--out", tmp_path), "results.csv that `clipos benchmark` did not write")
    refused(clipos("benchmark", tmp_path / "small.yaml", *QUICK, "--seeds", 8, "--out", other), "with other options")
    assert (other / "results.md").read_bytes() == tables
    (tmp_path / "grid.json").write_text('{"mine": 1}')
    refused(clipos("report", tmp_path), "another version")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A finished grid of one detector: (folder, command)."""
    root = tmp_path_factory.mktemp("small")
    grid = write_grid(root / "g.yaml", rows={"a": {}}, axes={}, seeds=[1])
    return benchmark(grid, *QUICK, "--out", root / "out"), ("benchmark", grid, *QUICK)


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def one_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "damages",
    [
        {"run.json": half, "noise.npz": one_bit, "tests.json": lambda _: b"\xff\xfe"},
        {"detector.safetensors": one_bit, "id.npz": half, "tests.json": lambda _: b"{}"},
        {
            "run.json": lambda content: bytes(len(content)),
            "detector.safetensors": lambda _: b"",
            "id.npz": lambda _: b"",
        },
    ],
)
def test_damaged_files_of_a_run_are_computed_again(damages, small, tmp_path):
    folder, command = small
    shutil.copytree(folder, tmp_path / "out")
    for name, damage in damages.items():
        (path,) = (tmp_path / "out").glob(f"runs/*/{name}")
        path.write_bytes(damage(path.read_bytes()))
    for path in (tmp_path / "out").glob("*.*"):  # all but timing.json depends on the runs
        path.write_bytes(half(path.read_bytes()))
    run = clipos(*command, "--out", tmp_path / "out")
    assert run.code == 0, run.err
    notes = [line for line in run.err.splitlines() if line.endswith(": computed again")]
    assert len(notes) == len(damages) - ("detector.safetensors" in damages and "run.json" in damages)
    assert len(run.err.splitlines()) == len(notes) + 1 and "grid.json" in run.err
    assert contents(tmp_path / "out") == contents(folder)


def test_a_file_of_the_users_stays(small, tmp_path):
    folder, command = small
    (tmp_path / "new").mkdir()
    (tmp_path / "new/timing.json").write_text('{"mine": 1}')
    refused(clipos(*command, "--out", tmp_path / "new"), "new has timing.json that", "move it, or give another --out")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["timing.json"]
    assert (tmp_path / "new/timing.json").read_text() == '{"mine": 1}'
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged/results.md").write_text("# My results")
    refused(clipos("report", folder, "--out", tmp_path / "merged"), "merged has results.md that")
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["results.md"]


def test_tables_do_not_mix_different_images(tmp_path):
    rows = {"a": {}, "b": {"options": {"data.limit_per_set": 30}}}
    grid = write_grid(tmp_path / "g.yaml", rows=rows, axes={}, seeds=[1])
    refused(clipos("benchmark", grid, *QUICK, "--out", tmp_path / "out"), "tested on different images")


def test_a_detector_that_diverged_is_named(tmp_path):
    rows = {"a": {"options": {"model.optimizer.init_args.lr": 1e30}}}
    grid = write_grid(tmp_path / "g.yaml", rows=rows, axes={}, seeds=[1])
    refused(clipos("benchmark", grid, *QUICK, "--out", tmp_path / "out"), "run a-shots1-seed1", "not finite")


@pytest.mark.parametrize("other", ["image", "class"])
def test_detectors_of_other_images_are_not_taken(other, tiny_folder, tmp_path):
    for root in ("one", "two"):
        shutil.copytree(tiny_folder, tmp_path / root)
    photos = tmp_path / "two" / "photos" / "train"
    if other == "image":
        (picture,) = Path(photos, "star").glob("0.*")
        picture.write_bytes(picture.read_bytes() + b" ")
    else:
        (tmp_path / "names.yaml").write_text("star: sun\n")
    rows = {"zero-shot": {"train": False}, "CLIP-OS": {}}
    grid = write_grid(tmp_path / "g.yaml", rows=rows, axes={}, seeds=[1])
    words = ("benchmark", grid, *QUICK, "--data.id", "folder:photos", "--data.shots", "all", "--out", tmp_path / "out")
    assert clipos(*words, "--data.root", tmp_path / "one").code == 0
    assert clipos(*words, "--data.root", tmp_path / "one").code == 0
    if other == "image":
        refused(clipos(*words, "--data.root", tmp_path / "two"), "other classes or images", "another --out")
    else:  # the words of the classes are an option: another run
        run = clipos(*words, "--data.root", tmp_path / "two", "--data.class_names", tmp_path / "names.yaml")
        refused(run, "with other options")


def test_user_defined_scores_in_rows(tmp_path, monkeypatch):
    (tmp_path / "own_scores.py").write_text(
        "def top(e):\n    return e.logits.amax(-1)\n\n\ndef low(e):\n    return -top(e)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = {name: {"train": False, "options": {"model.score": f"own_scores.{name}"}} for name in ("top", "low")} | {
        "max": {"train": False, "headlines": ["max_logit"]}
    }
    out = benchmark(write_grid(tmp_path / "g.yaml", rows=rows, axes={}, seeds=[1]), *QUICK, "--out", tmp_path / "out")
    (point,) = json.loads((out / "results.json").read_text())["grid_points"]
    top, low, best = (row["mean"]["average"]["auroc"]["mean"] for row in point["rows"])
    assert top == best == pytest.approx(100 - low)


def test_rows_suit_the_backbone(tmp_path):
    rows = {"a": {"configs": ["x.yaml"], "micro": ["y.yaml"]}, "b": {"only": "large"}, "c": {"only": "micro"}}
    path = write_grid(tmp_path / "g.yaml", rows=rows, vary={"model.surgery.beta": [0, {"model.x": 1, "model.y": 2}]})
    micro, large = read_grid(path), read_grid(path, "ViT-B-16")
    assert [(r.name, r.configs) for r in micro.rows[:2]] == [("a", ("y.yaml",)), ("c", ())]
    assert [(r.name, r.configs) for r in large.rows[:2]] == [("a", ("x.yaml",)), ("b", ())]
    assert [(r.name, r.value, dict(r.options)) for r in micro.rows[2:]] == [
        ("surgery.beta = 0", "0", {"model.surgery.beta": 0}),
        ("surgery.beta = 1, y 2", "1", {"model.x": 1, "model.y": 2}),
    ]
    assert parse_shard("2/3") == (2, 3)


@pytest.mark.parametrize("name", shipped_grids())
@pytest.mark.parametrize("backbone", ["MicroCLIP", "ViT-B-16-quickgelu"])
def test_shipped_grids_are_read_and_planned(name, backbone):
    from clipos_lightning.experiments.plan import make_plan

    grid, runs, entries = make_plan(find_grid(name), [], [f"--model.backbone={backbone}"])
    assert grid.title and runs and entries and all(entry.score for entry in entries)
