"""Text in CSV files that no spreadsheet takes for a formula, and that reads back as it was."""

import re

FORMULA = "=+-@\t\r\n＝＋－＠"  # spreadsheets calculate what begins with these
GUARDED = re.compile(f"'+[{re.escape(FORMULA)}]")


def path_cell(path: str) -> str:
    """A path for a CSV: one that would be a formula starts with ``./``, so that it is still the same file.

    Example:
        >>> path_cell("=1+1.png"), path_cell("photos/=1.png")
        ('./=1+1.png', 'photos/=1.png')
    """
    return f"./{path}" if path.startswith(tuple(FORMULA)) else path


def name_cell(name: str) -> str:
    """A name for a CSV: one that would be a formula gets an apostrophe in front, as spreadsheets mark text.

    A name that starts with apostrophes before such a character gets one more, so that :func:`read_name` is exact.

    Example:
        >>> name_cell("=SUM(A1)"), name_cell("cat"), name_cell("-5 °C"), name_cell("'=x")
        ("'=SUM(A1)", 'cat', "'-5 °C", "''=x")
    """
    return f"'{name}" if name.startswith(tuple(FORMULA)) or GUARDED.match(name) else name


def read_name(cell: str) -> str:
    """The name in a cell that :func:`name_cell` wrote.

    Example:
        >>> [read_name(name_cell(name)) for name in ("=x", "'=x", "'x", "x")]
        ['=x', "'=x", "'x", 'x']
    """
    return cell[1:] if GUARDED.match(cell) else cell
