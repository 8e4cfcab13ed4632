"""Image files below a folder: in a fixed order, into links but never round in a loop, however many there are."""

import heapq
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
RUN = 100_000  # names of one folder that are sorted in memory at a time


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


def list_images(root: Path) -> list[str]:
    """POSIX paths of the image files below a folder, sorted; hidden files and folders are left out."""
    if not root.is_dir():
        return []
    above = os.path.join("" if str(root) == "." else root, "")
    return sorted(path.removeprefix(above).replace(os.sep, "/") for path in walk_images(str(root)))


def other_kinds(root: Path) -> Counter[str]:
    """How many files below a folder have other suffixes than images; hidden ones do not count."""
    names = (name for _, _, names in os.walk(root) for name in names if name[0] != ".")
    kinds = (Path(name).suffix.lower() for name in names)
    return Counter(kind for kind in kinds if kind not in SUFFIXES)
