"""``clipos data``: list the data sets, fetch, verify, and say where each comes from."""

import difflib
import multiprocessing
import os
import shutil
import signal
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from tqdm import tqdm

from ..data import sources
from ..data.download import download, extract
from ..errors import InputError
from ..options.messages import CommandParser

WIDTH = 100
NAMED = 20  # unreadable images that are printed for each set
IN_PROCESS = 64  # images; starting processes takes longer than these


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos data``; returns the exit code."""
    given = data_parser().parse_args(list(arguments))
    root = Path(given.root or os.environ.get("CLIPOS_DATA") or "data").expanduser()
    for name in getattr(given, "names", []):
        check_known(name)
    if given.command == "list":
        show_list(root)
    elif given.command == "info":
        print("\n\n".join(describe_set(name, root) for name in given.names))
    elif given.command == "download":
        each(given.names, lambda name: fetch(name, root), "could not be fetched")
    else:
        each(given.names, lambda name: verify(name, root, given.num_workers), "are not in order")
    return 0


def data_parser() -> CommandParser:
    """The options of ``clipos data``."""
    whole = CommandParser(prog="clipos data", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True, metavar="COMMAND", prog="clipos data")
    for command, text in (
        ("list", "the data sets: images, size, and whether they are there"),
        ("download", "fetch data sets, check them and unpack them; goes on where it was interrupted"),
        ("verify", "count and decode every image"),
        ("info", "where a set comes from: files, checksums, licence, paper, what to know of it"),
    ):
        part = commands.add_parser(command, help=text, description=text)
        part.add_argument("--root", help="the folder of data sets (default: $CLIPOS_DATA, else ./data)")
        if command != "list":
            part.add_argument("names", nargs="+", metavar="NAME", help="a data set: see clipos data list")
        if command == "verify":
            count = min(8, os.cpu_count() or 1)
            part.add_argument(
                "--num_workers", type=int, default=count, help="decoding processes (default: %(default)s)"
            )
    return whole


def check_known(name: str) -> None:
    """Raise InputError for a name that is not in the table."""
    if name not in sources.SOURCES:
        close = difflib.get_close_matches(name, sources.SOURCES, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"data: no data set {name!r}; {hint}Names: {', '.join(sources.SOURCES)}")


def each(names: Sequence[str], work: Callable[[str], str], failed: str) -> None:
    """Do it for every set, one line each; what went wrong with one does not stop the others.

    Raises:
        InputError: something went wrong with one; the last word on it, on stderr.
    """
    errors: dict[str, InputError] = {}
    for name in dict.fromkeys(names):
        try:
            print(f"{name}: {work(name)}", flush=True)
        except InputError as error:
            errors[name] = error
            if len(names) > 1:
                print(f"{name}: {error}", flush=True)
    if len(errors) == 1:
        name, only = next(iter(errors.items()))
        raise InputError(f"{name}: {only}") from only
    if errors:
        raise InputError(f"{len(errors)} of {len(names)} sets {failed}: {', '.join(errors)}. Each one's line says why")


def show_list(root: Path) -> None:
    """The table of data sets, at most a hundred columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("name", "data set", "images", "download", "here"):
        table.add_column(title, justify="right" if title in ("images", "download") else "left", no_wrap=title == "name")
    for name, source in sources.SOURCES.items():
        here = source.state(root)
        here = "no (by hand)" if here == "no" and not source.fetchable else here
        table.add_row(name, source.title, f"{source.images:,}", size_text(source.size), here)
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    console = Console(file=sys.stdout, width=width, highlight=False)
    console.print(table)
    console.print(f"Below {root}. clipos data info NAME: where a set comes from; clipos data download NAME: fetch it.")


def size_text(size: int | None) -> str:
    """Bytes for people; not known: a question mark."""
    if size is None:
        return "?"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def describe_set(name: str, root: Path) -> str:
    """Everything the table says of a set."""
    source = sources.SOURCES[name]
    rows = [
        ("images", f"{source.images:,}, in {', '.join(str(root / path) for path in source.image_paths)}"),
        ("here", source.state(root)),
        ("licence", source.licence),
        ("paper", source.paper),
        ("page", source.home),
        ("note", source.note),
        ("by hand", source.manual_steps.format(root=root)),
    ]
    for file in source.files:
        size = "size not known" if file.size is None else f"{file.size:,} bytes"
        rows.append(("file", f"{file.name}: {size}, md5 {file.md5 or 'not known: taken as it comes'}"))
        rows.append(("  from", file.url or "not to be fetched by a program"))
        rows.append(("  to", str(file.path(root))))
        rows.append(("  makes", ", ".join(str(root / file.folder / part) for part in file.parts)))
    return "\n".join([f"{name}: {source.title}", *(line for key, text in rows if text for line in wrapped(key, text))])


