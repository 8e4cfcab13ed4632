"""Where a cell's files are. No torch."""

from pathlib import Path
from urllib.parse import quote


def digest_of(cell: str) -> str:
    """The digest of all its options: the last part of a cell's name."""
    return cell.rpartition("-")[2]


def find_cell(folder: Path, cell: str) -> Path | None:
    """The folder of a cell by its digest, whatever it is called in this plan; None: none."""
    return next(iter(sorted((folder / "cells").glob(f"*-{digest_of(cell)}"))), None)


def file_name(name: str) -> str:
    """The file of a set's scores; a set's name may hold a slash."""
    return f"{quote(name, safe=' ')}.npz"


def slug(text: str) -> str:
    """For file names."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower()).strip("-")
