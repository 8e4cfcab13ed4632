"""Progress of long work on stderr: a bar on a terminal, otherwise a line every 30 s; messages of other libraries.

Nothing heavy is imported before it is needed, so that commands without torch can use it.
"""

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from io import TextIOBase
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from .quiet import ignore_expected_warnings

if TYPE_CHECKING:
    from tqdm import tqdm

ItemT = TypeVar("ItemT")
Total = float | Callable[[], int | None] | None  # number of items, a function that counts them, or unknown
CLOSE_SECONDS = 1.0  # counting the items for a line may take longer
LINE_SECONDS = 30.0  # from one line of progress to the next
BYTES = "B"  # unit of downloads; lines show MB
PERIODS = ((1, "s"), (60, "min"), (3600, "h"), (86400, "days"))  # seconds and name


_rank = 0  # of this process in a run of the command line


def process_rank() -> int:
    """The global rank of this process; 0 outside of distributed runs, whatever environment variables say."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return int(distributed.get_rank())
    return _rank


def set_process_rank(rank: int) -> None:
    """Set the rank before the processes are connected, also for Lightning, which would take the environment's."""
    global _rank
    from lightning.pytorch.utilities import rank_zero_only  # slow to import

    _rank = rank_zero_only.rank = rank  # type: ignore[attr-defined]


def print_once(line: str, file: TextIO | TextIOBase | None = None) -> None:
    """Print a line on rank 0, to stdout or another file, and flush it."""
    if process_rank() == 0:
        print(line, file=file, flush=True)


# ---- bars and lines


class ProgressLines:
    """Progress as a plain line on stderr every 30 s; work that is shorter prints nothing. It is used like a tqdm bar.

    Args:
        description: what is being done.
        total: number of items; a function that counts them is called for the first line only.
        unit: plural name of the items, or ``B`` for bytes.
        done: items that were done before.
    """

    def __init__(self, description: str, total: Total = None, unit: str = "batches", done: float = 0) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.n = self.first = done
        self.postfix = ""
        self.start, self.closed = time.monotonic(), threading.Event()
        self.printer = threading.Thread(target=self.print_lines, daemon=True)
        self.printer.start()

    def print_lines(self) -> None:
        """Print a line every :data:`LINE_SECONDS` until :meth:`close`; runs in a thread of its own."""
        while not self.closed.wait(LINE_SECONDS):
            with suppress(OSError, ValueError):  # folders that vanished, stderr closed
                sys.stderr.write(f"{self}\n")
                sys.stderr.flush()

    def __str__(self) -> str:
        if callable(self.total):
            self.total = self.total()
        seconds = time.monotonic() - self.start
        line = progress_line(self.description, self.n, self.total, self.unit, seconds, self.first)
        return f"{line}, {self.postfix}" if self.postfix else line

    def update(self, count: float = 1) -> None:
        """Advance by a number of items."""
        self.n += count

    def set_description(self, text: str, refresh: bool = True) -> None:
        """Text at the start of the following lines."""
        self.description = text

    def set_postfix_str(self, text: str, refresh: bool = True) -> None:
        """Text at the end of the following lines."""
        self.postfix = text

    def close(self) -> None:
        """Print no more lines; one that is being printed is waited for."""
        self.closed.set()
        self.printer.join(CLOSE_SECONDS)

    def __enter__(self) -> "ProgressLines":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def progress_line(description: str, n: float, total: float | None, unit: str, seconds: float, first: float = 0) -> str:
    """How far some work is, how fast it is, and how long it still takes at this rate.

    Args:
        description: what is being done.
        n: items that are done.
        total: number of items; None: unknown.
        unit: plural name of the items, or ``B`` for bytes, which are shown as MB.
        seconds: since the start.
        first: items that were done before the start.

    Example:
        >>> progress_line("predict", 12_000, 100_000, "images", seconds=300)
        'predict: 12,000 of 100,000 images (12 %), 40 images/s, about 37 min left'
        >>> progress_line("a.tar", 5e6, None, "B", seconds=10)
        'a.tar: 5 MB, 0.5 MB/s'
    """
    scale, name = (1e6, "MB") if unit == BYTES else (1.0, unit)
    rate = (n - first) / seconds if seconds else 0.0
    if total:
        parts = [f"{n / scale:,.0f} of {total / scale:,.0f} {name} ({int(100 * min(n / total, 1))} %)"]
    else:
        parts = [f"{n / scale:,.0f} {name}"]
    if rate:
        parts.append(format_rate(rate / scale, name))
    if rate and total and total > n:
        parts.append(f"about {format_duration((total - n) / rate)} left")
    return f"{description}: {', '.join(parts)}"


