"""Options are finite numbers. No torch."""

import math
from collections.abc import Mapping
from typing import Any

from ..errors import InputError


def check_finite(value: Any, option: str) -> None:
    """Check that an option, or each option in a mapping or a list, is no NaN and no infinity.

    Args:
        value: plain data.
        option: its name, for the message.

    Raises:
        InputError: it is not finite.

    Example:
        >>> check_finite({"lr": 0.1, "betas": [0.9, 0.99]}, "--model.optimizer")
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{option} is {value}: give a finite number")
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_finite(item, f"{option}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_finite(item, option)
