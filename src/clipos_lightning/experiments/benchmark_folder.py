"""The output folder of a benchmark: ``grid.json`` marks it; files of others in it are never replaced."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..utils.files import make_folder
from ..utils.progress import print_once
from .grid import run_digest
from .latex import PREAMBLE
from .run_files import read_plan

RESULTS = tuple(f"results.{suffix}" for suffix in ("json", "md", "csv", "tex", "html"))
STARTS = {  # how a benchmark's files begin, up to the first dot or hyphen of their names
    "grid.json": ('{\n  "schema": ',),
    "timing.json": ('{\n  "training": ',),
    "results.json": ('{\n "schema": ', '{\n  "schema": '),
    "results.csv": ("row,", "map,surgery,"),
    "results.tex": (PREAMBLE,),
    "results.html": ('<!doctype html>\n<html lang="en">\n<head>\n',),
}


def prepare_folder(folder: Path, plan: Mapping[str, Any], written: Sequence[str]) -> None:
    """Create the output folder, or check that it holds the same grid, possibly with other rows, and no files of others.

    Args:
        folder: the folder for runs and tables.
        plan: the contents of the ``grid.json`` that will be written.
        written: names of the other files that will be written directly in the folder.

    Raises:
        InputError: it is a file, or holds another grid, the same grid with other options, or a file under one of the
            names that no benchmark wrote.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"benchmark: --out {folder} is a file: give a folder")
    make_folder(folder)
    former = read_own_plan(folder) or plan
    if former["name"] != plan["name"]:
        raise InputError(f"benchmark: {folder} holds grid {former['name']!r}: give another --out for {plan['name']!r}")
    runs = digests(plan)
    found = digests(former) if former is not plan else digests_of_folders(folder)
    if found and runs and found.isdisjoint(runs):
        raise InputError(f"benchmark: {folder} holds grid {plan['name']!r} with other options: give another --out")
    foreign = foreign_files(folder, [plan["title"], former["title"]], written)
    if foreign:
        raise InputError(
            f"benchmark: {folder} has {', '.join(foreign)} that `clipos benchmark` did not write: move it, or give "
            "another --out"
        )


def digests(plan: Mapping[str, Any]) -> set[str]:
    """Digests of the runs of a plan."""
    return {run_digest(entry["run"]) for entry in plan["entries"]}


def digests_of_folders(folder: Path) -> set[str]:
    """Digests of the runs in a folder with a damaged ``grid.json``; none if there is no such file."""
    return {run_digest(path.parent.name) for path in folder.glob("runs/*/run.json") if (folder / "grid.json").exists()}


def read_own_plan(folder: Path) -> dict[str, Any] | None:
    """The folder's ``grid.json``; None if it does not exist, or is damaged, which is noted on stderr.

    Raises:
        InputError: it is not a benchmark's, or of another version.
    """
    path = folder / "grid.json"
    if not path.exists():
        return None
    try:
        return read_plan(folder)
    except InputError as error:
        if is_foreign(path, STARTS[path.name]):
            raise
        print_once(f"note: {error}: written again", sys.stderr)
        return None


def foreign_files(folder: Path, titles: Sequence[str], written: Sequence[str]) -> list[str]:
    """The existing files among ``written`` that no benchmark wrote; ``titles`` are the grid's, now and before."""
    present = [name for name in written if (folder / name).exists()]
    if not (folder / "grid.json").exists():
        return present
    starts = STARTS | {"results.md": tuple(f"# {title}" for title in titles)}
    starts |= {name: starts["timing.json"] for name in written if name.startswith("timing")}
    return [name for name in present if name in starts and is_foreign(folder / name, starts[name])]


def is_foreign(path: Path, starts: Sequence[str]) -> bool:
    """Whether a file is text that does not begin in one of these ways; what is no text is damaged, or cannot be read.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "results.md"
        >>> contents = (b"# Mine", b"# The grid: 3 rows", b"# Th", b"", bytes(9))
        >>> [is_foreign(path, ["# The grid"]) for content in contents if path.write_bytes(content) >= 0]
        [True, False, False, False, False]
    """
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        return False
    own = any(text.startswith(start) or start.startswith(text) for start in starts)
    return not own and "\0" not in text
