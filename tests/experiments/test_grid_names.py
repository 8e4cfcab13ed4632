"""Names in grid files that YAML would read as numbers or truth values: text as it is written."""

from pathlib import Path

import pytest

from clipos_lightning.errors import InputError
from clipos_lightning.experiments.grid import read_grid

pytestmark = pytest.mark.badinput


def test_names_of_rows_title_and_reference(tmp_path: Path) -> None:
    rows = "".join(
        f"  {name}: {{options: {{data.shots: {i}}}}}\n" for i, name in enumerate(("1.1", "1.10", "yes", "010"))
    )
    (tmp_path / "g.yaml").write_text(f"title: 2024_01\nreference: 1.10\nseeds: [1]\nrows:\n{rows}")
    grid = read_grid(tmp_path / "g.yaml")
    assert (grid.title, grid.reference) == ("2024_01", "1.10")
    assert [(row.name, row.options["data.shots"]) for row in grid.rows] == [
        ("1.1", 0),
        ("1.10", 1),
        ("yes", 2),
        ("010", 3),
    ]


@pytest.mark.parametrize("key", ["title", "reference"])
def test_empty_names_are_none(key: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(f"# The first line\n{key}: null\nrows: {{a: {{}}}}\n")
    grid = read_grid(tmp_path / "g.yaml")
    assert (grid.title, grid.reference) == ("The first line", "")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rows: {1.1: {}, '1.1': {}}\n", "'1.1' is a second time"),
        ("rows: {1.10: {}}\nreference: 1.1\n", "reference '1.1' is not one of its rows"),
        ("rows: {1: {}, 1.0: 5}\n", "row '1.0' of grid .* must be a mapping"),
        ("rows: {1: {options: {2: 3}}}\n", "row '1' of grid .*: options must map dotted options"),
        ("1: 2\nrows: {a: {}}\n", "has the unknown key '1'"),
    ],
)
def test_names_that_are_wrong(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(InputError, match=f"^benchmark: .*{says}"):
        read_grid(tmp_path / "g.yaml")
