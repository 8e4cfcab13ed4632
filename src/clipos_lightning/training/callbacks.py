"""Callbacks that write the last checkpoint and the list of few-shot images, and show the progress."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ProgressBar
from lightning.pytorch.trainer.states import TrainerFn

from ..data.datamodule import FewShotOOD
from ..utils.files import write_json
from ..utils.progress import ProgressLines, open_bar
from .divergence import DivergenceError
from .schedule import steps_per_epoch
from .snapshots import Snapshot, Snapshots

if TYPE_CHECKING:
    from tqdm import tqdm


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` on the way, and when training ends or is interrupted: always the state between two batches.

    The first process writes alone: no other one has to be in step with it.

    Args:
        folder: of the run.
        every_n_seconds: least time between two files on the way; None: none on the way. Writing takes at most a
            twentieth of the time.

    Attributes:
        snapshots: to be made the Trainer's first callback.
    """

    def __init__(self, folder: Path, every_n_seconds: float | None = None) -> None:
        self.path, self.every_n_seconds = folder / "last.ckpt", every_n_seconds
        self.snapshots = Snapshots()
        self.written: Snapshot | None = None
        self.due = math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        if self.every_n_seconds is not None:
            self.due = time.monotonic() + self.every_n_seconds

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Write a checkpoint on the way."""
        start = time.monotonic()
        if start >= self.due:
            self.write(trainer)
            now = time.monotonic()
            self.due = now + max(self.every_n_seconds or 0.0, 20 * (now - start))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint, and let the other processes wait for it."""
        self.write(trainer)
        trainer.strategy.barrier("last.ckpt")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write the last state between two batches, whatever ended the training, with the last good parameters."""
        if trainer.global_step and not isinstance(exception, OSError):  # such as a full disk
            self.write(trainer, parameters=not isinstance(exception, DivergenceError))

    def write(self, trainer: Trainer, parameters: bool = True) -> None:
        """Write the last snapshot, unless it is written already.

        Args:
            trainer: of the fit.
            parameters: of the snapshot; False: those that the module has now.
        """
        snapshot = self.snapshots.latest
        if snapshot is None or not trainer.is_global_zero or (snapshot is self.written and parameters):
            return
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        snapshot.put_into(checkpoint, parameters)
        trainer.strategy.save_checkpoint(checkpoint, self.path)
        self.written = snapshot


class ShotsManifest(Callback):
    """Write ``shots.json``: the few-shot images of each class, and a digest of the list.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file before a fit or a validation."""
        if stage != "test":
            self.write(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file of a test, unless its options draw other images than the detector learned from."""
        self.write(trainer, getattr(pl_module, "shots_digest", None))

    def write(self, trainer: Trainer, learned: str | None = None) -> None:
        """Write the file on the first process; a test whose training images are missing has none.

        Args:
            trainer: of the run.
            learned: digest of the images that the detector learned from; None: it learns from those of this run.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        if trainer.is_global_zero and isinstance(data, FewShotOOD) and data.shot_positions:
            manifest = data.manifest()
            if learned in (None, manifest["digest"]):
                write_json(self.folder / "shots.json", manifest)


class Progress(ProgressBar):
    """Progress of training, and of a test over all its sets: bars on a terminal, otherwise a line every 30 s."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm[Any] | ProgressLines | None = None
        self.enabled = True

    def disable(self) -> None:
        """Hide the bars; Lightning calls this on every rank but 0."""
        self.enabled = False

    def enable(self) -> None:
        """Show the bars again; Lightning's BatchSizeFinder and LearningRateFinder hide them during their trials."""
        self.enabled = True

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
        batches = trainer.estimated_stepping_batches / steps_per_epoch(trainer) * trainer.num_training_batches
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
        """Start one bar over the batches of all test sets, and name each set when it begins."""
        if batch_idx == 0:
            names = list(trainer.test_dataloaders or {})
            label = f"testing {names[dataloader_idx]} ({dataloader_idx + 1} of {len(names)})"
            if self.bar is None:
                self.open(sum(trainer.num_test_batches), label)
            else:
                self.bar.set_description(label)

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
