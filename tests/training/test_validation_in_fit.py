"""Validation in fit: what is logged, that training is the same with it, EarlyStopping and ModelCheckpoint, errors."""

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from running import CPU, PHOTO_OPTIONS, clipos, done, refused, state_of

from clipos_lightning import ClipOS, ContextOptions, FewShotOOD, InputError
from clipos_lightning.method.objectives import Objective
from clipos_lightning.training.callbacks import Progress

DEMO = ("--config", "demo.yaml")
AUROC = "val/outliers/auroc"


class Random(Objective):
    """An objective that draws from torch's generator in each step."""

    outliers = "local_patches"
    unknown = False

    def outlier_loss(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.mean(1) * torch.rand(())


class Recorded(Callback):
    """The figures of each validation, but of the sanity check."""

    def __init__(self) -> None:
        self.figures: list[dict[str, float]] = []

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            figures = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("val/")}
            self.figures.append(figures)


def own_fit(
    *callbacks: Any, validate: bool = True, objective: Any = "unknown", epochs: int = 3, **options: Any
) -> tuple[ClipOS, FewShotOOD, Trainer]:
    """A fit in a user's own Trainer."""
    data = FewShotOOD(id="scenes", shots=2, batch_size=7, limit_per_set=40, num_workers=0, validate=validate)
    model = ClipOS(
        data.class_names, "MicroCLIP", score="energy", objective=objective, context=ContextOptions(length=4), seed=2
    )
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    saves = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    trainer = Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[*callbacks], enable_checkpointing=saves, **quiet, **options
    )
    torch.manual_seed(5)
    trainer.fit(model, data)
    return model, data, trainer


@pytest.mark.parametrize("objective", ["unknown", "entropy", {"class_path": f"{__name__}.Random", "init_args": {}}])
def test_training_is_the_same_with_and_without_validation(objective: Any) -> None:
    (model, *_), (plain, *_) = (own_fit(validate=validate, objective=objective) for validate in (True, False))
    assert torch.equal(model.prompts.context, plain.prompts.context)
    assert model.prompts.context.abs().sum() > 0


@pytest.mark.parametrize("objective", ["unknown", "none"])
def test_the_figures_are_those_of_validate(objective: str) -> None:
    recorded = Recorded()
    model, data, _ = own_fit(recorded, objective=objective, epochs=2)
    assert len(recorded.figures) == 2
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    (figures,) = Trainer(accelerator="cpu", **quiet).validate(model, data, verbose=False)
    assert recorded.figures[-1] == figures
    assert {"val/accuracy", AUROC} <= figures.keys()
    assert recorded.figures[0] != recorded.figures[1]


def test_every_n_epochs_as_the_trainer_says() -> None:
    recorded = Recorded()
    own_fit(recorded, epochs=5, check_val_every_n_epoch=2)
    assert len(recorded.figures) == 2


def test_early_stopping_and_the_best_checkpoint(tmp_path: Path) -> None:
    stopping = EarlyStopping(monitor=AUROC, mode="max", patience=2, min_delta=200)  # the first figure stays the best
    best = ModelCheckpoint(tmp_path, "best", monitor=AUROC, mode="max")
    _, _, trainer = own_fit(recorded := Recorded(), stopping, best, epochs=20)
    assert trainer.current_epoch == 3
    assert best.best_model_score == pytest.approx(max(figures[AUROC] for figures in recorded.figures))
    done("test", "--ckpt_path", tmp_path / "best.ckpt", "--data.ood_sets", "[noise]", "--data.limit_per_set", 2)


@pytest.mark.parametrize("callback", [EarlyStopping(AUROC, mode="max"), ModelCheckpoint(monitor="val/accuracy")])
def test_a_callback_that_waits_for_validation_is_refused_without_it(callback: Any) -> None:
    with pytest.raises(InputError, match=f"^{type(callback).__name__} monitors val/.*: set --data.validate true$"):
        own_fit(callback, validate=False)


def test_missing_held_out_images_are_reported_before_anything_is_encoded() -> None:
    FewShotOOD(id="scenes", shots="all").setup("fit")
    with pytest.raises(InputError, match=r"--data\.validate true has no held-out images"):
        FewShotOOD(id="scenes", shots="all", validate=True).setup("fit")


# ---- on the command line


@pytest.fixture
def early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A config with EarlyStopping and ModelCheckpoint, in the working directory."""
    monkeypatch.chdir(tmp_path)
    options = {"monitor": AUROC, "mode": "max"}
    stopping = {"class_path": "EarlyStopping", "init_args": {**options, "patience": 1, "min_delta": 200}}
    best = {"class_path": "ModelCheckpoint", "init_args": {**options, "filename": "best"}}
    Path("early.yaml").write_text(yaml.safe_dump({"trainer": {"max_epochs": 9, "callbacks": [stopping, best]}}))
    return "early.yaml"


def test_a_config_with_early_stopping(early: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[str] = []
    monkeypatch.setattr(Progress, "open", lambda self, total, description, done=0: bars.append(description))
    options = ("--config", early, "--data.validate", "true", "--data.limit_per_set", 20)
    run = done("fit", *DEMO, *options)
    assert bars == ["training prompts"]
    with open(run.folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row[AUROC]) >= 0 for row in rows if row[AUROC]] == [True, True]  # the second one is not better
    assert f"{AUROC}  " in run.out and "val/accuracy" in run.out
    assert run.err == ""
    best = run.folder / "checkpoints/best.ckpt"
    assert state_of(str(best)).keys() == state_of(run.checkpoint).keys()
    assert done("validate", "--ckpt_path", best).err == ""
    resumed = done("fit", "--ckpt_path", run.checkpoint, "--config", early)  # validates, as the checkpoint says
    assert AUROC in resumed.out


def test_errors_of_one_line(early: str, tiny_folder: Path) -> None:
    refused(
        clipos("fit", *DEMO, "--config", early, *CPU), "EarlyStopping monitors val/outliers/auroc", "--data.validate"
    )
    images = ("--data.root", tiny_folder, *PHOTO_OPTIONS, "--data.validate", "true")
    refused(clipos("fit", *DEMO, *images, "--data.shots", "all", *CPU), "--data.validate true", "Lower --data.shots")
    monitor = ("--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitor", "val/auroc")
    run = clipos("fit", *DEMO, *images, *monitor, "--trainer.max_epochs", 1, *CPU)
    refused(run, "`val/auroc` which is not available", AUROC)
