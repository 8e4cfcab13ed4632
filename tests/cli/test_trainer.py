"""The commands fit, test, validate and predict: their output files, loading of checkpoints, resuming."""

import csv
import json
import math
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from running import (
    CPU,
    PHOTO_OPTIONS,
    PHOTOS,
    Run,
    clipos,
    done,
    inside,
    make_benchmarks,
    make_photos,
    options_of,
    refused,
    relative_difference,
    state_of,
)
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score

import clipos_lightning
from clipos_lightning.evaluation.score_names import defined_scores
from clipos_lightning.method.family import METHODS
from clipos_lightning.options.configs import shipped_configs
from clipos_lightning.training.module import ClipOS

METRICS = {"auroc", "fpr95", "fpr95_ood_pos", "aupr_in", "aupr_out"}
WEIGHTS = Path(clipos_lightning.__file__).parent / "assets/MicroCLIP.safetensors"
DEMO = ("--config", "demo.yaml")
ONE_STEP = (*DEMO, "--data.shots", 2, "--trainer.max_steps", 1)
SEVERAL_BATCHES = ("--data.shots", 3, "--data.batch_size", 7)  # 30 images, 5 batches an epoch


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_benchmarks(tmp_path_factory.mktemp("benchmarks"))


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are written to ``runs/`` of a separate folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def fitted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A detector of three classes of pictures in folders, trained for a few steps."""
    with inside(tmp_path_factory.mktemp("fitted")):
        options = ("--data.root", tiny_folder, *PHOTO_OPTIONS, "--data.shots", 2, "--seed_everything", 3)
        run = done("fit", *DEMO, *options, "--trainer.max_steps", 3, "--trainer.default_root_dir", Path.cwd())
    return run


@pytest.fixture(scope="module")
def tested(fitted: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Its test, with the checkpoint alone, pictures and all."""
    folder = tmp_path_factory.mktemp("tested")
    return done("test", "--ckpt_path", fitted.checkpoint, "--trainer.default_root_dir", folder, pictures=True)


# ---- shipped configs


def options_for(name: str, benchmarks: Path) -> list[Any]:
    """A shipped config's options with MicroCLIP and the miniature data; overlays are put on demo.yaml."""
    model = options_of(name).get("model", {})
    overlay = shipped_configs()[name].startswith("overlay")
    options: list[Any] = [*(DEMO if overlay else ()), "--config", name, "--data.root", benchmarks]
    if not overlay and model.get("backbone") != "MicroCLIP":
        options += ["--model.backbone", "MicroCLIP", "--model.pretrained", "null"]
    if (model.get("context", {}).get("length") or 0) > 8:
        options += ["--model.context.length", 8]
    objective = model.get("objective")
    arguments = objective["init_args"] if isinstance(objective, dict) else {}
    small = {"length": 8, "count": 4, "kept": 2, "crops": 16}
    options += [w for n in small if n in arguments for w in (f"--model.objective.init_args.{n}", small[n])]
    if name == "own_micro.yaml":
        options += ["--data.id", "folder:intel-scenes", "--data.ood_sets", "[folder:textures-10class]"]
    return options


def slow_if_alike(name: str) -> Any:
    """The methods' overlays for MicroCLIP differ from the others in numbers alone."""
    alike = name.endswith("_micro.yaml") and name.removesuffix("_micro.yaml") in METHODS
    return pytest.param(name, marks=pytest.mark.slow) if alike else name


@pytest.mark.parametrize("name", [slow_if_alike(n) for n in shipped_configs() if "ViT" not in str(options_of(n))])
def test_every_shipped_config_trains_tests_and_predicts(name: str, benchmarks: Path, tmp_path: Path) -> None:
    """Those of the benchmarks, for large CLIPs: test_benchmarks.py."""
    env = {"WANDB_MODE": "disabled"}
    fit = done("fit", *options_for(name, benchmarks), "--data.limit_per_set", 6, "--trainer.max_steps", 2, env=env)
    test = done("test", "--ckpt_path", fit.checkpoint, env=env)
    assert test.report["ood"]
    assert test.report["headline"] in test.report["average"]
    assert all(n["n"] <= 6 for scores in test.report["ood"].values() for n in scores.values())
    run = clipos("predict", fit.checkpoint, benchmarks / "textures-10class", "--num_workers", 0)
    assert run.code == 0, run.err
    rows = list(csv.DictReader(run.lines))
    assert len(rows) == 6
    assert all(0 < float(row["probability"]) <= 1 and np.isfinite(float(row["score"])) for row in rows)