def wrapped(key: str, text: str) -> list[str]:
    """A row of ``info``; addresses and paths are never cut."""
    lead = f"  {key:<9}"
    return textwrap.wrap(
        text, WIDTH, initial_indent=lead, subsequent_indent=" " * 11, break_long_words=False, break_on_hyphens=False
    )


def fetch(name: str, root: Path) -> str:
    """Download, check and unpack a set's files.

    Returns:
        What was done, in a line.
    """
    source = sources.SOURCES[name]
    where = ", ".join(dict.fromkeys(str(root / path) for path in source.image_paths))
    missing = [file for file in source.files if not file.is_present(root)]
    if not missing:
        return f"already there: {where}"
    if not source.fetchable:
        raise InputError(f"{source.title} cannot be fetched by a program: {source.manual_steps.format(root=root)}")
    for file in missing:
        path = file.path(root)
        download(file.url or "", path, file.md5)
        if file.parts:
            extract(path, path.parent, file.parts)
    archives = [str(file.path(root)) for file in missing if file.parts]
    unneeded = f" ({', '.join(archives)} can be removed)" if archives else ""
    return f"there: {where}{unneeded}"


def verify(name: str, root: Path, workers: int) -> str:
    """Count and decode every image of a set.

    Returns:
        The count, in a line.

    Raises:
        InputError: not there, another count, or images that cannot be read, which are printed.
    """
    source = sources.SOURCES[name]
    absent = [str(root / path) for path in source.image_paths if not (root / path).exists()]
    if absent:
        raise InputError(
            f"{', '.join(absent)} not there: run clipos data download {name}, or see clipos data info {name}"
        )
    count, bad = 0, list[str]()
    for path in source.image_paths:
        more, broken = (
            verify_folder(root / path, workers) if source.kind == "folder" else VERIFIERS[source.kind](root / path)
        )
        count, bad = count + more, bad + broken
    for line in bad[:NAMED]:
        print(f"{name}: bad: {line}")
    paths = ", ".join(str(root / path) for path in source.created_paths)
    remedy = f"Remove {paths} and run clipos data download {name}"
    if bad:
        others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        raise InputError(f"cannot read {bad[0]}{others}. {remedy}")
    if count != source.images:
        raise InputError(f"{count:,} images, there must be {source.images:,}. {remedy}")
    return f"{count:,} images, all read"


def verify_folder(folder: Path, workers: int) -> tuple[int, list[str]]:
    """How many image files lie below a folder, and a line for each that cannot be decoded."""
    from ..data.image_files import list_images

    paths = [str(folder / key) for key in list_images(folder)]
    checks = tqdm(
        decode_all(paths, workers), f"decoding {folder.name}", len(paths), leave=False, disable=not sys.stderr.isatty()
    )
    return len(paths), [f"{path}: {why}" for path, why in zip(paths, checks, strict=True) if why]


def decode_all(paths: Sequence[str], workers: int) -> Iterator[str]:
    """What is wrong with each image, in order; decoded in processes where there are many."""
    if workers < 2 or len(paths) < IN_PROCESS:
        yield from map(decode, paths)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(paths) // 16),
        multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is for the parent, which then ends them
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield from pool.map(decode, paths, chunksize=32)
    except BrokenProcessPool as error:
        raise InputError(
            "a decoding process died, of memory or of a broken image; try --num_workers 1 to see which"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def decode(path: str) -> str:
    """Decode an image as training does; what is wrong with it, or nothing."""
    from PIL import Image

    try:
        with warnings.catch_warnings():  # odd EXIF data, large pictures
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.convert("RGB")
    except Exception as error:  # whatever a decoder raises
        return " ".join(str(error).replace(f" {path!r}", "").split()) or type(error).__name__
    return ""


def verify_arrays(count: Callable[[Path], int], path: Path) -> tuple[int, list[str]]:
    """How many images a file of arrays holds, and what is wrong with it."""
    from ..data.arrays import UNREADABLE

    try:
        return count(path), []
    except UNREADABLE as error:
        return 0, [f"{path}: {' '.join(str(error).split()) or type(error).__name__}"]


def count_cifar(path: Path) -> int:
    """Images of one of CIFAR's batches, which must have a label each."""
    from ..data.arrays import read_cifar

    return len(read_cifar([path])[0])


def count_mat(path: Path) -> int:
    """Images of SVHN's MATLAB file."""
    from ..data.arrays import read_svhn

    return len(read_svhn(path)[0])


def count_npz(path: Path) -> int:
    """Images of a MedMNIST file, over its three splits."""
    from ..data.arrays import read_medmnist

    return sum(len(read_medmnist(path, split)[0]) for split in ("train", "val", "test"))


VERIFIERS: dict[str, Callable[[Path], tuple[int, list[str]]]] = {
    "cifar": partial(verify_arrays, count_cifar),
    "mat": partial(verify_arrays, count_mat),
    "npz": partial(verify_arrays, count_npz),
}
