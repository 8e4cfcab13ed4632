"""Silence of other libraries while our own messages report what is wrong. No Lightning."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO


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
