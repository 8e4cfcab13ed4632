"""Which images a command is given: files, folders, globs, a list on stdin. Streamed, in a fixed order."""

import glob
import heapq
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO

from .data.sets import SUFFIXES
from .errors import InputError

STDIN = "-"
RUN = 100_000  # names of one folder that are sorted in memory at a time


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
        elif not os.path.exists(path) and next(glob.iglob(path, recursive=True), None) is None:
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
            for match in sorted(glob.iglob(path, recursive=True)):
                yield from expand(match)
        else:
            yield from expand(path)


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


def walk_images(folder: str) -> Iterator[str]:
    """Image files below a folder, in the order of their whole paths; hidden files and folders are left out."""
    yield from walk(str(Path(folder)), frozenset([os.path.realpath(folder)]))


def walk(folder: str, above: frozenset[str]) -> Iterator[str]:
    """As :func:`walk_images`; ``above``: real paths of the folders around, into which a link would be a loop."""
    if not os.access(folder, os.R_OK | os.X_OK):
        yield folder  # becomes a row with its error
        return
    for entry in sorted_entries(folder):
        name = entry.removesuffix("/")
        path = name if folder == "." else os.path.join(folder, name)
        if not entry.endswith("/"):
            yield path
        elif (real := os.path.realpath(path)) not in above:
            yield from walk(path, above | {real})


def sorted_entries(folder: str) -> Iterator[str]:
    """Sub-folders (with a slash behind) and image files of a folder, sorted; memory does not grow with their number."""
    with os.scandir(folder) as listing:
        names = (f"{e.name}/" if e.is_dir() else e.name for e in listing if is_candidate(e))
        first = sorted(islice(names, RUN))
        if len(first) < RUN:
            yield from first
            return
        runs = [spilled(first)]
        while more := sorted(islice(names, RUN)):
            runs.append(spilled(more))
    yield from heapq.merge(*runs)


def is_candidate(entry: os.DirEntry[str]) -> bool:
    """A folder or an image file that is not hidden."""
    return entry.name[0] != "." and (entry.is_dir() or Path(entry.name).suffix.lower() in SUFFIXES)


def spilled(names: list[str]) -> Iterator[str]:
    """The names again, from a temporary file, written at once."""
    file = tempfile.TemporaryFile()
    file.writelines(os.fsencode(name) + b"\0" for name in names)
    file.seek(0)
    return read_names(file)


def read_names(file: IO[bytes]) -> Iterator[str]:
    """Names that end with a null byte, block by block."""
    rest = b""
    with file:
        while block := file.read(1 << 16):
            *names, rest = (rest + block).split(b"\0")
            yield from map(os.fsdecode, names)
