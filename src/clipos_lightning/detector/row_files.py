"""Rows of ``clipos predict``: CSV, JSON lines, or aligned for the eye; written whole, so that a killed run goes on."""

import csv
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..utils.files import atomic_write, check_parent

ROW_COLUMNS = ("path", "class", "probability", "score", "error", "decision", "threshold")
DIGITS = {"probability": ".6g", "score": ".9g", "threshold": ".9g"}
JUDGED_AGAIN = 8  # rows that must be what the detector says now, before a run goes on
PredictionRow = dict[str, Any]  # by column; None: nothing to say


def format_value(column: str, value: Any) -> str:
    """A value as it stands in the CSV; nothing as an empty cell."""
    return "" if value is None else value if isinstance(value, str) else format(value, DIGITS[column])


def csv_line(row: PredictionRow | None) -> str:
    """A row as CSV; None: the header."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(
        ROW_COLUMNS if row is None else [format_value(c, row[c]) for c in ROW_COLUMNS]
    )
    return line.getvalue()


def json_line(row: PredictionRow | None) -> str:
    """A row as a JSON object with the digits of the CSV; None: no header."""
    if row is None:
        return ""
    plain = {c: v if v is None or isinstance(v, str) else float(format_value(c, v)) for c, v in row.items()}
    return json.dumps(plain, ensure_ascii=False) + "\n"


def table_line(width: int, color: bool) -> Callable[[PredictionRow | None], str]:
    """Rows aligned for a terminal: decision and class ``width`` wide, the path last, where it may be long."""

    def line(row: PredictionRow | None) -> str:
        if row is None:
            return f"{'decision':<{width}}  {'class':<{width}}  {'prob.':>7}  {'score':>9}  path\n"
        if row["error"]:
            text = f"{'unreadable':<{width}}  {'':<{width}}  {'':>7}  {'':>9}  {row['path']}"
            return f"\x1b[31m{text}\x1b[0m\n" if color else f"{text}\n"
        cells = f"{row['class']:<{width}}  {100 * row['probability']:>5.1f} %  {row['score']:>9.4g}  {row['path']}"
        inside = row["threshold"] is None or row["score"] >= row["threshold"]
        decision = f"{row['decision']:<{width}}"
        return f"{decision}  {cells}\n" if inside or not color else f"\x1b[33m{decision}\x1b[0m  {cells}\n"

    return line


LINES: dict[str, Callable[[PredictionRow | None], str]] = {"csv": csv_line, "jsonl": json_line}


# ---- what an earlier run wrote


def read_csv(lines: Iterator[str], path: Path) -> Iterator[PredictionRow]:
    """Rows of a CSV of ours.

    Raises:
        InputError: other columns.
    """
    reader = csv.DictReader(lines)
    if reader.fieldnames is not None and tuple(reader.fieldnames) != ROW_COLUMNS:
        raise InputError(f"--resume: {path} has other columns than {','.join(ROW_COLUMNS)}: give another --out")
    yield from reader


def read_jsonl(lines: Iterator[str], path: Path) -> Iterator[PredictionRow]:
    """Rows of JSON lines of ours.

    Raises:
        InputError: a line that is no such row.
    """
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or tuple(row) != ROW_COLUMNS:
            raise InputError(f"--resume: line {number} of {path} is not a row of clipos: give another --out")
        yield row


ROW_READERS: dict[str, Callable[[Iterator[str], Path], Iterator[PredictionRow]]] = {
    "csv": read_csv,
    "jsonl": read_jsonl,
}


def whole_part(path: Path, form: str) -> int:
    """Bytes of a file up to the end of its last whole row: a line break, in CSV outside of quotes."""
    end = position = 0
    quoted = False
    with open(path, "rb") as file:
        for line in file:
            position += len(line)
            quoted ^= form == "csv" and line.count(b'"') % 2 == 1
            end = position if line.endswith(b"\n") and not quoted else end
    return end


def lines_until(path: Path, end: int) -> Iterator[str]:
    """The lines of the first ``end`` bytes."""
    with open(path, "rb") as file:
        while file.tell() < end:
            yield file.readline().decode("utf-8", "surrogateescape")


class Done:
    """The paths that have a row already, eight bytes each.

    Args:
        paths: as they stand in the rows.
    """

    def __init__(self, paths: Iterator[str]) -> None:
        self.keys: NDArray[np.uint64] = np.unique(np.fromiter(map(self.key, paths), np.uint64))

    @staticmethod
    def key(path: str) -> int:
        """A hash of the path."""
        return int.from_bytes(blake2b(os.fsencode(path), digest_size=8).digest(), "big")

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, path: str) -> bool:
        if not len(self.keys):
            return False
        key = np.uint64(self.key(path))
        place = int(np.searchsorted(self.keys, key))
        return place < len(self.keys) and bool(self.keys[place] == key)


@dataclass
class RowFile:
    """``--out``: rows are appended to ``NAME.partial``, which becomes ``NAME`` when the last one is written.

    Attributes:
        path: of the finished file.
        form: csv or jsonl.
        done: what an earlier run wrote.
    """

    path: Path
    form: str
    done: Done

    @property
    def partial(self) -> Path:
        """Where rows are until the file is finished."""
        return partial_of(self.path)

    def write(self, batches: Iterator[Sequence[PredictionRow]]) -> None:
        """Append rows, a batch at a time, then put the file in its place."""
        line, first = LINES[self.form], next(batches, [])  # nothing is left of a run that fails before it has a row
        with open(self.partial, "a", encoding="utf-8", errors="surrogateescape", newline="") as file:
            if not file.tell():
                file.write(line(None))
            for rows in chain([first], batches):
                file.write("".join(map(line, rows)))
                file.flush()
        os.replace(self.partial, self.path)


def partial_of(path: Path) -> Path:
    """The unfinished file beside a finished one."""
    return path.with_name(f"{path.name}.partial")


def check_out(path: Path, resume: bool) -> None:
    """``--out`` can be written without losing anything.

    Raises:
        InputError: it exists, or what a stopped run left, and ``--resume`` was not given; or no such folder.
    """
    check_parent(path)
    if not resume and path.exists():
        raise InputError(f"predict: {path} exists; add --resume for the images that it lacks, or give another --out")
    if not resume and partial_of(path).exists():
        raise InputError(f"predict: {partial_of(path)} is of a run that was stopped: add --resume, or remove it")


def open_rows(
    path: Path, form: str, threshold: float | None, same: Callable[[Sequence[PredictionRow]], bool]
) -> RowFile:
    """The output, with what an earlier run left in it; half a row at its end is dropped.

    Args:
        path: of the output.
        form: csv or jsonl.
        threshold: of the detector.
        same: whether the detector says the same of the images of some rows.

    Raises:
        InputError: it is not of ours, or was written with another detector.
    """
    partial = partial_of(path)
    source = partial if partial.exists() else path
    if not source.exists():
        return RowFile(path, form, Done(iter(())))
    end = whole_part(source, form)
    rows = ROW_READERS[form](lines_until(source, end), source)
    first: list[PredictionRow] = []
    done = Done(paths_of(rows, source, format_value("threshold", threshold), first))
    if not same(first):
        raise another_detector(source)
    if source == path:
        with atomic_write(partial) as copy:
            shutil.copyfile(path, copy)
    os.truncate(partial, end)
    return RowFile(path, form, done)


def paths_of(rows: Iterator[PredictionRow], path: Path, threshold: str, first: list[PredictionRow]) -> Iterator[str]:
    """The rows' paths; ``first`` gets the first rows with a decision, which must all have this threshold."""
    for row in rows:
        if not row["error"]:
            if format_value("threshold", row["threshold"]) != threshold:
                raise another_detector(path)
            if len(first) < JUDGED_AGAIN:
                first.append(row)
        yield row["path"]


def another_detector(path: Path) -> InputError:
    """The error for rows that are not of this detector."""
    return InputError(f"--resume: {path} was written with another detector: give another --out")
