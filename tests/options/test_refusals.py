"""What Lightning, jsonargparse and torch's optimizers refuse is one line with the option; defects keep a traceback."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from running import CPU, clipos, done, refused

from clipos_lightning.options.refusals import PACKAGE, refused_option
from clipos_lightning.training.module import ClipOS

pytestmark = pytest.mark.badinput
DEMO = ("--config", "demo.yaml")
CALLBACK = "--trainer.callbacks+="


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        (f"{CALLBACK}EarlyStopping --trainer.callbacks.monitor nosuch", ["--trainer.callbacks", "nosuch"]),
        (f"{CALLBACK}EarlyStopping --trainer.callbacks.monitor a --trainer.callbacks.mode up", ["EarlyStopping", "up"]),
        (f"{CALLBACK}EarlyStopping", ["--trainer.callbacks", "EarlyStopping", "required: monitor"]),
        (f"{CALLBACK}EarlyStopping --trainer.callbacks.monitr a", ["--trainer.callbacks", "monitr"]),
        (f"{CALLBACK}nosuch", ["--trainer.callbacks", "no class 'nosuch'"]),
        (f"{CALLBACK}LearningRateFinder", ["--trainer.callbacks", "learning rate finder"]),
        (f"{CALLBACK}BatchSizeFinder", ["--trainer.callbacks", "BatchSizeFinder"]),
        (f"{CALLBACK}BaseFinetuning", ["--trainer.callbacks", "NotImplementedError"]),
        pytest.param(
            f"{CALLBACK}DeviceStatsMonitor",
            ["--trainer.callbacks DeviceStatsMonitor: ", "psutil"],
            marks=pytest.mark.skipif(find_spec("psutil") is not None, reason="psutil is installed"),
        ),
        ("--trainer.logger CometLogger", ["--trainer.logger", "comet"]),
        ("--trainer.accelerator tpu", ["--trainer.accelerator tpu", "torch_xla"]),
        ("--trainer.accelerator warp", ["--trainer.accelerator warp"]),
        ("--trainer.strategy nosuch", ["--trainer.strategy nosuch"]),
        ("--trainer.precision transformer-engine-float16", ["--trainer.precision", "transformer_engine"]),
        ("--trainer.devices 0", ["--trainer.devices 0"]),
        ("--trainer.devices 100000", ["--trainer.devices is 100000", "each is a process"]),
        ("--trainer.plugins LSFEnvironment", ["--trainer.plugins", "LSB_DJOB_RANKFILE"]),
        ("--trainer.plugins SLURMEnvironment", ["--trainer.plugins SLURMEnvironment", "SLURM_PROCID"]),
        ("--trainer.plugins TorchElasticEnvironment", ["--trainer.plugins TorchElasticEnvironment", "'RANK'"]),
        ("--trainer.default_root_dir a\0b", ["a path", "null character (\\0)"]),
        ("--trainer.profiler xla", ["--trainer.profiler xla", "torch_xla"]),
        (f"--trainer.accumulate_grad_batches {10**23}", ["--trainer.accumulate_grad_batches is 1000", "at most 1,000"]),
        ("--trainer.limit_train_batches 1.5", ["--trainer.limit_train_batches 1.5"]),
        ("--trainer.val_check_interval 0", ["--trainer.val_check_interval is 0", "above 0"]),
        ("--trainer.check_val_every_n_epoch 0", ["--trainer.check_val_every_n_epoch is 0", "at least 1"]),
        ("--trainer.gradient_clip_val -1", ["--trainer.gradient_clip_val is -1", "at least 0"]),
        ("--trainer.gradient_clip_val .nan", ["--trainer.gradient_clip_val is nan"]),
        ("--model.optimizer.lr -1", ["--model.optimizer", "Invalid learning rate: -1.0"]),
        ("--model.optimizer torch.optim.SparseAdam", ["--model.optimizer", "dense gradients"]),
        ("--model.lr_scheduler OneCycleLR --model.lr_scheduler.max_lr 1", ["--model.lr_scheduler", "total_steps"]),
        ("--model.lr_scheduler StepLR --model.lr_scheduler.step_size 0", ["--model.lr_scheduler", "ZeroDivisionError"]),
        ("--model.lr_scheduler ReduceLROnPlateau", ["--model.lr_scheduler", "required: monitor"]),
        (
            "--trainer.max_epochs 2 --model.lr_scheduler ReduceLROnPlateau --model.lr_scheduler.monitor nosuch",
            ["--model.lr_scheduler", "nosuch", "train/loss"],
        ),
    ],
)
def test_one_line_that_names_the_option(words: str, pieces: list[str]) -> None:
    steps = () if "max_epochs" in words else ("--trainer.max_steps", "1")
    refused(clipos("fit", *DEMO, *CPU, *steps, *words.split()), *pieces)


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "lightning.pytorch.cli.ReduceLROnPlateau"])
def test_a_scheduler_that_waits_for_a_plateau(name: str, tmp_path: Path) -> None:
    """With a threshold that no loss reaches, the rate is halved after each epoch but the first."""
    if name == "ReduceLROnPlateau":
        options = "{monitor: train/loss, factor: 0.5, patience: 0, threshold: 1.0e+9, threshold_mode: abs}"
        (tmp_path / "plateau.yaml").write_text(
            f"model:\n  lr_scheduler: {{class_path: {name}, init_args: {options}}}\n"
        )
        words = ["--config", "plateau.yaml"]
    else:
        given = {"monitor": "train/loss", "factor": 0.5, "patience": 0, "threshold": 1e9, "threshold_mode": "abs"}
        words = ["--model.lr_scheduler", name]
        words += [word for k, v in given.items() for word in (f"--model.lr_scheduler.{k}", str(v))]
    run = done("fit", *DEMO, *words, "--trainer.max_epochs", 3, "--model.optimizer.lr", 0.1)
    state = torch.load(run.checkpoint, weights_only=True)["lr_schedulers"][0]
    assert state["_last_lr"] == pytest.approx([0.1 * 0.5**2])


@pytest.mark.parametrize(
    ("hook", "error"),
    [
        ("on_fit_start", ValueError("a defect")),
        ("training_step", MisconfigurationException("a defect")),
        ("on_train_start", TypeError("a defect")),
    ],
)
def test_errors_of_our_own_functions_keep_their_traceback(
    hook: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ClipOS, *_: Any) -> None:
        raise error

    monkeypatch.setattr(ClipOS, hook, broken)
    run = clipos("fit", *DEMO, *CPU, "--trainer.max_steps", 1)
    assert run.code == 1 and "Traceback" in run.err and "a defect" in run.err


LIGHTNING = Path("/env/lightning/pytorch")
DOOR = (PACKAGE / "cli/trainer.py", "start")
MODULE = PACKAGE / "training/module.py"


@pytest.mark.parametrize(
    ("error", "frames", "option"),
    [
        (ValueError(), [DOOR, (LIGHTNING / "trainer/trainer.py", "fit")], "trainer"),
        (KeyError(), [DOOR, (LIGHTNING / "callbacks/stopping.py", "check")], "--trainer.callbacks"),
        (KeyError(), [DOOR, (LIGHTNING / "trainer/trainer.py", "fit")], None),
        (
            ValueError(),
            [DOOR, (MODULE, "configure_optimizers"), (Path("/torch/optim/sgd.py"), "x")],
            "--model.optimizer",
        ),
        (ValueError(), [DOOR, (MODULE, "training_step"), (LIGHTNING / "core/module.py", "log")], None),
        (ValueError(), [DOOR, (LIGHTNING / "trainer/call.py", "call"), (Path("/home/me/mine.py"), "hook")], None),
        (RuntimeError(), [DOOR, (LIGHTNING / "strategies/ddp.py", "x"), (Path("/torch/autograd/graph.py"), "x")], None),
        (
            OSError(),
            [DOOR, (LIGHTNING / "loggers/mlflow.py", "x"), (Path("/requests/api.py"), "get")],
            "--trainer.logger",
        ),
        (ValueError(), [DOOR], None),
    ],
)
def test_where_the_frames_are(error: Exception, frames: list[tuple[Path, str]], option: str | None) -> None:
    assert refused_option(error, frames) == option
