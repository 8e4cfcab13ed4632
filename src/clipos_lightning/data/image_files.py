"""Image files below a folder, in a fixed order, following symlinks without cycles; which suffixes can be read."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

from PIL import features

from ..errors import InputError
from ..utils.sharing import shared_in

SUFFIXES = {".jpg", ".jpeg", ".jpe", ".jfif", ".pjpeg", ".pjp", ".png", ".apng", ".bmp", ".dib", ".webp", ".gif"}
SUFFIXES |= {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k"}
AVIF_SUFFIXES = {".avif"}
HEIF_SUFFIXES = {".heic", ".heif", ".hif"}
MAX_SUFFIXES = 100  # suffixes that are counted; all further ones together
SHOWN_SUFFIXES = 8  # of those, the most frequent are named in a message

_listings: ContextVar[dict[Path, list[str]] | None] = ContextVar("_listings", default=None)


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

    Symlinks are followed, except into a folder that contains them. Folders and links that cannot be read are yielded as
    paths, so that the reader of the images reports them.

    Args:
        folder: where to search.
        left_out: gets the number of other files by suffix.
    """
    others = Counter[str]() if left_out is None else left_out
    return walk(folder, lambda name: is_image(name, others))


def walk(folder: str, keep: Callable[[str], bool]) -> Iterator[str]:
    """:func:`walk_images` for any kind of file.

    Args:
        folder: where to search.
        keep: whether to yield a file, by its name.
    """
    top = str(Path(folder))
    above, pending = [identity(top)], [folder_entries(top, keep)]  # of the folders that are being listed
    while pending:
        path = next(pending[-1], None)
        if path is None:
            above.pop()
            pending.pop()
        elif not path.endswith("/"):
            yield path
        elif (folder_id := identity(path)) not in above:
            above.append(folder_id)
            pending.append(folder_entries(path[:-1], keep))


def identity(folder: str) -> tuple[int, int] | str:
    """What is the same for a folder and a link to it: device and inode; its path if it cannot be read."""
    try:
        found = os.stat(folder)
    except OSError:
        return folder
    return found.st_dev, found.st_ino


def folder_entries(folder: str, keep: Callable[[str], bool]) -> Iterator[str]:
    """Paths of the sub-folders (ending in a slash) and files of a folder, sorted; itself if it cannot be read.

    They are sorted in memory, 10 MB per 100,000 names.
    """
    names = []
    try:
        with os.scandir(folder) as listing:
            for entry in (e for e in listing if e.name[0] != "."):
                if is_folder(entry):
                    names.append(f"{entry.name}/")
                elif keep(entry.name):
                    names.append(entry.name)
    except OSError:
        return iter([folder])  # its reader reports the error
    return iter([name if folder == "." else os.path.join(folder, name) for name in sorted(names)])


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a folder, or a link to one; not if that cannot be known (a link to itself)."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def shared_listings() -> AbstractContextManager[None]:
    """List each folder only once inside this context: its files must not change meanwhile."""
    return shared_in(_listings)


def list_images(root: Path) -> list[str]:
    """POSIX paths of the image files below a folder, relative to it and sorted; hidden ones are skipped.

    If the folder itself cannot be read, it is the only path, ``.``.

    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> for name in ("b.png", "a.jpg", ".hidden.png", "notes.txt"):
    ...     (root / name).touch()
    >>> list_images(root)
    ['a.jpg', 'b.png']
    """
    known = _listings.get()
    if known is None:
        return find_images(root)
    if root not in known:
        known[root] = find_images(root)
    return list(known[root])


def find_images(root: Path) -> list[str]:
    """:func:`list_images`, without what :func:`shared_listings` remembers."""
    if not root.is_dir():
        return []
    above = os.path.join("" if str(root) == "." else root, "")
    paths = ("." if path == str(root) else path.removeprefix(above) for path in walk_images(str(root)))
    return sorted(path.replace(os.sep, "/") for path in paths)


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
