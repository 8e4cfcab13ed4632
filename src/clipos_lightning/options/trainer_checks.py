"""Checks of Trainer options, for the command line and for a user's own Trainer. No torch."""

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import InputError
from .finite import check_finite, check_size

PACKAGE = Path(__file__).parents[1]
LEAST = {  # option of the Trainer to its least value; Lightning does not check these
    **{"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "val_check_interval": 1e-9},
    **{"gradient_clip_val": 0, "log_every_n_steps": 0, "min_epochs": 0, "min_steps": 0},
}

COPIES = ("ddp_spawn", "ddp_fork", "ddp_notebook")  # and their variants for unused parameters


def check_trainer(options: Mapping[str, Any]) -> None:
    """Check options of the Trainer that Lightning takes and then fails on, or silently ignores.

    Args:
        options: of the Trainer, by their names.

    Raises:
        InputError: a number is not finite, too small or too large, checkpoints are switched off, a callback cannot
            work, or a package is missing.

    Example:
        >>> check_trainer({"max_epochs": 2, "check_val_every_n_epoch": None})
    """
    for name, least in LEAST.items():
        value = options.get(name)
        if isinstance(value, int | float) and value < least:
            bound = f"at least {least}" if isinstance(least, int) else "above 0"
            raise InputError(f"--trainer.{name} is {value}: it must be {bound}")
    for name, value in options.items():
        if isinstance(value, int | float):
            check_finite(value, f"--trainer.{name}")
    devices = str(options.get("devices"))
    if devices.isdecimal():
        check_size(int(devices), "--trainer.devices")
    if options.get("enable_checkpointing") is False:
        raise InputError("--trainer.enable_checkpointing false: fit always writes last.ckpt; leave the option out")
    check_strategy(options.get("strategy"))
    if "BatchSizeFinder" in str(options.get("callbacks")):
        raise InputError(
            "--trainer.callbacks BatchSizeFinder: the batches of fit are few-shot images; set --data.batch_size"
        )
    if options.get("profiler") == "xla" and find_spec("torch_xla") is None:
        raise InputError("--trainer.profiler xla: the package torch_xla is missing; use simple, advanced or pytorch")


def check_strategy(given: Any) -> None:
    """Check that the processes of a strategy run the whole command, and are not copies of this process.

    Args:
        given: ``strategy`` of the Trainer: a name, or a class path with its arguments.

    Raises:
        InputError: they are copies, which hang on a CPU.

    Example:
        >>> check_strategy("ddp")
    """
    name, method = given, None
    if isinstance(given, Mapping):
        name, method = given.get("class_path"), (given.get("init_args") or {}).get("start_method")
    if (isinstance(name, str) and name.startswith(COPIES)) or method not in (None, "popen"):
        plain = f"{name} with start_method {method}" if method else name
        raise InputError(f"--trainer.strategy {plain}: each process must run the whole command; use ddp")


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