def format_rate(rate: float, unit: str) -> str:
    """A rate per second, or per minute or hour if it is slow.

    Example:
        >>> [format_rate(rate, "images") for rate in (1234.5, 2.34, 0.02)]
        ['1,234 images/s', '2.3 images/s', '1.2 images/min']
    """
    size, name = next((size, name) for size, name in PERIODS if rate * size >= 0.5 or name == "h")
    count = rate * size
    return f"{count:,.0f} {unit}/{name}" if count >= 9.95 else f"{count:.2g} {unit}/{name}"


def format_duration(seconds: float) -> str:
    """A duration in seconds, minutes, hours or days, whichever gives a number of one or two digits.

    Example:
        >>> [format_duration(seconds) for seconds in (40, 2200, 8000, 400_000)]
        ['40 s', '37 min', '2 h', '5 days']
    """
    size, name = next((size, name) for size, name in PERIODS if seconds < 99 * size or name == "days")
    return f"{seconds / size:.0f} {name}"


def open_bar(
    description: str,
    total: Total = None,
    unit: str = "batches",
    done: float = 0,
    leave: bool = False,
    shown: bool = True,
) -> "tqdm[Any] | ProgressLines":
    """A tqdm bar on stderr if that is a terminal, otherwise :class:`ProgressLines`.

    Args:
        description: what is being done.
        total: number of items, or a function that counts them; None: unknown.
        unit: plural name of the items, or ``B`` for bytes.
        done: items that were done before.
        leave: keep the bar on the terminal when it is closed.
        shown: False: nothing is printed.
    """
    if shown and not sys.stderr.isatty():
        return ProgressLines(description, total, unit, done)
    from tqdm import tqdm  # takes 0.1 s

    scaled: dict[str, Any] = {"unit_scale": True, "unit_divisor": 1024} if unit == BYTES else {}
    name = unit if unit == BYTES else f" {unit}"
    if callable(total):
        total = total() if shown else None
    return tqdm(
        desc=description,
        total=total,
        unit=name,
        initial=done,
        leave=leave,
        disable=not shown,
        dynamic_ncols=True,
        **scaled,
    )


def track(items: Iterable[ItemT], description: str, unit: str = "batches", shown: bool = True) -> Iterator[ItemT]:
    """Iterate and show the progress, on rank 0 only.

    Args:
        items: what to iterate over.
        description: what is being done.
        unit: plural name of the items.
        shown: False: only iterate.
    """
    total = len(items) if isinstance(items, Sized) else None
    with open_bar(description, total, unit, shown=shown and process_rank() == 0) as bar:
        yield from advancing(items, bar)


def advancing(items: Iterable[ItemT], bar: "tqdm[Any] | ProgressLines") -> Iterator[ItemT]:
    """Iterate, and advance a bar by one after each item."""
    for item in items:
        yield item
        bar.update(1)


@contextmanager
def notify_if_slow(what: str, seconds: float = 8.0, temporary: bool = False) -> Iterator[None]:
    """Print a message on stderr if the body takes long.

    Args:
        what: the message.
        seconds: how long the body may take without it.
        temporary: print it on a terminal only, and erase it at the end of the body.
    """
    printed = threading.Event()

    def show() -> None:
        printed.set()
        print(what, file=sys.stderr, end="" if temporary else "\n", flush=True)

    timer = threading.Timer(seconds, show)
    timer.daemon = True
    if not temporary or sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()  # the message may be half printed
        if temporary and printed.is_set():
            print("\r\x1b[K", file=sys.stderr, end="", flush=True)


# ---- other libraries


def silence_libraries() -> None:
    """Silence Lightning's log lines and the warnings that need no action; stderr is for errors."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ignore_expected_warnings()
    for message in (
        r".*exists and is not empty.*",
        r".*LightningCLI's args parameter.*",
        r".*GPU available but not used.*",
        r"\s*Unable to serialize instance",  # of jsonargparse; it is an error of ours
    ):
        warnings.filterwarnings("ignore", message)