def test_overlays_keep_what_they_do_not_name(benchmarks: Path) -> None:
    fit = done("fit", *options_for("locoop.yaml", benchmarks), "--trainer.max_steps", 1)
    config = yaml.safe_load((fit.folder / "config.yaml").read_text())
    assert config["model"]["objective"] == "entropy"
    assert config["model"]["context"]["learn"] == "shared"
    assert config["model"]["backbone"] == "MicroCLIP"
    assert config["data"]["id"] == "scenes-blueprint"


@pytest.mark.parametrize("name", ["demo", "demo.yaml"])
@pytest.mark.parametrize("form", ["--config {}", "-c {}", "--config={}"])
def test_a_shipped_config_by_its_bare_name(name: str, form: str) -> None:
    run = clipos("fit", *form.format(name).split(), "--print_config")
    assert run.code == 0, run.err
    assert yaml.safe_load(run.out)["model"]["backbone"] == "MicroCLIP"


def test_a_file_in_the_working_directory_comes_before_a_shipped_config(tmp_path: Path) -> None:
    (tmp_path / "demo.yaml").write_text("data:\n  shots: 7\n")
    assert yaml.safe_load(clipos("fit", *DEMO, "--print_config").out)["data"]["shots"] == 7


# ---- a run's folder


def test_what_fit_leaves(fitted: Run, tiny_folder: Path) -> None:
    assert {p.name for p in fitted.folder.iterdir()} >= {"config.yaml", "metrics.csv", "shots.json", "last.ckpt"}
    assert all(p.is_file() for p in fitted.folder.iterdir())
    assert fitted.folder.name.startswith("fit-")
    config = yaml.safe_load((fitted.folder / "config.yaml").read_text())
    assert config["data"]["id"] == "folder:photos"
    assert config["seed_everything"] == 3
    shots = json.loads((fitted.folder / "shots.json").read_text())
    assert shots["seed"] == 3
    assert {name: len(keys) for name, keys in shots["images"].items()} == dict.fromkeys(sorted(PHOTOS), 2)
    assert all(
        (tiny_folder / "photos/train" / name / key).is_file() for name, keys in shots["images"].items() for key in keys
    )
    losses = read_column(fitted, "train/loss")
    assert len(losses) == 3
    assert np.isfinite(losses).all()


def test_what_test_leaves(tested: Run) -> None:
    wanted = {"config.yaml", "metrics.csv", "report.json", "report.md", "report.html", "scores.npz"}
    assert {p.name for p in tested.folder.iterdir()} >= wanted
    assert all(p.is_file() for p in tested.folder.iterdir())
    assert tested.folder.name.startswith("test-")
    html = (tested.folder / "report.html").read_text(encoding="utf-8")
    assert html.count('<img src="data:image/png;base64,') >= 4


def test_the_last_lines_on_stdout(fitted: Run, tested: Run) -> None:
    assert fitted.lines[-2] == f"next: clipos test --ckpt_path {fitted.checkpoint}"
    assert fitted.lines[-1] == f"run: {fitted.folder}"
    assert tested.lines[-1] == f"run: {tested.folder}"
    assert Path(tested.folder).is_dir()


def test_the_next_command_runs_as_it_is_printed(tmp_path: Path) -> None:
    fit = done("fit", *DEMO, "--trainer.max_steps", 1, "--trainer.default_root_dir", "my runs")
    words = shlex.split(fit.lines[-2].removeprefix("next: clipos "))
    assert clipos(*words, *CPU, "--data.limit_per_set", 3).code == 0


def test_report_json(tested: Run) -> None:
    report = tested.report
    assert {"schema", "headline", "id", "ood", "average", "zero_shot", "masks", "run"} <= report.keys()
    assert report["schema"] == 1
    assert report["headline"] == "energy_region"
    assert report["id"].keys() == {"name", "n", "accuracy"}
    assert (report["id"]["name"], report["id"]["n"]) == ("photos", 15)
    assert report["masks"] == {}  # folders have no true masks
    for part in (report, report["zero_shot"]):
        assert part["ood"].keys() == {"other"}
        assert list(part["ood"]["other"]) == list(part["average"]) == defined_scores(has_unknown=True)
        for score, metrics in part["ood"]["other"].items():
            assert metrics.keys() == METRICS | {"n"}
            assert metrics["n"] == 7
            assert part["average"][score] == {m: metrics[m] for m in METRICS}
            assert all(0 <= metrics[m] <= 100 for m in METRICS)
    assert {"versions", "seed", "command", "fingerprints", "config"} <= report["run"].keys()
    assert report["run"]["seed"] == 3
    assert report["run"]["config"]["data"]["id"] == "folder:photos"
    assert len(report["run"]["fingerprints"]["backbone"]) == 64


