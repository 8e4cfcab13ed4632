"""Shared by ``predict`` and ``calibrate``: options of inference, and batches of images decoded by worker processes."""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import Dataset

from ..data.decoding import MAX_PIXELS, Decoding, open_image
from ..data.image_files import describe_left_out
from ..data.preprocessing import Preprocessing
from ..data.shielded_loader import ShieldedLoader
from ..data.transforms import to_model_size
from ..detector.detector import Detector
from ..detector.hub import is_on_hub
from ..errors import InputError, printable
from ..options.finite import check_size
from ..options.messages import DEVICE_HELP, PRETRAINED_HELP, TRUST_HELP, CommandParser
from ..types import Images
from ..utils.cores import default_workers
from ..utils.files import check_parent

T = TypeVar("T")


def add_inference_options(parser: CommandParser) -> None:
    """Add the options of all commands that pass the user's images through a detector."""
    workers = default_workers()
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help="images per batch (default: 128)")
    text = f"processes that decode images; 0: decode in the main process (default: {workers})"
    parser.add_argument("--num_workers", type=int, default=workers, metavar="N", help=text)
    add_max_pixels(parser)
    add_loading_options(parser)


def add_loading_options(parser: CommandParser) -> None:
    """Add the options of all commands that load a detector to run it."""
    parser.add_argument("--pretrained", metavar="WEIGHTS", help=PRETRAINED_HELP)
    parser.add_argument("--device", default="auto", help=DEVICE_HELP)
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)


def add_max_pixels(parser: CommandParser) -> None:
    """Add the option that limits the size of images."""
    text = "images with more pixels are unreadable, to limit the memory (default: %(default)s)"
    parser.add_argument("--max_pixels", type=int, default=MAX_PIXELS, metavar="N", help=text)


def decoding_for(detector: Detector, given: argparse.Namespace) -> Decoding:
    """How a command decodes images for a detector.

    Raises:
        InputError: ``--max_pixels`` is not positive.
    """
    return Decoding(detector.background, given.max_pixels).check("--")


def parse_arguments(parser: CommandParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments and check the options that :func:`add_inference_options` adds.

    Raises:
        InputError: an option is wrong.
    """
    given = parser.parse_args(list(arguments))
    name = parser.prog.removeprefix("clipos ")
    if given.batch_size < 1:
        raise InputError(f"{name}: --batch_size is {given.batch_size}: it must be at least 1")
    if given.num_workers < 0:
        raise InputError(f"{name}: --num_workers is {given.num_workers}: it must be at least 0")
    for option, value in vars(given).items():
        if isinstance(value, int):
            check_size(value, f"--{option}", f"{name}: ")
    return given


def check_detector_paths(command: str, file: str, out: str) -> None:
    """Check, before anything is loaded, the detector that a command reads and the one that it writes.

    Args:
        command: name of the command, for messages.
        file: the detector, or a checkpoint.
        out: the detector to write.

    Raises:
        InputError: there is no such file, or the output exists or cannot be written.
    """
    if Path(out).suffix != ".safetensors":
        raise InputError(f"{command}: --out {out}: the name must end in .safetensors")
    if not is_on_hub(file) and not Path(file).is_file():
        raise InputError(
            f"{command}: no file {file}: give the last.ckpt of a `clipos fit` run, a detector.safetensors, or "
            "hf:owner/name"
        )
    if Path(out).exists():
        raise InputError(f"{command}: {out} exists: give another --out, or remove it")
    check_parent(Path(out))


def note_left_out(left_out: Counter[str]) -> None:
    """Report on stderr the files in folders that are not images to us, by suffix."""
    if left_out:
        print(printable(f"note: {describe_left_out(left_out)}"), file=sys.stderr)


@dataclass
class Batch:
    """Images at the model's size with their paths and errors; an unreadable image is black and has an error."""

    paths: list[str]
    images: Images
    errors: list[str]


class ImageFiles(Dataset[tuple[str, torch.Tensor | None, str]]):
    """Image files indexed by path: (path, pixels at the model's size, error)."""

    def __init__(self, preprocessing: Preprocessing, decoding: Decoding) -> None:
        self.preprocessing, self.decoding = preprocessing, decoding

    def __getitem__(self, path: str) -> tuple[str, torch.Tensor | None, str]:
        try:
            return path, to_model_size(open_image(Path(path), self.decoding), self.preprocessing), ""
        except InputError as error:
            return path, None, str(error)
        except Exception as error:  # decoders raise any type of error for broken files
            return path, None, f"cannot read image {path}: {type(error).__name__}: {' '.join(str(error).split())}"

    def collate(self, items: list[tuple[str, torch.Tensor | None, str]]) -> Batch:
        """Combine items into a batch."""
        size = self.preprocessing.size
        blank = torch.zeros(3, size, size, dtype=torch.uint8)
        paths, images, errors = zip(*items, strict=True)
        return Batch(list(paths), torch.stack([blank if i is None else i for i in images]), list(errors))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of up to ``size`` items, in order."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def load_batches(
    paths: Iterable[str], preprocessing: Preprocessing, decoding: Decoding, batch_size: int, workers: int
) -> Iterator[Batch]:
    """Batches of images in the order of their paths, decoded by worker processes a few batches ahead."""
    files = ImageFiles(preprocessing, decoding)
    sampler: Any = batched(paths, batch_size)  # consumed in the main process, as batches are needed
    return iter(ShieldedLoader(files, batch_sampler=sampler, num_workers=workers, collate_fn=files.collate))


@contextmanager
def report_dead_workers() -> Iterator[None]:
    """Report a crashed DataLoader worker as an InputError."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "an image decoding process was killed, probably for lack of memory: use --num_workers 0, or give the "
            "container more shared memory (docker run --shm-size 2g)"
        ) from error
