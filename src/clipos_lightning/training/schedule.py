"""CoOp's learning-rate schedule, for configurations: a warm-up at a constant rate, then a cosine."""

import math
from typing import Any

from lightning.pytorch import Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError


class WarmupCosine(LRScheduler):
    """A constant rate for the first epochs, then a cosine to zero (CoOp's and LoCoOp's schedule).

    The factor of epoch e is (1 + cos(pi (e - warmup_epochs) / epochs)) / 2 after the warm-up, as in CoOp's code, where
    the cosine waits while the warm-up lasts.

    Args:
        optimizer: whose rates are set.
        warmup_epochs: epochs at the constant rate.
        warmup_lr: that rate.
        epochs: length of the cosine; None: the run's own, set by the module before training.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_epochs: int = 1, warmup_lr: float = 1e-5, epochs: int | None = None
    ) -> None:
        self.warmup_epochs, self.warmup_lr, self.epochs = warmup_epochs, warmup_lr, epochs
        super().__init__(optimizer)

    def get_lr(self) -> list[float | Any]:
        """Each parameter group's rate in this epoch."""
        after = self.last_epoch - self.warmup_epochs
        if after < 0:
            return [self.warmup_lr if base else 0.0 for base in self.base_lrs]  # a group at rate 0 stays frozen
        factor = 0.5 * (1 + math.cos(math.pi * min(1.0, after / (self.epochs or 1))))
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Plain data; without the length, which a resumed run may have changed."""
        return {key: value for key, value in super().state_dict().items() if key != "epochs"}


def planned_epochs(trainer: Trainer) -> int:
    """Epochs that a fit will take, also where its length is given in steps.

    Raises:
        InputError: the fit has no end.
    """
    trainer.fit_loop.setup_data()  # a run by steps does not know its epochs before
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):
        raise InputError("WarmupCosine needs its length: set its init_args.epochs, or --trainer.max_epochs")
    return math.ceil(steps / math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches))