def test_the_report_names_its_own_command(fitted: Run, tmp_path: Path) -> None:
    words = ["test", "--ckpt_path", fitted.checkpoint, *CPU, "--model.scores", "[energy_region]"]
    assert shlex.split(clipos(*words).report["run"]["command"]) == ["clipos", *words]


def test_scores_npz_holds_every_score_of_every_image(tested: Run, tiny_folder: Path) -> None:
    arrays, report = tested.scores, tested.report
    columns = {"predicted", *defined_scores(has_unknown=True)}
    keys = {f"{name}/{c}" for name in ("id", "other") for c in {*columns, "paths"}} | {"id/labels"}
    assert arrays.keys() == keys | {f"zero_shot/{name}/{c}" for name in ("id", "other") for c in columns}
    assert len(arrays["id/paths"]) == len(arrays["id/labels"]) == 15
    for path, label in zip(arrays["id/paths"], arrays["id/labels"], strict=True):
        assert (tiny_folder / "photos/test" / path).is_file()
        assert sorted(PHOTOS)[label] == path.split("/")[0]
    assert sorted(arrays["other/paths"]) == [f"{i}.png" for i in range(7)]
    for prefix, part in (("", report), ("zero_shot/", report["zero_shot"])):
        accuracy = 100 * (arrays[f"{prefix}id/predicted"] == arrays["id/labels"]).mean()
        assert accuracy == pytest.approx(part["id"]["accuracy"])
        for score in defined_scores(has_unknown=True):
            inside, outside = arrays[f"{prefix}id/{score}"], arrays[f"{prefix}other/{score}"]
            assert inside.dtype == np.float32
            truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
            auroc = 100 * roc_auc_score(truth, np.r_[inside, outside])
            assert auroc == pytest.approx(part["ood"]["other"][score]["auroc"], abs=0.5)


def test_a_second_run_overwrites_nothing(fitted: Run, tmp_path: Path) -> None:
    runs = [done("test", "--ckpt_path", fitted.checkpoint, "--data.limit_per_set", 2) for _ in range(3)]
    assert len({run.folder for run in runs}) == 3
    assert all((run.folder / "report.json").is_file() for run in runs)


def test_scenes_have_masks_and_near_and_far_sets() -> None:
    report = done("test", *DEMO, "--data.limit_per_set", 8).report
    assert report["masks"].keys() == {"delta", "s", "clip"}
    assert all(0 <= value <= 1 for judged in report["masks"].values() for value in judged.values())
    assert report["masks"]["delta"].keys() == {"iou", "boundary_f"}
    assert report["masks"]["delta"]["iou"] > report["masks"]["clip"]["iou"]
    near, far = (report[f"average_{kind}"]["energy"]["auroc"] for kind in ("near", "far"))
    assert report["average"]["energy"]["auroc"] == pytest.approx((2 * near + 3 * far) / 5)


def test_a_limited_report_says_so(fitted: Run) -> None:
    run = done("test", "--ckpt_path", fitted.checkpoint, "--data.limit_per_set", 4)
    assert run.report["id"]["n"] == 4
    assert run.report["ood"]["other"]["energy"]["n"] == 4
    for name in ("report.md", "report.html"):
        assert "at most 4 images per set" in (run.folder / name).read_text(encoding="utf-8")
    assert "at most 4 images per set" in run.out


# ---- what a checkpoint holds and brings back


def test_a_checkpoint_is_small_and_safe_and_holds_what_was_learned(fitted: Run) -> None:
    assert os.path.getsize(fitted.checkpoint) < 64 * 1024
    checkpoint = torch.load(fitted.checkpoint, weights_only=True)
    assert checkpoint["state_dict"].keys() == {"prompts.context", "prompts.unknown_context"}
    assert checkpoint["state_dict"]["prompts.context"].shape == (4, 128)


@pytest.mark.parametrize(
    ("learn", "keys"),
    [("own", {"prompts.context", "prompts.unknown_context"}), ("unknown_only", {"prompts.unknown_context"})],
)
def test_own_contexts(learn: str, keys: set[str]) -> None:
    fit = done("fit", *DEMO, "--model.context.learn", learn, "--trainer.max_steps", 2)
    assert state_of(fit.checkpoint).keys() == keys
    run = done("test", "--ckpt_path", fit.checkpoint, "--data.limit_per_set", 60, "--data.ood_sets", "[]")
    same = run.scores["id/predicted"] == run.scores["zero_shot/id/predicted"]
    if learn == "unknown_only":  # the class prompts are the template's
        assert same.all()
        np.testing.assert_allclose(run.scores["id/energy"], run.scores["zero_shot/id/energy"], rtol=1e-5)
    assert not np.array_equal(run.scores["id/unknown"], run.scores["zero_shot/id/unknown"])


