"""Checks of Trainer options, for the command line and for a user's own Trainer. No torch."""

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError

PACKAGE = Path(__file__).parents[1]


def check_precision(given: Any) -> None:
    """Check that the precision is full or mixed, which keeps the scores in fp32.

    Args:
        given: ``precision`` of the Trainer.

    Raises:
        InputError: it is another one.
    """
    precision = str(given)
    if (precision.endswith("-true") and precision != "32-true") or precision in ("64", "transformer-engine"):
        raise InputError(f"--trainer.precision {precision}: scores are fp32; use 32-true, 16-mixed or bf16-mixed")


def check_seed(given: int | bool | None) -> None:
    """Check the seed for everything, which NumPy's global generator takes too.

    Args:
        given: ``--seed_everything``; true and false: a random one, or none.

    Raises:
        InputError: it does not have 32 bits.
    """
    if given is not None and not 0 <= given < 2**32:
        raise InputError(f"--seed_everything is {given}: it must be from 0 to {2**32 - 1}, a number of 32 bits")


def describe_unwritable(error: Exception) -> str:
    """Why options cannot be written to ``config.yaml``: a value of a callback or a logger that is no plain data."""
    found = re.search(r"cannot represent an object['\"]?, (.+?)\)", " ".join(str(error).split()))
    what = f"the value {found[1]}" if found else "a value"
    return (
        f"{what} of a callback's or logger's option cannot be written to config.yaml: give the option as plain text "
        "(instead of the callback Timer: --trainer.max_time)"
    )


def check_whole_test(fast_dev_run: int | bool, limit_test_batches: int | float | None) -> None:
    """Check that a test covers every image: a report on the first batches would be of the first classes only.

    Args:
        fast_dev_run: of the Trainer.
        limit_test_batches: of the Trainer; None and 1.0: all batches (1: one batch).

    Raises:
        InputError: it does not.
    """
    everything = limit_test_batches is None or (isinstance(limit_test_batches, float) and limit_test_batches == 1)
    if fast_dev_run or not everything:
        raise InputError("test takes neither limit_test_batches nor fast_dev_run: use --data.limit_per_set N")


def check_monitors(callbacks: Iterable[Any], validates: bool) -> None:
    """Check that no callback waits for a figure of validation in a fit that does not validate.

    Args:
        callbacks: of the Trainer; EarlyStopping and ModelCheckpoint have a ``monitor``.
        validates: ``validate`` of the FewShotOOD.

    Raises:
        InputError: one does.
    """
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not validates and isinstance(monitor, str) and monitor.startswith("val/"):
            raise InputError(
                f"{type(callback).__name__} monitors {monitor}, but fit does not validate: set --data.validate true"
            )


@contextmanager
def report_failed_restore(path: str | None) -> Iterator[None]:
    """Report a checkpoint from which Lightning cannot resume as an InputError of one line.

    Args:
        path: of the checkpoint.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the type depends on what is broken
        files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
        restoring = [i for i, file in enumerate(files) if file.name == "checkpoint_connector.py"]
        if not restoring or any(PACKAGE in file.parents for file in files[restoring[-1] :]):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise InputError(
            f"{path} is broken: its state of the training cannot be restored ({reason}); train again"
        ) from error
