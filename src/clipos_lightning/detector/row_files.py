"""Output rows of ``clipos predict``: as CSV, as JSON lines or as an aligned text table.

A file is written row by row, so that a run that was killed can be resumed: half a row at its end is dropped.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from ..data.decoding import short_reason
from ..errors import InputError, printable
from ..utils.csv_cells import name_cell, path_cell
from ..utils.files import atomic_write, check_parent, name_target, remove_leftovers, replace_synced
from ..utils.locks import hold_lock
from .decisions import unknown_label
from .row_readers import DIGITS, ROW_COLUMNS, ROW_READERS, PredictionRow

CHECKED_ROWS = 8  # rows that the detector must reproduce before a run is resumed


def format_value(column: str, value: Any) -> str:
    """A value as text; None as an empty one."""
    return "" if value is None else value if isinstance(value, str) else format(value, DIGITS[column])


def format_cell(column: str, value: Any) -> str:
    """A value as text in the CSV; no text begins like a formula."""
    text = format_value(column, value)
    return path_cell(text) if column == "path" else name_cell(text) if isinstance(value, str) else text


def csv_line(row: PredictionRow | None) -> str:
    """A row as a line of CSV; None: the header."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\r\n").writerow(  # it puts quotes around values with characters of this end
        ROW_COLUMNS if row is None else [format_cell(c, row[c]) for c in ROW_COLUMNS]
    )
    return line.getvalue().removesuffix("\r\n") + "\n"