def test_the_checkpoint_brings_sets_shots_seed_and_root_back(tested: Run, tiny_folder: Path) -> None:
    data = tested.report["run"]["config"]["data"]
    assert data["root"] == str(tiny_folder)
    assert data["id"] == "folder:photos"
    assert data["ood_sets"] == ["folder:other"]
    assert data["shots"] == 2
    assert data["seed"] == 3
    assert tested.report["run"]["config"]["model"]["context"]["words"] == "a photo of a"


def test_the_root_is_the_flag_then_the_config_then_the_variable_then_the_checkpoint(
    fitted: Run, tmp_path: Path
) -> None:
    counts = {"flag": 1, "config": 2, "variable": 3}
    for name, count in counts.items():
        make_photos(tmp_path / name, train=2, test=count, other=count)
    (tmp_path / "root.yaml").write_text(f"data:\n  root: {tmp_path / 'config'}\n")
    words = ["test", "--ckpt_path", fitted.checkpoint, "--model.scores", "[energy_region]"]
    assert done(*words).report["id"]["n"] == 15
    env = {"CLIPOS_DATA": str(tmp_path / "variable")}
    assert done(*words, env=env).report["id"]["n"] == 3 * counts["variable"]
    words += ["--config", "root.yaml"]
    assert done(*words, env=env).report["id"]["n"] == 3 * counts["config"]
    words += ["--data.root", "flag"]
    assert done(*words, env=env).report["id"]["n"] == 3 * counts["flag"]


def test_the_default_root_is_the_variable_then_data(tmp_path: Path) -> None:
    make_photos(tmp_path / "data", test=1, other=1)
    make_photos(tmp_path / "elsewhere", test=2, other=1)
    words = ("test", *DEMO, *PHOTO_OPTIONS)
    assert done(*words).report["id"]["n"] == 3
    assert done(*words, env={"CLIPOS_DATA": "elsewhere"}).report["id"]["n"] == 6


def test_data_options_override_the_checkpoint(fitted: Run) -> None:
    words = ("test", "--ckpt_path", fitted.checkpoint, "--data.limit_per_set", 3)
    run = done(*words, "--data.ood_sets", "[texture,mine=folder:other]")
    assert run.report["ood"].keys() == {"texture", "mine"}
    assert done(*words, "--data.ood_sets", "[]").report["average"] == {}


def test_score_and_scores_win_over_the_checkpoint(fitted: Run) -> None:
    words = ("test", "--ckpt_path", fitted.checkpoint)
    run = done(*words, "--model.score", "unknown", "--model.scores", "[unknown,mcm]")
    assert run.report["headline"] == "unknown"
    assert set(run.report["average"]) == {"unknown", "mcm"}
    assert run.scores.keys() >= {"id/mcm", "zero_shot/other/unknown"}
    assert "id/energy" not in run.scores


def test_the_headline_is_reported_whatever_the_scores(fitted: Run) -> None:
    run = done("test", "--ckpt_path", fitted.checkpoint, "--model.scores", "[mcm,mcm]")
    assert set(run.report["average"]) == {"energy_region", "mcm"}


@pytest.mark.parametrize(
    "option",
    [
        "--model.surgery.beta 0.4",
        "--model.outlier_weight 0",
        "--model.objective focal",
        "--model.unknown_word thing",
        "--model.context.words null",
        "--model.template 'the {}.'",
        "--model.scoring.temperature 2",
        "--model.mask.feature_surgery true",
        "--model.optimizer.lr 0.5",
        "--model.optimizer torch.optim.Adam",
        "--model.lr_scheduler clipos_lightning.WarmupCosine",
        "--config locoop.yaml",
    ],
)
def test_other_model_options_than_the_checkpoints_are_refused(option: str, fitted: Run) -> None:
    run = clipos("test", "--ckpt_path", fitted.checkpoint, *shlex.split(option), *CPU)
    refused(run, "--model.", "checkpoint")


def test_a_schedule_that_was_trained_with_cannot_be_dropped() -> None:
    schedule = ("--model.lr_scheduler", "clipos_lightning.WarmupCosine")
    fit = done("fit", *DEMO, *schedule, "--trainer.max_steps", 1)
    refused(clipos("fit", "--ckpt_path", fit.checkpoint, "--model.lr_scheduler", "null", *CPU), "lr_scheduler")


