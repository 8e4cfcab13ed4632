"""Which images a command is given: files, folders, globs, a list on stdin. Streamed, in a fixed order."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..data.image_files import SUFFIXES, walk_images
from ..errors import InputError

STDIN = "-"


def check_paths(paths: Sequence[str], command: str) -> None:
    """Every path leads to something, before anything is loaded.

    Raises:
        InputError: no such file or folder, a folder without images, a pattern without matches, stdin named twice.
    """
    for path in paths:
        if path == STDIN:
            continue
        if os.path.isdir(path):
            if next(walk_images(path), None) is None:
                raise InputError(f"{command}: no image below {path}")
        elif not os.path.exists(path) and not matches(path):
            kind = "file matches" if glob.has_magic(path) else "file or folder"
            raise InputError(f"{command}: no {kind} {path}")
    if list(paths).count(STDIN) > 1:
        raise InputError(f"{command}: - (a list on stdin) is given twice")


def stream_paths(paths: Iterable[str]) -> Iterator[str]:
    """Images one by one: files as they are, what lies below folders, what patterns match, lines of stdin."""
    for path in paths:
        if path == STDIN:
            for line in lines_of_stdin():
                yield from expand(line)
        elif glob.has_magic(path) and not os.path.exists(path):
            for match in matches(path):
                yield from expand(match)
        else:
            yield from expand(path)


def matches(pattern: str) -> list[str]:
    """What a pattern matches, sorted in memory; of a recursive one (``**``) image files alone, each once."""
    found = set(glob.iglob(pattern, recursive=True))
    if "**" in Path(pattern).parts:
        found = {path for path in found if Path(path).suffix.lower() in SUFFIXES and not os.path.isdir(path)}
    return sorted(found)


def expand(path: str) -> Iterator[str]:
    """A folder's images, or the file itself."""
    return walk_images(path) if os.path.isdir(path) else iter([path])


def lines_of_stdin() -> Iterator[str]:
    """Lines of stdin, whatever their encoding; empty ones are left out."""
    for line in sys.stdin.buffer:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path:
            yield path


def count_paths(paths: Sequence[str]) -> int | None:
    """How many images :func:`stream_paths` gives, by a walk through all folders; None with a list on stdin."""
    return None if STDIN in paths else sum(1 for _ in stream_paths(paths))
