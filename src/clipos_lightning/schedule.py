"""CoOp's learning-rate schedule, for configurations: a warm-up at a constant rate, then a cosine."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmupCosine(LambdaLR):
    """A constant rate for the first epochs, then a cosine to zero (CoOp's and LoCoOp's schedule).

    The factor of epoch e is (1 + cos(pi e / epochs)) / 2 after the warm-up.

    Args:
        optimizer: whose rates are set.
        warmup_epochs: epochs at the constant rate.
        warmup_lr: that rate.
        epochs: length of the cosine; None: the run's own, set by the module before training.
    """

    def __init__(
        self, optimizer: Optimizer, warmup_epochs: int = 1, warmup_lr: float = 1e-5, epochs: int | None = None
    ) -> None:
        self.epochs = epochs
        bases = [group["lr"] for group in optimizer.param_groups]

        def factor(base: float) -> "Factor":
            return Factor(self, warmup_epochs, warmup_lr / base if base else 0.0)

        super().__init__(optimizer, [factor(base) for base in bases])


class Factor:
    """The factor of one parameter group's rate as a function of the epoch."""

    def __init__(self, schedule: WarmupCosine, warmup_epochs: int, warmup: float) -> None:
        self.schedule, self.warmup_epochs, self.warmup = schedule, warmup_epochs, warmup

    def __call__(self, epoch: int) -> float:
        """Warm-up, then cosine."""
        if epoch < self.warmup_epochs:
            return self.warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, epoch / (self.schedule.epochs or 1))))
