"""Image files below a folder, in a fixed order, following symlinks without cycles; which suffixes can be read."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from PIL import features

from ..errors import InputError

SUFFIXES = {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
AVIF_SUFFIXES = {".avif"}
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
MAX_SUFFIXES = 100  # suffixes that are counted; all further ones together
SHOWN_SUFFIXES = 8  # of those, the most frequent are named in a message


@cache
def register_heif() -> bool:
    """Enable Pillow to open HEIC files in this process, if the extra ``heif`` is installed; whether it is."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


@cache
def image_suffixes() -> frozenset[str]:
    """The suffixes of image files that can be decoded: AVIF needs Pillow 11.3 or newer, HEIC the extra ``heif``."""
    avif = "avif" in features.modules and features.check("avif")
    return frozenset(SUFFIXES | (AVIF_SUFFIXES if avif else set()) | (HEIF_SUFFIXES if register_heif() else set()))


def suffix_of(name: str) -> str:
    """The suffix of a file name in lower case, with its dot; "" if it has none."""
    return Path(name).suffix.lower()


def is_image(name: str, left_out: Counter[str]) -> bool:
    """Whether a file is an image by its suffix; other suffixes are counted.

    Args:
        name: of the file.
        left_out: gets the suffix of a file that is not an image; from :data:`MAX_SUFFIXES` different ones on, as "…".
    """
    suffix = suffix_of(name)
    if suffix in image_suffixes():
        return True
    left_out[suffix if suffix in left_out or len(left_out) < MAX_SUFFIXES else "…"] += 1
    return False


def walk_images(folder: str, left_out: Counter[str] | None = None) -> Iterator[str]:
    """Yield the paths of the image files below a folder, sorted; hidden files and folders are skipped.

    Symlinks are followed, except into a folder that contains them. A folder that cannot be read is yielded as a path,
    so that the reader of the images reports it.

    Args:
        folder: where to search.
        left_out: gets the number of other files by suffix.
    """
    others = Counter[str]() if left_out is None else left_out
    yield from walk(str(Path(folder)), frozenset([os.path.realpath(folder)]), others)


def walk(folder: str, above: frozenset[str], left_out: Counter[str]) -> Iterator[str]:
    """Recursive part of :func:`walk_images`; ``above``: real paths of the folder and its parents, to detect cycles."""
    if not os.access(folder, os.R_OK | os.X_OK):
        yield folder  # its reader reports the error
        return
    for entry in sorted_entries(folder, left_out):
        name = entry.removesuffix("/")
        path = name if folder == "." else os.path.join(folder, name)
        if not entry.endswith("/"):
            yield path
        elif (real := os.path.realpath(path)) not in above:
            yield from walk(path, above | {real}, left_out)


def sorted_entries(folder: str, left_out: Counter[str]) -> list[str]:
    """Sub-folders (ending in a slash) and image files of a folder, sorted in memory (10 MB per 100,000 names)."""
    found = []
    with os.scandir(folder) as listing:
        for entry in (e for e in listing if e.name[0] != "."):
            if entry.is_dir():
                found.append(f"{entry.name}/")
            elif is_image(entry.name, left_out):
                found.append(entry.name)
    return sorted(found)


def list_images(root: Path) -> list[str]:
    """POSIX paths of the image files below a folder, relative to it and sorted; hidden ones are skipped.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("b.png", "a.jpg", ".hidden.png", "notes.txt"):
    ...     (root / name).touch()
    >>> list_images(root)
    ['a.jpg', 'b.png']
    """
    if not root.is_dir():
        return []
    above = os.path.join("" if str(root) == "." else root, "")
    return sorted(path.removeprefix(above).replace(os.sep, "/") for path in walk_images(str(root)))


def count_other_suffixes(root: Path) -> Counter[str]:
    """Count the files below a folder by suffix that :func:`walk_images` leaves out; hidden files are not counted."""
    left_out: Counter[str] = Counter()
    for _ in walk_images(str(root), left_out):
        pass
    return left_out


def describe_left_out(left_out: Counter[str]) -> str:
    """Number and suffixes of the files that were left out, and what to install to read them.

    Example:
        >>> describe_left_out(Counter({".txt": 2, "": 1}))
        'left out 3 files with other suffixes (.txt, no suffix)'
    """
    count, hint = left_out.total(), reading_hint(left_out)
    common = sorted(suffix or "no suffix" for suffix, _ in left_out.most_common(SHOWN_SUFFIXES))
    named = ", ".join(common + ["…"] * (len(left_out) > SHOWN_SUFFIXES))
    return f"left out {count:,} file{'s' * (count != 1)} with other suffixes ({named}){hint and f'; {hint}'}"


def no_images_error(what: str, folder: str | Path) -> InputError:
    """The error for a folder without images; it names the suffixes of the files that are there."""
    left_out = count_other_suffixes(Path(folder))
    return InputError(f"{what}: no image below {folder}{f'; {describe_left_out(left_out)}' if left_out else ''}")


def reading_hint(suffixes: Iterable[str]) -> str:
    """What to install to read files with these suffixes; "" if that would not help."""
    missing = set(suffixes) - image_suffixes()
    commands = (("pip install 'clipos-lightning[heif]'", HEIF_SUFFIXES), ("pip install -U pillow", AVIF_SUFFIXES))
    hints = [f"{', '.join(sorted(missing & kind))}: {command}" for command, kind in commands if missing & kind]
    return f"to read {', '.join(hints)}" if hints else ""
