"""How many CPU cores this process may use, and how many worker processes that is by default."""

import os


def available_cores() -> int:
    """The number of CPU cores that this process may use: a scheduler or ``taskset`` may allow fewer than there are.

    >>> 1 <= available_cores() <= (os.cpu_count() or 1)
    True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_workers() -> int:
    """The default number of processes that decode images: half of the available cores, at most 8."""
    return min(8, available_cores() // 2)
