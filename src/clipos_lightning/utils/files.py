"""Run folders and atomic file writes."""

import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: it appears at ``path`` complete, or not at all.

    Yields a temporary path in the same folder to write to. It replaces ``path`` when the block ends without an error,
    and is removed otherwise.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "scores.txt"
    >>> with atomic_write(target) as partial:
    ...     _ = partial.write_text("0.5")
    >>> target.read_text(), [path.name for path in target.parent.iterdir()]
    ('0.5', ['scores.txt'])
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")  # unique: there may be concurrent writers
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 text file atomically; undecodable bytes of file names are escaped (``\udce9``), as JSON does."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a value as an indented JSON file, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def expand_home(path: str) -> str:
    """Replace a leading ``~`` or ``~user`` by that home folder, as a shell does.

    Args:
        path: a path, ``folder:PATH`` or ``LABEL=folder:PATH``.

    >>> expand_home("photos/~cat"), expand_home("folder:~/photos") == f"folder:{Path.home()}/photos"
    ('photos/~cat', True)
    """
    mark = re.match("([^/]*=)?folder:", path)
    start = mark.end() if mark else 0
    return path[:start] + os.path.expanduser(path[start:])


def check_parent(path: Path) -> None:
    """Check that the folder of an output file exists and is writable.

    Raises:
        InputError: the folder does not exist, or is not writable.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path.name}: no folder {folder}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path.name}: the folder {folder} is not writable; choose another one")


def new_run_folder(root: Path, command: str) -> Path:
    """Create and return a new folder ``<root>/<command>-<local time>``; ``-2``, ``-3``, … is appended if it exists."""
    stem = f"{command}-{time.strftime('%Y%m%d-%H%M%S')}"
    root.mkdir(parents=True, exist_ok=True)
    k = 1
    while True:
        folder = root / (stem if k == 1 else f"{stem}-{k}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            k += 1
