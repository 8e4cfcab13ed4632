"""Signals that end a command: one line on stderr, how to go on, and the exit code 128 + signal. No torch.

The first signal raises :class:`Stopped` in the main thread: files are left whole and worker processes end. Before the
command's own code starts, and at a further signal after :data:`REPEAT_SECONDS`, the process ends at once. A signal that
is ignored when the command starts, such as SIGHUP under ``nohup``, stays ignored.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from ..utils.launcher import is_helper
from ..utils.stop_signals import REASONS

REPEAT_SECONDS = 2.0  # schedulers and terminals send a signal twice; later, somebody does not want to wait
RESEND_SECONDS = 0.05
COLLECT_SECONDS = 1.0
SAME_COMMAND = "run the same command again"
ADVICE = {
    "app": "",  # there is nothing to go on with
    "benchmark": f"{SAME_COMMAND}: finished detectors and scores are kept",
    "data": f"{SAME_COMMAND}: files that are downloaded are kept",
}


class Stopped(KeyboardInterrupt):
    """A signal ends the command; Lightning and the ``finally`` clauses treat it as Ctrl-C."""


@dataclass
class StopState:
    """What a signal does now.

    Args:
        signum: the first signal; None: there was none.
        time: of that signal, in seconds of the monotonic clock.
        unwinds: whether the first signal raises :class:`Stopped`; False: it ends the process.
        pid: the process that the signals are for.
        helper: whether another process of the same launch reports for this one.
        advice: returns the lines that say how to go on, or "".
        reported: whether the lines are printed.
        child_handler: the former handler of SIGCHLD, once it is replaced.
    """

    signum: int | None = None
    time: float = 0.0
    unwinds: bool = False
    pid: int = field(default_factory=os.getpid)
    helper: bool = field(default_factory=lambda: is_helper(os.environ))
    advice: Callable[[], str] = str
    reported: bool = False
    child_handler: Any = None


_state = StopState()


@contextmanager
def stoppable() -> Iterator[StopState]:
    """Handle the signals inside a ``with`` block; afterwards the former handlers are back.

    Yields:
        The state, whose ``signum`` tells whether a signal arrived.
    """
    global _state
    _state = StopState()
    former, hook = install_handlers(), sys.unraisablehook
    sys.unraisablehook = resend_if_lost
    try:
        yield _state
    finally:
        sys.unraisablehook = hook
        if _state.child_handler is not None:
            former[signal.SIGCHLD] = _state.child_handler
        for signum, handler in former.items():
            signal.signal(signum, handler)
        _state.unwinds = False


def install_handlers() -> dict[int, Any]:
    """Handle the signals from now on; returns the former handlers. In other threads, this does nothing."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    former = {signum: signal.getsignal(signum) for signum in REASONS}
    former = {signum: handler for signum, handler in former.items() if handler not in (signal.SIG_IGN, None)}
    for signum in former:
        signal.signal(signum, handle)
    return former


def ignore_when_stopped() -> None:
    """Ignore further signals after the first; for the interpreter's exit, where handlers no longer run."""
    if _state.signum is not None:
        for signum in REASONS:
            signal.signal(signum, signal.SIG_IGN)


def handle(signum: int, frame: FrameType | None) -> None:
    """Stop the command.

    Raises:
        Stopped: at the first signal, if there is something to clean up.
    """
    if os.getpid() != _state.pid:  # a process that was forked, before it has its own handlers
        os._exit(128 + signum)
    if _state.signum is None:
        _state.signum, _state.time = signum, time.monotonic()
        if _state.unwinds:
            kill_workers()
            raise Stopped
        end_now(signum)
    elif time.monotonic() - _state.time > REPEAT_SECONDS:
        end_now(_state.signum)


def end_now(signum: int) -> None:
    """End the process without any clean-up; worker processes notice it and end too."""
    with suppress(Exception):  # closed, or interrupted while it was written to
        sys.stdout.flush()
    os._exit(report_stop(signum))


def kill_workers() -> None:
    """Kill the data workers, whose images nobody needs any more; they would finish their batches first."""
    processes = sys.modules.get("multiprocessing")
    workers = [] if processes is None else [child for child in processes.active_children() if child.daemon]
    if workers and hasattr(signal, "SIGCHLD"):  # torch's handler raises an error for a killed worker
        _state.child_handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join(COLLECT_SECONDS)  # collected, so that torch's handler, which others may restore, does not see it


def resend_if_lost(unraisable: Any) -> None:
    """Send the signal again if its exception was raised where Python ignores exceptions, as in a ``__del__``."""
    if not isinstance(unraisable.exc_value, Stopped) or _state.signum is None:
        return sys.__unraisablehook__(unraisable)
    signum, _state.signum = _state.signum, None
    timer = threading.Timer(RESEND_SECONDS, os.kill, (os.getpid(), signum))
    timer.daemon = True
    timer.start()


def start_work(command: str) -> None:
    """From now on there is something to clean up: a signal raises :class:`Stopped`."""
    advise(lambda: ADVICE.get(command, SAME_COMMAND))
    _state.unwinds = True


def advise(describe: Callable[[], str]) -> None:
    """Set how to go on after a signal: a function that returns one or two lines."""
    _state.advice = describe


def report_stop(signum: int) -> int:
    """Print the reason and how to go on; returns the exit code, like a shell: 128 + the signal."""
    if not _state.helper:
        report_reason(f"clipos: {REASONS[signum]}")
    return 128 + signum


def report_reason(reason: str) -> None:
    """Print a line that says what ended the command, and how to go on."""
    if _state.reported:
        return
    _state.reported, advice = True, ""
    with suppress(Exception):
        advice = _state.advice()
    lines = "".join(f"{line}\n" for line in (reason, advice) if line)
    with suppress(Exception):  # the terminal is gone, or stderr is closed
        sys.stderr.write(f"\r\x1b[K{lines}" if sys.stderr.isatty() else lines)
        sys.stderr.flush()


def rows_advice(partial: Path, rows: int) -> str:
    """How to go on with a prediction that was stopped.

    Args:
        partial: the unfinished file of rows.
        rows: number of rows that the stopped command added.

    Example:
        >>> rows_advice(Path("nowhere"), 0)
        'run the same command again'
    """
    return f"{partial} has {rows} new rows: continue with --resume" if partial.exists() else SAME_COMMAND


def resume_advice(folder: Path, root: str) -> str:
    """How to go on with a training that was stopped.

    Args:
        folder: of the run.
        root: the data root to name, quoted, or "".

    Example:
        >>> resume_advice(Path("nowhere"), "")
        'nothing was trained yet: run the same command again'
    """
    checkpoint = folder / "last.ckpt"
    if not checkpoint.exists():
        return f"nothing was trained yet: {SAME_COMMAND}"
    return f"go on: clipos fit --ckpt_path {shlex.quote(str(checkpoint))}{root and f' --data.root {root}'}"
