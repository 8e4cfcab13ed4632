"""Read the rows of an earlier ``clipos predict``; each row is checked once, here."""

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..options.schema import Fields, Fraction, Name, find_problem
from ..options.text_files import parse_json
from ..utils.csv_cells import read_name

ROW_COLUMNS = ("path", "class", "probability", "score", "error", "decision", "threshold")
DIGITS = {"probability": ".6g", "score": ".9g", "threshold": ".9g"}
PredictionRow = dict[str, Any]  # column to value; None: no value
DECIDED_ROW = Fields(
    {
        **{"path": Name, "class": Name, "probability": Fraction, "score": float, "error": None},
        **{"decision": Name, "threshold": float | None},
    }
)
UNREADABLE_ROW = Fields({**dict.fromkeys(ROW_COLUMNS), "path": Name, "error": Name})


def read_csv(lines: Iterator[str], path: Path) -> Iterator[PredictionRow]:
    """Read the rows of a CSV that clipos wrote.

    Args:
        lines: of the file.
        path: of the file, for messages.

    Raises:
        InputError: other columns, or a line is not such a row.
    """
    reader = csv.reader(lines)
    try:
        if tuple(next(reader, ROW_COLUMNS)) != ROW_COLUMNS:
            raise InputError(f"--resume: {path} has other columns than {','.join(ROW_COLUMNS)}: give another --out")
        for cells in reader:
            if len(cells) != len(ROW_COLUMNS):
                raise not_a_row_error(path, reader.line_num)
            row = {column: parse_cell(column, cell) for column, cell in zip(ROW_COLUMNS, cells, strict=True)}
            yield check_row(row, path, reader.line_num)
    except csv.Error as error:
        raise not_a_row_error(path, reader.line_num, f" ({error})") from error


def parse_cell(column: str, text: str) -> Any:
    """The value of a cell of the CSV; text in a column of numbers stays text.

    Example:
        >>> parse_cell("score", "1.5"), parse_cell("score", "high"), parse_cell("error", "")
        (1.5, 'high', None)
    """
    try:
        return (float(text) if column in DIGITS else text if column == "path" else read_name(text)) if text else None
    except ValueError:
        return text


def read_jsonl(lines: Iterator[str], path: Path) -> Iterator[PredictionRow]:
    """Read the rows of JSON lines that clipos wrote.

    Args:
        lines: of the file.
        path: of the file, for messages.

    Raises:
        InputError: a line is not such a row.
    """
    for number, line in enumerate(lines, 1):
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or tuple(row) != ROW_COLUMNS:
            raise not_a_row_error(path, number)
        yield check_row(row, path, number)


def check_row(row: PredictionRow, path: Path, number: int) -> PredictionRow:
    """Return a row after checking its values; ``number`` is its line in the file.

    Raises:
        InputError: it is not a row of clipos.
    """
    problem = find_problem(row, DECIDED_ROW if row["error"] is None else UNREADABLE_ROW)
    if problem is not None:
        raise not_a_row_error(path, number, f" ({problem})")
    return row


def not_a_row_error(path: Path, number: int, reason: str = "") -> InputError:
    """The error for a line that is not a row."""
    return InputError(f"--resume: line {number} of {path} is not a row of clipos{reason}: give another --out")


ROW_READERS: dict[str, Callable[[Iterator[str], Path], Iterator[PredictionRow]]] = {
    "csv": read_csv,
    "jsonl": read_jsonl,
}
