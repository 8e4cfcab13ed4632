"""Silence of other libraries while our own messages report what is wrong. No Lightning."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO

EXPECTED_WARNINGS = (  # of Lightning and torch about what this package does on purpose; no action is needed
    r"The '\w+_dataloader' does not have many workers",  # a step's images are frozen features
    r"Total length of .* across ranks is zero",  # no validation in fit
    r"Found \d+ module\(s\) in eval mode",  # the backbone is frozen
    r".*is smaller than the logging interval",  # few-shot epochs are short
    r"You're resuming from a checkpoint that ended before the epoch",  # batches depend on seed and step only
    r"It is recommended to use .self\.log.*sync_dist=True",  # metrics are computed over all processes
    r".*isinstance\(treespec, LeafSpec\)",  # a Lightning that is older than torch
)


def ignore_expected_warnings() -> None:
    """Ignore :data:`EXPECTED_WARNINGS`, and no others, until :func:`restore_expected_warnings`."""
    for message in EXPECTED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def restore_expected_warnings() -> None:
    """Undo :func:`ignore_expected_warnings`, for other modules and Trainers of the process."""
    for message in EXPECTED_WARNINGS:
        entry = ("ignore", re.compile(message, re.IGNORECASE), Warning, None, 0)  # as filterwarnings makes it
        if entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]  # a list


@contextmanager
def quiet(streams: bool = False) -> Iterator[None]:
    """Suppress log lines and warnings of other libraries inside a ``with`` block; the caller reports errors itself.

    Args:
        streams: also suppress everything that is printed to stdout and stderr, by any thread.
    """
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.ERROR))
    try:
        with ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            if streams:
                stack.enter_context(redirect_stdout(StringIO()))
                stack.enter_context(redirect_stderr(StringIO()))
            yield
    finally:
        logging.disable(disabled)