def json_line(row: PredictionRow | None, only_ascii: bool = False) -> str:
    r"""A row as a line with a JSON object, numbers rounded as in the CSV; None: nothing, there is no header.

    Args:
        row: its numbers are finite; undecodable bytes of a path are escaped, as ``\\udce9``.
        only_ascii: escape all characters but ASCII, for streams of another encoding than UTF-8.
    """
    if row is None:
        return ""
    plain = {c: v if v is None or isinstance(v, str) else float(format_value(c, v)) for c, v in row.items()}
    text = json.dumps(plain, ensure_ascii=only_ascii, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def table_line(width: int, color: bool, columns: int | None = None) -> Callable[[PredictionRow | None], str]:
    """A function that formats rows as lines of an aligned text table; None: the header.

    Args:
        width: of the columns decision and class, in characters.
        color: colour rejected and unreadable images by terminal codes.
        columns: width of the terminal, to which the reason of an unreadable image is shortened; None: not shortened.
    """

    def line(row: PredictionRow | None) -> str:
        if row is None:
            return f"{'decision':<{width}}  {'class':<{width}}  {'prob.':>7}  {'score':>9}  path\n"
        path = printable(row["path"])
        if row["error"]:
            text = f"{'unreadable':<{width}}  {'':<{width}}  {'':>7}  {'':>9}  {path}"
            text = with_reason(text, short_reason(path, row["error"]), columns)
            return f"\x1b[31m{text}\x1b[0m\n" if color else f"{text}\n"
        cells = f"{row['class']:<{width}}  {100 * row['probability']:>5.1f} %  {row['score']:>9.4g}  {path}"
        accepted = row["threshold"] is None or row["score"] >= row["threshold"]
        decision = f"{row['decision']:<{width}}"
        return f"{decision}  {cells}\n" if accepted or not color else f"\x1b[33m{decision}\x1b[0m  {cells}\n"

    return line


def with_reason(text: str, reason: str, columns: int | None) -> str:
    """A line with a reason in brackets, which is shortened to the width of the line, or left out if 8 do not fit.

    Example:
        >>> with_reason("a.png", "Permission denied", None), with_reason("a.png", "Permission denied", 20)
        ('a.png (Permission denied)', 'a.png (Permission …)')
    """
    room = len(reason) if columns is None else columns - len(text) - len(" ()")
    if room < min(8, len(reason)):
        return text
    return f"{text} ({reason if len(reason) <= room else f'{reason[: room - 1]}…'})"


LINES: dict[str, Callable[[PredictionRow | None], str]] = {"csv": csv_line, "jsonl": json_line}


# ---- rows of an earlier run


def complete_size(path: Path, form: str) -> int:
    """Size in bytes of a file's complete rows; a row ends with a line break, in CSV with one outside quotes."""
    size = position = 0
    quoted = False
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            quoted ^= form == "csv" and line.count(b'"') % 2 == 1
            size = position if line.endswith(b"\n") and not quoted else size
    return size


def check_tail(path: Path, form: str, size: int) -> None:
    """Check that what follows the complete rows is half a row of ours, which may be dropped.

    Args:
        path: of the file.
        form: csv or jsonl.
        size: bytes of the complete rows.

    Raises:
        InputError: it is of another file, such as text without a line break.
    """
    starts = {"csv": csv_line(None), "jsonl": '{"path": "'}
    start = "" if form == "csv" and size else starts[form]  # after the header of a CSV a row may begin with anything
    with open(path, "rb") as file:
        file.seek(size)
        tail = file.read(len(start)).decode("utf-8", "surrogateescape")
    if not start.startswith(tail):
        raise InputError(f"--resume: {path} ends with text that is not a row of clipos: give another --out")


def read_lines(path: Path, end: int) -> Iterator[str]:
    """The lines in the first ``end`` bytes of a file."""
    with open(path, "rb") as file:
        while file.tell() < end:
            yield file.readline().decode("utf-8", "surrogateescape")


class PathCounts:
    """How often each path occurs, in twelve bytes per path: sorted 64-bit hashes and counts.

    Args:
        paths: an image that is given twice has two rows, so that its path occurs twice.

    Example:
        >>> done = PathCounts(iter(["a.png", "b.png", "a.png"]))
        >>> len(done), [done.take(path) for path in ("a.png", "a.png", "a.png", "c.png")]
        (3, [True, True, False, False])
    """

    def __init__(self, paths: Iterator[str]) -> None:
        keys = np.fromiter(map(self.key, paths), np.uint64)
        self.keys: NDArray[np.uint64]
        self.keys, counts = np.unique(keys, return_counts=True)
        self.left: NDArray[np.uint32] = counts.astype(np.uint32)
        self.size = len(keys)

    @staticmethod
    def key(path: str) -> int:
        """The hash of a path, as the CSV has it."""
        return int.from_bytes(blake2b(os.fsencode(path_cell(path)), digest_size=8).digest(), "big")

    def __len__(self) -> int:
        return self.size

    def take(self, path: str) -> bool:
        """Whether the path occurs once more; this occurrence is then used up."""
        key = np.uint64(self.key(path))
        position = int(np.searchsorted(self.keys, key))
        found = position < len(self.keys) and bool(self.keys[position] == key and self.left[position])
        if found:
            self.left[position] -= 1
        return found


@dataclass
class RowFile:
    """The output file of ``--out``: rows are appended to ``NAME.partial``, which is renamed to ``NAME`` at the end.

    Attributes:
        path: of the finished file.
        form: csv or jsonl.
        done: paths that have a row from an earlier run.
    """

    path: Path
    form: str
    done: PathCounts

    @property
    def partial(self) -> Path:
        """The unfinished file."""
        return partial_path(self.path)

    def write(self, batches: Iterator[Sequence[PredictionRow]]) -> None:
        """Append the rows batch by batch, then rename the file.

        Raises:
            WriteError: the disk is full, or the folder has vanished; the rows so far are kept.
        """
        first = next(batches, [])  # a run that fails before its first row leaves no file
        with name_target(self.path, self.partial):
            file = open(self.partial, "a", encoding="utf-8", errors="surrogateescape", newline="")
        try:
            for rows in chain([first], batches):
                self.append(file, rows)
        finally:
            with name_target(self.path, self.partial):
                file.close()
        with name_target(self.path, self.partial):
            replace_synced(self.partial, self.path)

    def append(self, file: TextIO, rows: Sequence[PredictionRow]) -> None:
        """Write rows to the unfinished file, after a header if it is empty."""
        line = LINES[self.form]
        with name_target(self.path, self.partial):
            if not file.tell():
                file.write(line(None))
            file.write("".join(map(line, rows)))
            file.flush()


def partial_path(path: Path) -> Path:
    """The unfinished file of an output file, in the same folder."""
    return path.with_name(f"{path.name}.partial")


@contextmanager
def lock_out(path: Path) -> Iterator[None]:
    """Hold the lock of ``--out`` while rows are written to it.

    Raises:
        InputError: another process writes to it, or its folder does not exist or is not writable.
    """

    def refuse(holder: str) -> None:
        raise InputError(f"predict: {holder} is writing --out {path}: wait until it ends, or give another --out")

    check_parent(path)
    with hold_lock(path, refuse) as locked:
        if locked:
            remove_leftovers(partial_path(path))
        yield


def check_out(path: Path, resume: bool) -> None:
    """Check that ``--out`` can be written without losing rows.

    Args:
        path: of the output.
        resume: whether ``--resume`` was given.

    Raises:
        InputError: the file or its unfinished file exists and ``--resume`` was not given.
    """
    if not resume and path.exists():
        raise InputError(f"predict: {path} exists: add --resume for the images that it lacks, or give another --out")
    if not resume and partial_path(path).exists():
        raise InputError(f"predict: {partial_path(path)} exists, of a run that was stopped: add --resume, or remove it")


def open_rows(
    path: Path,
    form: str,
    thresholds: Mapping[str, float | None],
    reproduces: Callable[[Sequence[PredictionRow]], bool],
) -> RowFile:
    """Open the output, with the rows that an earlier run left in it; half a row at its end is dropped.

    Args:
        path: of the output.
        form: csv or jsonl.
        thresholds: of the detector, by class; every row with a decision must have that of its class.
        reproduces: whether the detector gives the same rows again; called with the first rows that have a decision.

    Raises:
        InputError: the file was not written by clipos, or with another detector.
    """
    partial = partial_path(path)
    source = partial if partial.exists() else path
    if not source.exists():
        return RowFile(path, form, PathCounts(iter(())))
    size = complete_size(source, form)
    check_tail(source, form, size)
    rows = ROW_READERS[form](read_lines(source, size), source)
    first: list[PredictionRow] = []
    expected = {name: format_value("threshold", threshold) for name, threshold in thresholds.items()}
    done = PathCounts(check_thresholds(rows, source, expected, first))
    if not reproduces(first):
        raise other_detector_error(source)
    if source == path:
        with atomic_write(partial) as copy:
            shutil.copyfile(path, copy)
    with name_target(path, partial):
        os.truncate(partial, size)
    return RowFile(path, form, done)


def check_thresholds(
    rows: Iterator[PredictionRow], path: Path, thresholds: Mapping[str, str], first: list[PredictionRow]
) -> Iterator[str]:
    """Yield the path of each row, after a check that the detector could have written it.

    Args:
        rows: of an earlier run.
        path: of their file, for messages.
        thresholds: the expected threshold of each class, as text.
        first: gets the first :data:`CHECKED_ROWS` rows that have a decision.

    Raises:
        InputError: a row has another class, threshold or decision.
    """
    unknown = unknown_label([*thresholds])
    for row in rows:
        if not row["error"]:
            same = format_value("threshold", row["threshold"]) == thresholds.get(row["class"])
            if not same or row["decision"] not in (row["class"], unknown):
                raise other_detector_error(path)
            if len(first) < CHECKED_ROWS:
                first.append(row)
        yield row["path"]


def other_detector_error(path: Path) -> InputError:
    """The error for a file with rows of another detector."""
    return InputError(f"--resume: {path} was written with another detector: give another --out")