def test_the_same_model_options_as_the_checkpoints_are_fine(fitted: Run) -> None:
    options = ("--model.surgery.beta", 0.5, "--model.unknown_word", "unknown", "--model.optimizer.lr", 0.02)
    done("test", "--ckpt_path", fitted.checkpoint, *DEMO, *PHOTO_OPTIONS, *options, "--data.limit_per_set", 2)


def test_other_class_names_than_the_checkpoints_are_refused(fitted: Run, tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("star: five-pointed star\n")
    words = ("test", "--ckpt_path", fitted.checkpoint, *CPU)
    refused(clipos(*words, "--data.class_names", "names.yaml"), "class names")
    refused(clipos(*words, "--data.id", "scenes"), "class names")


def test_worded_class_names_come_back_wherever_the_test_is_run(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("star: five-pointed star\n")
    options = ("--data.root", tiny_folder, *PHOTO_OPTIONS, "--data.class_names", "names.yaml")
    fit = done("fit", *DEMO, *options, "--trainer.max_steps", 1, "--trainer.default_root_dir", tmp_path / "runs")
    checkpoint = torch.load(fit.checkpoint, weights_only=True)
    assert checkpoint["clipos"]["class_names"] == ["circle", "heart", "five-pointed star"]
    (tmp_path / "below").mkdir()
    with inside(tmp_path / "below"):
        done("test", "--ckpt_path", fit.checkpoint, "--data.limit_per_set", 2)


def test_other_weights_than_the_checkpoints_are_refused(fitted: Run, tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copy(WEIGHTS, tmp_path / "same.safetensors")
    words = ("test", "--ckpt_path", fitted.checkpoint, *CPU, "--data.limit_per_set", 2)
    assert clipos(*words, "--model.pretrained", "same.safetensors").code == 0
    weights = load_file(WEIGHTS)
    save_file({k: v + 1e-3 if k == "visual.proj" else v for k, v in weights.items()}, tmp_path / "other.safetensors")
    refused(clipos(*words, "--model.pretrained", "other.safetensors"), "fingerprint")
    predict = ("predict", fitted.checkpoint, tiny_folder / "other", "--num_workers", 0)
    assert clipos(*predict, "--pretrained", "same.safetensors").code == 0
    refused(clipos(*predict, "--pretrained", "other.safetensors"), "fingerprint")


@pytest.mark.parametrize("change", ["a key more", "a key less", "another shape"])
def test_a_checkpoint_with_other_keys_is_refused(change: str, fitted: Run, tmp_path: Path) -> None:
    checkpoint = torch.load(fitted.checkpoint, weights_only=True)
    state = checkpoint["state_dict"]
    if change == "a key more":
        state["prompts.more"] = torch.zeros(1)
    elif change == "a key less":
        state.clear()
    else:
        state["prompts.context"] = torch.zeros(5, 128)
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    refused(clipos("test", "--ckpt_path", "changed.ckpt", *CPU), "prompts.")


# ---- the zero-shot detector


def test_without_a_checkpoint_it_is_the_zero_shot_detector_and_says_so(tiny_folder: Path, tested: Run) -> None:
    run = done("test", *DEMO, "--data.root", tiny_folder, *PHOTO_OPTIONS)
    assert "zero-shot" in run.out
    assert "zero-shot" in (run.folder / "report.md").read_text(encoding="utf-8").splitlines()[0]
    report, trained = run.report, tested.report["zero_shot"]
    for part in ("id", "ood", "average"):
        assert report[part] == report["zero_shot"][part]
    assert report["id"]["accuracy"] == trained["id"]["accuracy"]
    for score, metrics in trained["ood"]["other"].items():
        assert report["ood"]["other"][score] == pytest.approx(metrics, abs=1e-3)
    np.testing.assert_allclose(run.scores["id/energy"], tested.scores["zero_shot/id/energy"], rtol=1e-5)


def test_rivals_without_unknown_leave_its_scores_out() -> None:
    fit = done("fit", *DEMO, "--model.objective", "none", "--trainer.max_steps", 1)
    report = done("test", "--ckpt_path", fit.checkpoint, "--data.limit_per_set", 4).report
    assert list(report["average"]) == defined_scores(False)
    assert list(report["zero_shot"]["average"]) == defined_scores(has_unknown=True)


# ---- the same again


def test_the_same_seed_twice_is_the_same_detector() -> None:
    fits = [done("fit", *DEMO, *SEVERAL_BATCHES, "--trainer.max_steps", 4) for _ in range(2)]
    assert torch.equal(fits[0].context, fits[1].context)
    tests = [done("test", "--ckpt_path", fit.checkpoint, "--data.limit_per_set", 9) for fit in fits]
    first, second = (test.scores for test in tests)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    other = done("fit", *DEMO, *SEVERAL_BATCHES, "--trainer.max_steps", 4, "--seed_everything", 2)
    assert not torch.equal(fits[0].context, other.context)


def test_a_runs_config_repeats_it() -> None:
    fit = done("fit", *DEMO, *SEVERAL_BATCHES, "--trainer.max_steps", 3, "--model.optimizer.lr", 0.02)
    again = done("fit", "--config", fit.folder / "config.yaml", "--trainer.default_root_dir", "again")
    assert torch.equal(fit.context, again.context)


def test_seed_zero_is_a_seed() -> None:
    zero, one = (done("fit", *DEMO, "--trainer.max_steps", 1, "--seed_everything", seed) for seed in (0, 1))
    shots = [json.loads((run.folder / "shots.json").read_text()) for run in (zero, one)]
    assert [s["seed"] for s in shots] == [0, 1]
    assert shots[0]["images"] != shots[1]["images"]
    own = done("fit", *DEMO, "--trainer.max_steps", 1, "--seed_everything", 5, "--data.seed", 0)
    drawn = json.loads((own.folder / "shots.json").read_text())
    assert (drawn["seed"], drawn["images"]) == (0, shots[0]["images"])


def test_outlier_weight_zero_is_no_outlier_term() -> None:
    weighted, zero = (
        done("fit", *DEMO, "--trainer.max_steps", 2, "--model.outlier_weight", weight) for weight in (0.25, 0)
    )
    assert read_column(zero, "train/loss") == read_column(zero, "train/id_loss")
    assert read_column(weighted, "train/loss")[0] > read_column(weighted, "train/id_loss")[0]
    assert not torch.equal(weighted.context, zero.context)
    assert torch.load(zero.checkpoint, weights_only=True)["hyper_parameters"]["outlier_weight"] == 0


# ---- resuming


@pytest.mark.parametrize(("stop", "objective"), [(3, "unknown"), (3, "energy"), (5, "entropy")])
def test_a_resumed_run_trains_as_one_that_was_not_stopped(stop: int, objective: str) -> None:
    """5 batches an epoch: step 3 is in the middle of an epoch, step 5 at its end."""
    options = (*DEMO, *SEVERAL_BATCHES, "--model.objective", objective, "--model.context.words", "null")
    options += ("--model.context.length", 4, "--model.lr_scheduler", "torch.optim.lr_scheduler.ExponentialLR")
    options += ("--model.lr_scheduler.gamma", 0.5)
    straight = done("fit", *options, "--trainer.max_steps", 8)
    half = done("fit", *options, "--trainer.max_steps", stop)
    resumed = done("fit", "--ckpt_path", half.checkpoint, "--trainer.max_steps", 8)
    assert relative_difference(half.context, straight.context) > 1e-4
    assert relative_difference(resumed.context, straight.context) < 1e-5
    assert len(read_column(resumed, "train/loss")) == 8 - stop


def test_an_interrupted_run_keeps_what_it_learned_and_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = ("--model.lr_scheduler", "clipos_lightning.WarmupCosine")
    options = (*DEMO, *SEVERAL_BATCHES, *schedule, "--trainer.max_steps", 6)
    straight = done("fit", *options)
    training_step = ClipOS.training_step

    def interrupted(self: ClipOS, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        if batch["step"] == 3:
            raise KeyboardInterrupt
        return training_step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClipOS, "training_step", interrupted)
        stopped = clipos("fit", *options, *CPU, "--trainer.default_root_dir", "stopped")
    assert stopped.code == 130
    (checkpoint,) = Path("stopped").glob("fit-*/last.ckpt")
    go_on = f"go on: clipos fit --ckpt_path {checkpoint}"
    assert stopped.err.strip().splitlines()[-2:] == ["clipos: interrupted", go_on]
    resumed = done("fit", "--ckpt_path", checkpoint, "--trainer.max_steps", 6)
    assert relative_difference(resumed.context, straight.context) < 1e-5


def test_a_schedule_ends_where_the_resumed_run_ends() -> None:
    schedule = ("--model.lr_scheduler", "clipos_lightning.WarmupCosine")
    short = done("fit", *DEMO, *schedule, "--trainer.max_epochs", 3)
    five, six = (done("fit", "--ckpt_path", short.checkpoint, "--trainer.max_epochs", n) for n in (5, 6))
    assert relative_difference(six.context, five.context) > 1e-5  # the rate is not zero after the third epoch


def test_a_schedule_is_as_long_as_the_run_whatever_is_accumulated() -> None:
    schedule = ("--model.lr_scheduler", "clipos_lightning.WarmupCosine", "--trainer.max_epochs", 6)
    few = ("--data.shots", 2, "--data.batch_size", 4)  # five batches an epoch
    rates = []
    for accumulated in (1, 2, 4, 50):
        run = done("fit", *DEMO, *schedule, *few, "--trainer.accumulate_grad_batches", accumulated)
        state = torch.load(run.checkpoint, weights_only=True)["lr_schedulers"][0]
        assert state["last_epoch"] == 6
        rates += state["_last_lr"]
    assert rates == [pytest.approx(0.02 * (1 + math.cos(math.pi * 5 / 6)) / 2)] * 4


@pytest.mark.parametrize("more", [("--trainer.max_epochs", 1), ("--trainer.max_steps", 1)])
def test_a_run_that_has_nothing_left_to_train_says_so(more: tuple) -> None:
    first = done("fit", *DEMO, *more)
    refused(clipos("fit", "--ckpt_path", first.checkpoint, *more, *CPU), "fit ran 0 steps")


@pytest.mark.parametrize("flag", [("--trainer.limit_test_batches", 1), ("--trainer.fast_dev_run", "true")])
def test_a_test_of_parts_is_by_images(flag: tuple, fitted: Run) -> None:
    refused(clipos("test", "--ckpt_path", fitted.checkpoint, *flag, *CPU), "--data.limit_per_set")


def test_images_that_count_must_be_there(tmp_path: Path) -> None:
    words = ("--data.shots_file", tmp_path / "none.json", "--data.ood_sets", "[noise]", "--data.limit_per_set", 5)
    assert clipos("test", *DEMO, *words, *CPU).code == 0  # images do not count
    refused(clipos("test", *DEMO, *words, "--model.image_weight", 0.5, *CPU), "--data.shots_file", "none.json")


def test_scores_are_kept_when_one_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_nan.py").write_text(
        "def broken(e):\n    s = e.logits.amax(-1)\n    return s if len(s) < 5 else s / 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("--data.ood_sets", "[noise]", "--data.limit_per_set", 20, "--trainer.default_root_dir", tmp_path)
    for option in ("--model.score", "--model.scores"):
        given = "own_nan.broken" if option == "--model.score" else "[energy,own_nan.broken]"
        refused(clipos("test", *DEMO, *words, option, given, *CPU), "not finite")
        newest = max(tmp_path.glob("test-*"), key=lambda path: path.stat().st_mtime_ns)
        with np.load(newest / "scores.npz") as kept:
            assert np.isfinite(kept["id/energy"]).all() and len(kept["noise/own_nan.broken"]) == 20


# ---- validate


@pytest.mark.parametrize("trained", [True, False])
def test_validate_prints_accuracy_and_opens_no_ood_set(trained: bool, fitted: Run, tiny_folder: Path) -> None:
    start = (
        ("--ckpt_path", fitted.checkpoint)
        if trained
        else (*DEMO, "--data.root", tiny_folder, "--data.id", "folder:photos")
    )
    run = done("validate", *start, "--data.ood_sets", "[folder:nowhere]")
    assert "val/accuracy" in run.out
    assert "val/outliers/auroc" in run.out
    assert run.folder.name.startswith("validate-")
    assert {p.name for p in run.folder.iterdir()} >= {"config.yaml", "metrics.csv", "shots.json"}
    assert "run: " in run.lines[-1]


def test_fit_does_not_validate(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("fit validates")

    monkeypatch.setattr(ClipOS, "validation_step", fail)
    done("fit", *DEMO, "--trainer.max_epochs", 2)


# ---- every objective and option


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """CLIP-OS with the usual options, one step."""
    return done("fit", *ONE_STEP, "--trainer.default_root_dir", tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("objective", ["unknown", "focal", "uniform_kl", "energy", "entropy", "none"])
def test_every_objective_learns(objective: str, usual: Run) -> None:
    fit = done("fit", *ONE_STEP, "--model.objective", objective)
    assert torch.isfinite(fit.context).all()
    assert torch.equal(fit.context, usual.context) == (objective == "unknown")
    assert np.isfinite(read_column(fit, "train/loss")).all()
    if objective != "none":
        assert np.isfinite(read_column(fit, "train/outlier_loss")).all()


@pytest.mark.parametrize(
    "options",
    [
        "--model.synthesis.level patch",
        "--model.synthesis.level patch --model.synthesis.patches irrelevant --model.synthesis.path clip",
        "--model.synthesis.patches all --model.synthesis.count 3 --model.synthesis.mix 0.3",
        "--model.mask.kind top_k",
        "--model.mask.kind surgery",
        "--model.mask.kind clip",
        "--model.mask.kind none",
        "--model.surgery.context_on embeddings --model.surgery.kernel gaussian --model.surgery.kernel_size 5",
        "--model.surgery.context_on off --model.surgery.attention qk --model.surgery.depth 2",
        "--model.feature_budget_mb 0",
    ],
)
def test_options_of_the_method(options: str, usual: Run) -> None:
    fit = done("fit", *ONE_STEP, *options.split())
    if "budget" in options:  # encoded anew at each step: the same training
        assert relative_difference(fit.context, usual.context) < 1e-5
    else:
        assert relative_difference(fit.context, usual.context) > 1e-7
    assert np.isfinite(read_column(fit, "train/loss")).all()


@pytest.mark.parametrize("kind", ["top_k", "surgery", "clip", "none"])
def test_scores_of_regions_under_every_mask(kind: str) -> None:
    words = ("--model.mask.kind", kind, "--data.ood_sets", "[noise]", "--data.limit_per_set", 6)
    run = done("test", *DEMO, *words, "--model.scores", "[energy,energy_region]")
    assert np.isfinite([run.scores[f"{name}/energy_region"] for name in ("id", "noise")]).all()


def test_one_class_in_every_batch_trains_without_outliers() -> None:
    run = done("fit", *DEMO, "--data.batch_size", 1, "--trainer.max_steps", 2)
    assert read_column(run, "train/outlier_loss") == [0, 0]


def test_shots_all_and_a_folder_of_classes_alone(tiny_folder: Path) -> None:
    options = ("--data.id", f"folder:{tiny_folder / 'photos/train'}", "--data.shots", "all", "--trainer.max_steps", 1)
    fit = done("fit", *DEMO, *options)
    shots = json.loads((fit.folder / "shots.json").read_text())
    assert shots["shots"] == "all"
    assert [len(keys) for keys in shots["images"].values()] == [4, 4, 4]
    assert clipos("predict", fit.checkpoint, tiny_folder / "other", "--num_workers", 0).code == 0
    refused(clipos("test", "--ckpt_path", fit.checkpoint, *CPU), "no test images")


# ---- predict


def test_predict_agrees_with_the_test(fitted: Run, tested: Run, tiny_folder: Path, tmp_path: Path) -> None:
    words = ("predict", fitted.checkpoint, tiny_folder / "photos/test", "--num_workers", 0, "--batch_size", 4)
    run = clipos(*words, "--out", "rows.csv")
    assert run.code == 0, run.err
    assert run.out == ""
    assert not list(tmp_path.glob(".*"))
    text = (tmp_path / "rows.csv").read_text(encoding="utf-8")
    assert text == clipos(*words).out
    rows = list(csv.DictReader(text.splitlines()))
    assert list(rows[0])[:5] == ["path", "class", "probability", "score", "error"]
    arrays = tested.scores
    assert [row["path"] for row in rows] == [str(tiny_folder / "photos/test" / p) for p in arrays["id/paths"]]
    assert [row["class"] for row in rows] == [sorted(PHOTOS)[i] for i in arrays["id/predicted"]]
    np.testing.assert_allclose([float(row["score"]) for row in rows], arrays["id/energy_region"], rtol=1e-5)
    msp = np.exp(arrays["id/msp"])  # over the classes, without "unknown"
    np.testing.assert_allclose([float(row["probability"]) for row in rows], msp, rtol=1e-4)


def test_predict_goes_on_after_an_unreadable_image(fitted: Run, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    shutil.copy(tiny_folder / "other/0.png", tmp_path / "mine/a.png")
    (tmp_path / "mine/b.png").write_bytes(b"not an image")
    (tmp_path / "mine/c.png").write_bytes((tiny_folder / "other/1.png").read_bytes()[:200])
    (tmp_path / "notes.txt").write_text("words")
    run = clipos("predict", fitted.checkpoint, "mine", "notes.txt", tiny_folder / "other/2.png", "--num_workers", 0)
    assert run.code == 0, run.err
    rows = list(csv.DictReader(run.lines))
    assert [Path(row["path"]).name for row in rows] == ["a.png", "b.png", "c.png", "notes.txt", "2.png"]
    for row in rows:
        broken = Path(row["path"]).name in ("b.png", "c.png", "notes.txt")
        assert bool(row["error"]) == broken
        assert (row["class"] == row["probability"] == row["score"] == "") == broken
    assert "3 unreadable" in run.err


def read_column(run: Run, name: str) -> list[float]:
    """A column of metrics.csv, rows without it left out."""
    with open(run.folder / "metrics.csv", newline="") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
