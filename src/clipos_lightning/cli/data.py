"""``clipos data``: list, download, verify and describe the data sets."""

import difflib
import multiprocessing
import os
import shutil
import textwrap
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from ..data import sources
from ..data.download import alone, download
from ..data.unpacking import extract
from ..errors import InputError, message_of
from ..options.finite import check_size
from ..options.messages import CommandParser
from ..utils.console import plain_console
from ..utils.cores import available_cores
from ..utils.files import expand_home
from ..utils.progress import open_bar
from ..utils.worker_signals import shield_worker, signals_held

WIDTH = 100
MAX_PRINTED = 20  # unreadable images that are printed per set
MIN_FOR_PROCESSES = 64  # fewer images are decoded faster than processes start


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos data``; returns the exit code."""
    given = data_parser().parse_args(list(arguments))
    root = Path(expand_home(given.root or os.environ.get("CLIPOS_DATA") or "data"))
    for name in getattr(given, "names", []):
        check_known(name)
    if given.command == "list":
        show_list(root)
    elif given.command == "info":
        print("\n\n".join(describe_set(name, root) for name in given.names))
    elif given.command == "download":
        for_each_set(given.names, lambda name: download_set(name, root), "could not be downloaded")
    else:
        check_size(given.num_workers, "--num_workers", "data verify: ")
        for_each_set(given.names, lambda name: verify_set(name, root, given.num_workers), "failed verification")
    return 0


def data_parser() -> CommandParser:
    """The parser of ``clipos data``."""
    parser = CommandParser(prog="clipos data", description="List, download, verify and describe the data sets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", prog="clipos data")
    for command, text in (
        ("list", "list the data sets: number of images, download size, and whether they are in the data root"),
        ("download", "download data sets, verify their checksums and unpack them; resumes interrupted downloads"),
        ("verify", "count and decode all images of data sets"),
        ("info", "describe data sets: files, checksums, licence, paper, notes"),
    ):
        subparser = commands.add_parser(command, help=text, description=f"{text[0].upper()}{text[1:]}.")
        subparser.add_argument("--root", metavar="DIR", help="data root (default: $CLIPOS_DATA, else ./data)")
        if command != "list":
            subparser.add_argument("names", nargs="+", metavar="NAME", help="a data set of `clipos data list`")
        if command == "verify":
            count = min(8, available_cores())
            text = "processes that decode images (default: %(default)s)"
            subparser.add_argument("--num_workers", type=int, default=count, metavar="N", help=text)
    return parser


def check_known(name: str) -> None:
    """Raise InputError if there is no data set of this name."""
    if name not in sources.SOURCES:
        close = difflib.get_close_matches(name, sources.SOURCES, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(f"data: no data set {name!r}; {hint}Data sets: {', '.join(sources.SOURCES)}")


def for_each_set(names: Sequence[str], action: Callable[[str], str], failed: str) -> None:
    """Run an action for every data set and print its result, one line each; an error does not stop the others.

    Raises:
        InputError: an action failed; raised after all of them.
    """
    errors: dict[str, InputError] = {}
    for name in dict.fromkeys(names):
        try:
            print(f"{name}: {action(name)}", flush=True)
        except InputError as error:
            errors[name] = error
            if len(names) > 1:
                print(f"{name}: {error}", flush=True)
    if len(errors) == 1:
        name, only = next(iter(errors.items()))
        raise InputError(f"{name}: {only}") from only
    if errors:
        raise InputError(f"{len(errors)} of {len(names)} sets {failed}: {', '.join(errors)}; see the lines above")


def show_list(root: Path) -> None:
    """Print the table of data sets, at most WIDTH columns wide."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("name", "data set", "images", "download", "present"):
        table.add_column(title, justify="right" if title in ("images", "download") else "left", no_wrap=title == "name")
    for name, source in sources.SOURCES.items():
        present = source.state(root)
        present = "no (by hand)" if present == "no" and not source.fetchable else present
        table.add_row(name, source.title, f"{source.images:,}", format_size(source.size), present)
    width = min(WIDTH, shutil.get_terminal_size((WIDTH, 0)).columns)
    console = plain_console(width)  # imports rich
    console.print(table)
    console.print(f"Data root: {root}. Details: clipos data info NAME. Download: clipos data download NAME.")


def format_size(size: int | None) -> str:
    """A number of bytes in MB or GB; a question mark if it is unknown."""
    if size is None:
        return "?"
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.0f} MB"


def describe_set(name: str, root: Path) -> str:
    """All metadata of a data set as text."""
    source = sources.SOURCES[name]
    rows = [
        ("images", f"{source.images:,}, in {', '.join(str(root / path) for path in source.image_paths)}"),
        ("present", source.state(root)),
        ("licence", source.licence),
        ("paper", source.paper),
        ("page", source.home),
        ("note", source.note),
        ("by hand", source.manual_steps.format(root=root)),
    ]
    for file in source.files:
        size = "size unknown" if file.size is None else f"{file.size:,} bytes"
        rows.append(("file", f"{file.name}: {size}, md5 {file.md5 or 'unknown: not verified'}"))
        rows.append(("  from", file.url or "manual download only"))
        rows.append(("  to", str(file.path(root))))
        rows.append(("  creates", ", ".join(str(root / file.folder / part) for part in file.parts)))
    return "\n".join([f"{name}: {source.title}", *(line for key, text in rows if text for line in wrap_row(key, text))])


def wrap_row(key: str, text: str) -> list[str]:
    """A row of ``clipos data info`` as lines of up to WIDTH characters; URLs and paths are not broken."""
    indent = f"  {key:<9} "
    return textwrap.wrap(
        text, WIDTH, initial_indent=indent, subsequent_indent=" " * 12, break_long_words=False, break_on_hyphens=False
    )


