"""Run folders and atomic file writes."""

import errno
import glob
import json
import math
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InputError

DEVICE_ERRORS = {  # errors of writing to an open file, which name no file
    *(errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EIO),
    getattr(errno, "EDQUOT", errno.ENOSPC),  # Windows has no quotas
}
NAME_PART = 40  # characters of a file's name in the name of its temporary file, which may have 255 bytes


class WriteError(OSError):
    """A file or folder cannot be written: ``errno``, ``strerror``, and as ``filename`` the path that was wanted."""


@contextmanager
def name_target(target: Path, temporary: Path) -> Iterator[None]:
    """Raise errors of writing a temporary file as those of the file that it will replace.

    Raises:
        WriteError: for an OSError that names the temporary file or its folder, or no file at all.
    """
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        names = (str(temporary), str(temporary.parent))
        ours = error.errno in DEVICE_ERRORS if error.filename is None else str(error.filename) in names
        if not ours:
            raise
        raise WriteError(error.errno, error.strerror, str(target)) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Write a file atomically: it appears at ``path`` complete, or not at all, also if the machine loses power.

    Yields a temporary path in the same folder to write to. It replaces ``path`` when the block ends without an error,
    and is removed otherwise.

    Raises:
        WriteError: the file cannot be written: the disk is full, the folder is read-only or has vanished, …

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "scores.txt"
    >>> with atomic_write(target) as partial:
    ...     _ = partial.write_text("0.5")
    >>> target.read_text(), [path.name for path in target.parent.iterdir()]
    ('0.5', ['scores.txt'])
    """
    unique = uuid.uuid4().hex[:12]  # there may be concurrent writers
    partial = path.with_name(f".{path.name[:NAME_PART]}.{unique}.partial")
    try:
        with name_target(path, partial):
            yield partial
            replace_synced(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def replace_synced(partial: Path, path: Path) -> None:
    """Move a complete file to its place; it is on the disk before, so that a power failure leaves no empty file."""
    with open(partial, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(partial, path)
    sync_folder(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of killed processes; only for a file that no other process writes now."""
    for partial in path.parent.glob(f".{glob.escape(path.name[:NAME_PART])}.{'[0-9a-f]' * 12}.partial"):
        with suppress(OSError):
            partial.unlink()


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk, where the operating system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and those above it, if they do not exist.

    Raises:
        WriteError: it cannot be created, or a file has its name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(folder)) from error


def write_text(path: Path, text: str) -> None:
    r"""Write a UTF-8 text file atomically; undecodable bytes of file names are escaped (``\udce9``), as JSON does."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any, indent: int = 2) -> None:
    """Write a value as an indented JSON file, atomically; numbers that are not finite, which JSON lacks, as null."""
    try:
        text = json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False)
    except ValueError:
        text = json.dumps(without_infinite(value), indent=indent, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n")


def without_infinite(value: Any) -> Any:
    """Plain data with None in place of each number that is not finite.

    Example:
        >>> without_infinite({"auroc": [float("nan"), 99.5], "n": 3})
        {'auroc': [None, 99.5], 'n': 3}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_infinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_infinite(item) for item in value]
    return value


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
    make_folder(root)
    k = 1
    while True:
        folder = root / (stem if k == 1 else f"{stem}-{k}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            k += 1
        except OSError as error:
            raise WriteError(error.errno, error.strerror, str(folder)) from error
