"""Rows of an earlier run that clipos did not write: the line and the part are named."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipos_lightning import InputError
from clipos_lightning.detector.row_files import csv_line, json_line, open_rows
from clipos_lightning.detector.row_readers import ROW_COLUMNS, ROW_READERS

pytestmark = pytest.mark.badinput
GOOD = dict(zip(ROW_COLUMNS, ("a.png", "cat", 0.5, -1.5, None, "unknown", 2.0), strict=True))
BROKEN = {**dict.fromkeys(ROW_COLUMNS), "path": "b.png", "error": "cannot read b.png"}


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_rows_that_were_written_are_read_as_they_were(form: str) -> None:
    line = {"csv": csv_line, "jsonl": json_line}[form]
    lines = [text for text in (line(None), line(GOOD), line(BROKEN)) if text]
    assert list(ROW_READERS[form](iter(lines), Path("o"))) == [GOOD, BROKEN]


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("path", "", "path is None, expected text"),
        ("class", "", "class is None, expected text"),
        ("probability", "", "probability is None, expected a number in"),
        ("probability", "high", "probability is 'high'"),
        ("probability", "1.5", "probability is 1.5"),
        ("probability", "nan", "probability is nan"),
        ("score", "inf", "score is inf, expected a finite number"),
        ("score", "low", "score is 'low'"),
        ("decision", "", "decision is None"),
        ("threshold", "nan", "threshold is nan, expected a finite number or null"),
        ("error", "no file", "class is 'cat', expected null"),
        ("path", "x" * 200_000, "field larger than field limit"),
        ("path", "a,b", ""),
    ],
)
def test_a_wrong_cell_in_a_csv(column: str, value: str, says: str) -> None:
    cells = csv_line(GOOD).rstrip("\n").split(",")
    cells[ROW_COLUMNS.index(column)] = value
    lines = [csv_line(None), csv_line(GOOD), ",".join(cells) + "\n"]
    with pytest.raises(InputError, match=r"^--resume: line 3 of o is not a row of clipos") as caught:
        list(ROW_READERS["csv"](iter(lines), Path("o")))
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("path", None),
        ("path", 3),
        ("path", ["a.png"]),
        ("class", []),
        ("class", True),
        ("probability", "0.5"),
        ("probability", -0.1),
        ("score", float("nan")),
        ("score", {"a": 1}),
        ("score", 10**400),
        ("error", "no file"),
        ("error", 0),
        ("error", ""),
        ("decision", None),
        ("threshold", "2"),
        ("threshold", False),
    ],
)
def test_a_wrong_value_in_json_lines(column: str, value: Any) -> None:
    lines = [json_line(GOOD), json.dumps({**GOOD, column: value}) + "\n"]
    with pytest.raises(InputError, match=r"^--resume: line 2 of o is not a row of clipos \(.* is .*, expected"):
        list(ROW_READERS["jsonl"](iter(lines), Path("o")))


def test_a_decision_that_the_detector_cannot_have_made(tmp_path: Path) -> None:
    for decision, written_by_it in (("unknown", True), ("cat", True), ("dog", False)):
        (tmp_path / "o.jsonl").write_text(json_line({**GOOD, "decision": decision}))
        if written_by_it:
            assert len(open_rows(tmp_path / "o.jsonl", "jsonl", {"cat": 2.0, "dog": 2.0}, lambda rows: True).done) == 1
            (tmp_path / "o.jsonl.partial").unlink()
        else:
            with pytest.raises(InputError, match="was written with another detector"):
                open_rows(tmp_path / "o.jsonl", "jsonl", {"cat": 2.0, "dog": 2.0}, lambda rows: True)