def download_set(name: str, root: Path) -> str:
    """Download, verify and unpack the missing files of a data set.

    Returns:
        A line about what was done.

    Raises:
        InputError: a file cannot be downloaded or unpacked, or its checksum is wrong.
    """
    source = sources.SOURCES[name]
    where = root / os.path.commonpath(source.image_paths)
    missing = [file for file in source.files if not file.is_present(root)]
    if not missing:
        check_count(name, root)
        return f"already present: {where}"
    if not source.fetchable:
        raise InputError(f"{source.title} must be downloaded by hand: {source.manual_steps.format(root=root)}")
    for file in missing:
        path = file.path(root)
        with alone(path):
            if not file.is_present(root):
                download(file.url or "", path, file.md5)
                extract(path, path.parent, file.parts)
    check_count(name, root)
    archives = [str(file.path(root)) for file in missing if file.parts]
    unneeded = f" ({', '.join(archives)} can be removed)" if archives else ""
    return f"done: {where}{unneeded}"


def check_count(name: str, root: Path) -> None:
    """Check the number of images of a data set that is in folders; they are not opened.

    Raises:
        InputError: it is wrong.
    """
    from ..data.image_files import list_images

    source = sources.SOURCES[name]
    if source.kind == "folder":
        count = sum(len(list_images(root / path)) for path in source.image_paths)
        if count != source.images:
            raise InputError(wrong_count(name, root, count))


def wrong_count(name: str, root: Path, count: int) -> str:
    """What is wrong with a data set of another number of images, and the remedy."""
    source = sources.SOURCES[name]
    return f"found {count:,} images instead of {source.images:,}. {download_again(name, root)}"


def download_again(name: str, root: Path) -> str:
    """The remedy for a damaged data set."""
    paths = ", ".join(str(root / path) for path in sources.SOURCES[name].created_paths)
    return f"Remove {paths} and run clipos data download {name}"


def verify_set(name: str, root: Path, workers: int) -> str:
    """Count and decode all images of a data set.

    Returns:
        A line with the count.

    Raises:
        InputError: files are missing, the count is wrong, or images cannot be read; the first of those are printed.
    """
    source = sources.SOURCES[name]
    absent = [str(root / path) for path in source.image_paths if not (root / path).exists()]
    if absent:
        raise InputError(
            f"{', '.join(absent)} missing: run clipos data download {name}, or see clipos data info {name}"
        )
    count, errors = 0, list[str]()
    for path in source.image_paths:
        found, broken = (
            verify_folder(root / path, workers) if source.kind == "folder" else VERIFIERS[source.kind](root / path)
        )
        count, errors = count + found, errors + broken
    for line in errors[:MAX_PRINTED]:
        print(f"{name}: cannot read {line}")
    if errors:
        others = f" and {len(errors) - 1} more" if len(errors) > 1 else ""
        raise InputError(f"cannot read {errors[0]}{others}. {download_again(name, root)}")
    if count != source.images:
        raise InputError(wrong_count(name, root, count))
    return f"{count:,} images, all readable"


def verify_folder(folder: Path, workers: int) -> tuple[int, list[str]]:
    """The number of image files in a folder and its subfolders, and a line for each that cannot be decoded."""
    from ..data.image_files import list_images

    paths = [str(folder / key) for key in list_images(folder)]
    errors = []
    with open_bar(f"decoding {folder.name}", len(paths), "images") as bar:
        for path, why in zip(paths, decode_all(paths, workers), strict=True):
            errors += [f"{path}: {why}"] if why else []
            bar.update(1)
    return len(paths), errors


def decode_all(paths: Sequence[str], workers: int) -> Iterator[str]:
    """The error of each image, in order, or ""; many images are decoded by worker processes."""
    if workers < 2 or len(paths) < MIN_FOR_PROCESSES:
        yield from map(decode, paths)
        return
    spawn = multiprocessing.get_context("spawn")
    with signals_held():  # a process that keeps track of semaphores starts here
        pool = ProcessPoolExecutor(min(workers, len(paths) // 16), spawn, initializer=shield_worker)
    try:
        with signals_held():  # and the workers here
            errors = pool.map(decode, paths, chunksize=32)
        yield from errors
    except BrokenProcessPool as error:
        raise InputError(
            "an image decoding process was killed, for lack of memory or by a broken image: retry with --num_workers 1"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def decode(path: str) -> str:
    """Decode an image as in training; returns the error, or ""."""
    from ..data.decoding import open_image, short_reason

    try:
        open_image(Path(path))
    except InputError as error:
        return short_reason(path, str(error))
    return ""


def verify_arrays(count: Callable[[Path], int], path: Path) -> tuple[int, list[str]]:
    """The number of images in a file of arrays, and its error if it cannot be read."""
    from ..data.arrays import UNREADABLE

    try:
        return count(path), []
    except UNREADABLE as error:
        return 0, [f"{path}: {message_of(error)}"]


def count_cifar(path: Path) -> int:
    """Number of images in a batch file of CIFAR, which must also hold a label for each."""
    from ..data.arrays import read_cifar

    return len(read_cifar([path])[0])


def count_mat(path: Path) -> int:
    """Number of images in a MATLAB file of SVHN."""
    from ..data.arrays import read_svhn

    return len(read_svhn(path)[0])


def count_npz(path: Path) -> int:
    """Number of images in a MedMNIST file, over its three splits."""
    from ..data.arrays import read_medmnist

    return sum(len(read_medmnist(path, split)[0]) for split in ("train", "val", "test"))


VERIFIERS: dict[str, Callable[[Path], tuple[int, list[str]]]] = {
    "cifar": partial(verify_arrays, count_cifar),
    "mat": partial(verify_arrays, count_mat),
    "npz": partial(verify_arrays, count_npz),
}
