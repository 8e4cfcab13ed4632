"""The state of a training between two batches, from which an interrupted run goes on exactly.

An interruption may come at any moment: inside an optimizer step, between a step and its counters, in a validation. So
the state is copied before each batch, and what is written after an interruption is the last copy: the batch that was
interrupted is trained again. With accumulated gradients, the copies are made before the first batch of each step.
"""

import copy
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import Parameter

from .random_state import random_state


@dataclass(frozen=True)
class Snapshot:
    """A copy of what training changes.

    Attributes:
        steps: optimizer steps so far.
        parameters: name to value of the parameters that learn.
        parts: other parts of a Lightning checkpoint.
        progress: Lightning's progress of the fit, as :func:`resumable` counts.
    """

    steps: int
    parameters: dict[str, Tensor]
    parts: dict[str, Any]
    progress: dict[str, Any]

    @classmethod
    def of(cls, trainer: Trainer, learned: dict[str, Parameter], epochs: int, batches: int) -> "Snapshot":
        """The state of a training between two batches.

        Args:
            trainer: of the fit.
            learned: the module's parameters that learn, by name.
            epochs: number of complete epochs.
            batches: number of batches of the current epoch that are done.
        """
        strategy, precision = trainer.strategy, trainer.precision_plugin
        parts = {
            "epoch": epochs,
            "global_step": trainer.global_step,
            "optimizer_states": [strategy.optimizer_state(optimizer) for optimizer in trainer.optimizers],
            "lr_schedulers": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
            "callbacks": {c.state_key: state for c in trainer.callbacks if (state := c.state_dict())},  # type: ignore[attr-defined]
            "random_state": random_state(strategy.root_device),
        }
        if scaler := precision.state_dict():
            parts[type(precision).__qualname__] = scaler
        return cls(
            trainer.global_step,
            {name: value.detach().clone() for name, value in learned.items()},
            copy.deepcopy(parts),
            resumable(trainer.fit_loop.state_dict(), epochs, batches),
        )

    def put_into(self, checkpoint: dict[str, Any], parameters: bool) -> None:
        """Replace the parts of a Lightning checkpoint, which may be of a later moment, by those of this state.

        Args:
            checkpoint: is changed.
            parameters: whether to replace the parameters that learn, too.
        """
        checkpoint.update(self.parts)
        checkpoint["loops"]["fit_loop"] = self.progress
        if parameters:
            checkpoint["state_dict"].update(self.parameters)


def resumable(progress: dict[str, Any], epochs: int, batches: int) -> dict[str, Any]:
    """Lightning's progress of a fit, with the counters from which it goes on with exactly the next batch.

    Lightning counts an epoch as complete when ``max_steps`` ends it in its middle, and inside an epoch it distinguishes
    by its counters whether the end of the last batch is still to be done. Here an epoch is either complete or not yet
    started, or the end of its last batch is all that is left to count; see ``FitLoop.update_restart_stage``.

    Args:
        progress: ``fit_loop.state_dict()``.
        epochs: number of complete epochs.
        batches: number of batches of the current epoch that are done.
    """
    batch, loop = progress["epoch_loop.batch_progress"], progress["epoch_loop.state_dict"]
    done = batch["total"]["processed"]
    names = ("ready", "started", "processed", "completed")
    inside = int(batches > 0)

    def counters(count: int, completed: int, running: int = 0) -> dict[str, int]:
        return dict(zip(names, (count + running, count + running, count, completed), strict=True))

    epoch = counters(epochs, epochs, inside)
    return progress | {
        "epoch_progress": {"total": epoch, "current": dict(epoch)},
        "epoch_loop.batch_progress": {
            "total": counters(done, done - inside),
            "current": counters(batches, batches - inside),
            "is_last_batch": False,
        },
        "epoch_loop.state_dict": loop | {"_batches_that_stepped": loop["_batches_that_stepped"] - inside},
    }


class Snapshots(Callback):
    """Keeps the last :class:`Snapshot`, on the first process; it must be the Trainer's first callback.

    Attributes:
        latest: the last one; None before training.
    """

    latest: Snapshot | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the parameters that learn."""
        self.learned = {name: value for name, value in pl_module.named_parameters() if value.requires_grad}

    def take(self, trainer: Trainer, batches: int) -> None:
        """Copy the state before this batch of the current epoch, unless gradients are being accumulated."""
        if trainer.is_global_zero and batches % trainer.accumulate_grad_batches == 0:
            self.latest = Snapshot.of(trainer, self.learned, trainer.current_epoch, batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the state before the first batch, and before other callbacks start the epoch."""
        self.take(trainer, 0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Copy the state before a batch."""
        if batch_idx:
            self.take(trainer, batch_idx)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the state of a training that is ended inside an epoch, before other callbacks end the epoch."""
        if stopped_inside(trainer):
            self.take(trainer, trainer.fit_loop.epoch_loop.batch_progress.current.completed)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copy the state of a training that ended with an epoch."""
        if not stopped_inside(trainer):
            self.take(trainer, 0)


def stopped_inside(trainer: Trainer) -> bool:
    """Whether the last batch that was trained is not the last one of its epoch."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return not progress.is_last_batch and 0 < progress.current.completed < trainer.num_training_batches
