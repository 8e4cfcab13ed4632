"""CoOp's learning-rate schedule: a warm-up at a constant rate, then a cosine."""

import math
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError


class WarmupCosine(LRScheduler):
    """A constant rate in the first epochs, then a cosine to zero: the schedule of CoOp and LoCoOp.

    In epoch e after the warm-up, a group's rate is its initial rate times (1 + cos(pi (e - warmup_epochs) / epochs)) /
    2. As in CoOp's code, the cosine starts after the warm-up and has the length of the whole run, so the run ends
    before it reaches zero. A group whose initial rate is 0 stays at 0.

    Args:
        optimizer: the optimizer whose rates are set.
        warmup_epochs: number of epochs at the constant rate.
        warmup_lr: the constant rate.
        epochs: length of the cosine in epochs; None: max_epochs of the run, or the epochs of max_steps if only that is
            given, which ClipOS sets before training.

    Example:
        >>> import torch
        >>> from clipos_lightning import WarmupCosine
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> schedule = WarmupCosine(optimizer, warmup_epochs=1, warmup_lr=0.01, epochs=4)
        >>> for epoch in range(4):
        ...     print(f"{schedule.get_last_lr()[0]:.4f}")
        ...     optimizer.step()
        ...     schedule.step()
        0.0100
        0.1000
        0.0854
        0.0500
    """

    def __init__(
        self, optimizer: Optimizer, warmup_epochs: int = 1, warmup_lr: float = 1e-5, epochs: int | None = None
    ) -> None:
        self.warmup_epochs, self.warmup_lr, self.epochs = warmup_epochs, warmup_lr, epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """The rate of each parameter group in the current epoch."""
        position = self.last_epoch - self.warmup_epochs
        if position < 0:
            return [self.warmup_lr if base else 0.0 for base in self.base_lrs]
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, position / (self.epochs or 1))))
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data, without ``epochs``, which may differ in a resumed run."""
        return {key: value for key, value in super().state_dict().items() if key != "epochs"}


def steps_per_epoch(trainer: Trainer) -> int:
    """Number of optimizer steps of an epoch; 0 before the training data are set up, as in Lightning's tuners."""
    batches = trainer.num_training_batches
    return 0 if math.isinf(batches) else -(-int(batches) // trainer.accumulate_grad_batches)


def planned_epochs(trainer: Trainer) -> int:
    """Number of epochs of a fit: ``max_epochs``, which ``max_steps`` may stop earlier, or those of ``max_steps``.

    Raises:
        InputError: the fit has neither a number of epochs nor of steps.
    """
    if trainer.max_epochs not in (None, -1):
        return trainer.max_epochs
    trainer.fit_loop.setup_data()  # sets num_training_batches
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise InputError("WarmupCosine needs a length in epochs: set its init_args.epochs, or --trainer.max_epochs")
    return math.ceil(steps / steps_per_epoch(trainer))
