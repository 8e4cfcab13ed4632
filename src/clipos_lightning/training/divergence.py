"""Stop a training that diverges at its first step without a finite gradient, with the last good parameters."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

from ..errors import InputError

MAX_SKIPPED = 20  # steps that a gradient scaler (16-mixed) may skip in a row: each of them halves its scale


class DivergenceError(InputError):
    """Training diverged; the module has the parameters of the last step whose gradient was finite."""


class DivergenceGuard:
    """Watches the gradients, which are the same on all processes, so that all of them stop at the same step.

    Args:
        parameters: those that learn.

    Example:
        >>> parameter = Parameter(torch.ones(1))
        >>> guard = DivergenceGuard([parameter])
        >>> parameter.grad = torch.ones(1)
        >>> guard.check({}, step=0, scaled=False)  # finite: the parameter is good
        >>> parameter.data, parameter.grad = torch.tensor([torch.inf]), torch.tensor([torch.nan])
        >>> try:
        ...     guard.check({}, step=1, scaled=False)
        ... except DivergenceError:
        ...     parameter.data
        tensor([1.])
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters, self.skipped = list(parameters), 0
        self.good = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def check(self, terms: Mapping[str, Tensor], step: int, scaled: bool) -> None:
        """Check the gradients before an optimizer step.

        Args:
            terms: name to value of the terms of the loss on this process, for the message.
            step: number of the step.
            scaled: a gradient scaler skips single steps whose gradient overflows; that is no divergence.

        Raises:
            DivergenceError: a gradient is not finite.
        """
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if all(bool(gradient.isfinite().all()) for gradient in gradients):
            self.skipped = 0
            self.good = [parameter.detach().clone() for parameter in self.parameters]
            return
        self.skipped += 1
        if scaled and self.skipped <= MAX_SKIPPED:
            return
        self.stop(terms, step)

    @torch.no_grad()
    def check_parameters(self, terms: Mapping[str, Tensor], step: int) -> None:
        """Check the parameters after a step; arguments as for :meth:`check`.

        Raises:
            DivergenceError: a parameter is not finite.
        """
        if not all(bool(parameter.isfinite().all()) for parameter in self.parameters):
            self.stop(terms, step)

    def stop(self, terms: Mapping[str, Tensor], step: int) -> None:
        """Restore the last good parameters and raise.

        Raises:
            DivergenceError: always.
        """
        for parameter, good in zip(self.parameters, self.good, strict=True):
            parameter.data.copy_(good)
        wrong = [name for name, value in terms.items() if not bool(value.isfinite().all())]
        raise DivergenceError(
            f"training diverged at step {step}: {' and '.join(wrong) or 'the gradient'} is not finite; lower the "
            "learning rate (--model.optimizer.lr) or --model.outlier_weight"
        )
