"""Files of a run: its folder, and writes that are whole or not there."""

import json
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to, moved into place when the block ends without an error."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")  # others may write the same
    try:
        yield partial
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; bytes of file names that are not UTF-8 as JSON escapes them."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def check_parent(path: Path) -> None:
    """A file can be written where it shall lie.

    Raises:
        InputError: no such folder, or not one to write to.
    """
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"no folder {folder} to write {path.name} to: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder} cannot be written to: {path.name} needs another place")


def new_run_folder(root: Path, command: str) -> Path:
    """Make ``<root>/<command>-<local time>[-k]``; never one that exists."""
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
