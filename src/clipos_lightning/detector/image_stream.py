"""Paths of the images given to a command as files, folders, patterns or a list on stdin; streamed in a fixed order."""

import codecs
import fnmatch
import glob
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..data.image_files import is_image, no_images_error, walk, walk_images
from ..errors import InputError

STDIN = "-"  # the path that stands for a list on stdin, one path per line


def check_paths(paths: Sequence[str], command: str) -> None:
    """Check that every path leads to an image; runs before anything is loaded.

    Args:
        paths: files, folders, patterns, or ``-`` for a list on stdin.
        command: name of the command, for messages.

    Raises:
        InputError: no such file or folder, a folder without images, a pattern without matches, or stdin given twice.
    """
    for path in paths:
        if path == STDIN:
            continue
        if os.path.isdir(path):
            if next(walk_images(path), None) is None:
                raise no_images_error(command, path)
        elif not os.path.exists(path) and not match_pattern(path):
            kind = "file matches" if glob.has_magic(path) else "file or folder"
            raise InputError(f"{command}: no {kind} {path}")
    if list(paths).count(STDIN) > 1:
        raise InputError(f"{command}: - (a list on stdin) is given twice")


def stream_paths(paths: Iterable[str], left_out: Counter[str] | None = None) -> Iterator[str]:
    """Yield the paths of images: files, images below folders, matches of patterns, lines of stdin.

    Args:
        paths: files, folders, patterns, or ``-`` for a list on stdin.
        left_out: gets the number of other files in folders, by suffix.
    """
    for path in paths:
        if path == STDIN:
            for line in read_stdin():
                yield from expand_folder(line, left_out)
        elif glob.has_magic(path) and not os.path.exists(path):
            for match in match_pattern(path, left_out):
                yield from expand_folder(match, left_out)
        else:
            yield from expand_folder(path, left_out)


def match_pattern(pattern: str, left_out: Counter[str] | None = None) -> list[str]:
    """The sorted matches of a pattern; those of a recursive one (``**``) are image files only, each once.

    Like a folder, a recursive pattern does not follow a link into a folder that contains it.
    """
    parts = Path(pattern).parts
    if "**" not in parts:
        return sorted(glob.iglob(pattern))
    start = parts.index("**")
    tops = glob.iglob(os.path.join(*parts[:start])) if start else ["."]
    others = Counter[str]() if left_out is None else left_out
    files = {path for top in filter(os.path.isdir, tops) for path in walk(top, lambda _: True)}
    found = sorted(path for path in files if matches_parts(Path(path).parts, parts))
    return [path for path in found if is_image(os.path.basename(path), others)]


def matches_parts(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, in which ``**`` stands for any number of folders.

    >>> matches_parts(["photos", "may", "1.png"], ["photos", "**", "*.png"])
    True
    """
    if not pattern:
        return not names
    if pattern[0] == "**":
        return any(matches_parts(names[i:], pattern[1:]) for i in range(len(names) + 1))
    return bool(names) and fnmatch.fnmatchcase(names[0], pattern[0]) and matches_parts(names[1:], pattern[1:])


def expand_folder(path: str, left_out: Counter[str] | None = None) -> Iterator[str]:
    """The images below a folder; a file as it is."""
    return walk_images(path, left_out) if os.path.isdir(path) else iter([path])


def read_stdin() -> Iterator[str]:
    """The lines of stdin that are not empty, as paths in the file system's encoding; a byte order mark is skipped.

    Raises:
        InputError: the list is in UTF-16, as PowerShell writes it, or null characters separate the paths.
    """
    for number, line in enumerate(sys.stdin.buffer):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise InputError("the list of paths on stdin is UTF-16: write it as UTF-8")
        if b"\0" in line:
            raise InputError("the list of paths on stdin has null characters: write one path per line (no -print0)")
        path = os.fsdecode((line if number else line.removeprefix(codecs.BOM_UTF8)).rstrip(b"\r\n"))
        if path:
            yield path


def count_paths(paths: Sequence[str]) -> int | None:
    """Number of images that :func:`stream_paths` yields; None if a list on stdin is among the paths."""
    return None if STDIN in paths else sum(1 for _ in stream_paths(paths))
