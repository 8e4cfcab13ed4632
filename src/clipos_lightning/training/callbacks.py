"""Callbacks that write the last checkpoint and the list of few-shot images, and show the progress."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_only

from ..data.datamodule import FewShotOOD
from ..utils.files import write_json
from ..utils.progress import ProgressLines, open_bar
from .divergence import DivergenceError

if TYPE_CHECKING:
    from tqdm import tqdm


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` when training ends or is interrupted.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint; every process must call this, the first one writes."""
        trainer.save_checkpoint(self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the checkpoint after Ctrl-C in one process, or with the last good parameters if training diverged.

        Several processes would have to stop together; a divergence stops all of them at the same step.
        """
        interrupted = isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1
        if trainer.global_step and (interrupted or isinstance(exception, DivergenceError)):
            trainer.save_checkpoint(self.path)


class ShotsManifest(Callback):
    """Write ``shots.json``: the few-shot images of each class, and a digest of the list.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @rank_zero_only
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; a test whose training images are missing has none."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, FewShotOOD) and data.shot_positions:
            write_json(self.folder / "shots.json", data.manifest())


class Progress(ProgressBar):
    """Progress of training, and of each test set: bars on a terminal, otherwise a line every 30 s."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm[Any] | ProgressLines | None = None
        self.enabled = True

    def disable(self) -> None:
        """Hide the bars; Lightning calls this on every rank but 0."""
        self.enabled = False

    def open(self, total: int | float | None, description: str, done: int = 0) -> None:
        """Close the current bar and start a new one, over batches; a total of None or infinity only counts."""
        self.close()
        count = None if total in (None, float("inf")) else int(total or 0)
        self.bar = open_bar(description, count, done=done, leave=True, shown=self.enabled)

    def close(self) -> None:
        """Close the current bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def step(self) -> None:
        """Advance the bar by one batch."""
        if self.bar is not None:
            self.bar.update(1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start one bar over the batches of all epochs."""
        in_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        batches = trainer.estimated_stepping_batches / in_epoch * trainer.num_training_batches
        done = trainer.fit_loop.total_batch_idx + 1  # in the run that is resumed
        self.open(batches, "training prompts", done)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Advance the bar and show the loss."""
        self.step()
        if self.bar is not None and "train/loss" in trainer.progress_bar_metrics:
            self.bar.set_postfix_str(f"loss {float(trainer.progress_bar_metrics['train/loss']):.3f}", refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start a bar at the first batch of each test set."""
        if batch_idx == 0:
            names = list(trainer.test_dataloaders or {})
            totals = trainer.num_test_batches
            label = f"testing {names[dataloader_idx]} ({dataloader_idx + 1} of {len(names)})"
            self.open(totals[dataloader_idx], label)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Advance the bar by one batch."""
        self.step()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar over the held-out training images; a fit keeps its own."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.open(sum(trainer.num_val_batches), "validating on held-out training images")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Advance the bar by one batch."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.step()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error message starts on a new line."""
        self.close()
