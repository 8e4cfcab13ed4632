"""Worker processes: only the main process handles signals and stops its workers, and they end when it dies.

A terminal or a scheduler sends a signal to the main process and to all its workers. A worker that ended by itself would
look like a crash to the main process. No torch.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from .stop_signals import REASONS

MAIN_SIGNALS = [signum for signum in REASONS if signum != signal.SIGTERM]
TERM_SECONDS = 1.0  # from SIGTERM to the end of a worker; the main process acts on its own SIGTERM before
PARENT_SECONDS = 0.5


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back in worker processes that start inside the block, until :func:`shield_worker`."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*MAIN_SIGNALS, signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shield_worker(*_: object) -> None:
    """The first function of a worker process: ignore the main process's signals, and end when it dies.

    SIGTERM is also what the main process ends a stuck worker with, so the worker ends a second later.
    """
    for signum in MAIN_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_soon)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [*MAIN_SIGNALS, signal.SIGTERM])
        threading.Thread(target=end_with, args=(parent_pid(),), daemon=True).start()


def parent_pid() -> int:
    """The process whose death ends this one: the one that started it, even if that died meanwhile."""
    main = multiprocessing.parent_process()
    served = main is None or multiprocessing.get_start_method(allow_none=True) == "forkserver"
    return os.getppid() if served or main is None or main.pid is None else main.pid


def end_soon(signum: int, frame: FrameType | None) -> None:
    """End this process after :data:`TERM_SECONDS`, silently."""
    timer = threading.Timer(TERM_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()


def end_with(parent: int) -> None:
    """End this process when its parent is another one than ``parent``, which died."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
