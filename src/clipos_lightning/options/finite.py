"""Options are finite numbers, of sizes that can be computed. No torch."""

import math
import os
from collections.abc import Mapping
from typing import Any

from ..errors import InputError

WORKER_COUNT = max(64, 4 * (os.cpu_count() or 1))
LARGEST_INT64 = 2**63 - 1
MOST_IN_BATCH = (100_000, "a batch is in memory at once")
MOST_WORKERS = (WORKER_COUNT, "more processes than cores only take memory")
MOST_SEED = (LARGEST_INT64, "seeds are 64-bit integers")
MOST_VIEWS = (1_000, "further views of an image are almost copies of these")
LARGEST: dict[str, tuple[int, str]] = {  # option to its largest value, and why
    "--data.views": MOST_VIEWS,
    "--data.batch_size": MOST_IN_BATCH,
    "--data.eval_batch_size": MOST_IN_BATCH,
    "--data.num_workers": MOST_WORKERS,
    "--data.seed": MOST_SEED,
    "--trainer.accumulate_grad_batches": (1_000_000, "a step waits for so many batches"),
    "--trainer.devices": (WORKER_COUNT, "each is a process"),
    "--model.seed": MOST_SEED,
    "--model.image_size": (4_096, "memory grows with the fourth power of it"),
    "--model.context.length": (1_000, "text encoders of CLIP read 77 tokens"),
    "--model.synthesis.count": (100_000, "all outliers of a step are in memory at once"),
    "--model.surgery.kernel_size": (1_023, "it covers every image then"),
    "--batch_size": MOST_IN_BATCH,
    "--num_workers": MOST_WORKERS,
    "--views": MOST_VIEWS,
}


def check_finite(value: Any, option: str) -> None:
    """Check that an option, or each option in a mapping or a list, is finite and at most its value in :data:`LARGEST`.

    Args:
        value: plain data.
        option: its name, for the message.

    Raises:
        InputError: it is not finite, or too large.

    Example:
        >>> check_finite({"lr": 0.1, "betas": [0.9, 0.99]}, "--model.optimizer")
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{option} is {value}: give a finite number")
    if isinstance(value, int | float):
        check_size(value, option)
    if isinstance(value, Mapping):
        for name, item in value.items():
            check_finite(item, f"{option}.{name}")
    elif isinstance(value, list | tuple):
        for item in value:
            check_finite(item, option)


def check_size(value: float, option: str, command: str = "") -> None:
    """Check that a number is at most the option's value in :data:`LARGEST`; other options have no limit.

    Args:
        value: of the option.
        option: a key of :data:`LARGEST`, or another option.
        command: what comes before the option in the message, such as ``predict: ``.

    Raises:
        InputError: it is larger.

    Example:
        >>> check_size(8, "--data.views")
    """
    largest, reason = LARGEST.get(option, (math.inf, ""))
    if value > largest:
        raise InputError(f"{command}{option} is {value}: it must be at most {largest:,}; {reason}")
