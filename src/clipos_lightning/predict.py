"""``clipos predict``: class, probability and score of one's own images, streamed as CSV."""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .checkpoint import read_checkpoint
from .data.sets import list_images, open_image
from .data.transforms import to_model_size
from .errors import InputError
from .files import whole
from .module import ClipOS
from .progress import hush, track

COLUMNS = ("path", "class", "probability", "score", "error")


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the front door prints."""
        raise InputError(f"predict: {message}; see clipos predict --help")


class ImageFiles(Dataset[dict[str, Any]]):
    """Image files at the model's size; an unreadable one is an item with its error."""

    def __init__(self, paths: Sequence[str], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> dict[str, Any]:
        try:
            return {
                "path": self.paths[i],
                "image": to_model_size(open_image(Path(self.paths[i])), self.size),
                "error": "",
            }
        except InputError as error:
            blank = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
            return {"path": self.paths[i], "image": blank, "error": str(error)}


def find_images(paths: Sequence[str]) -> list[str]:
    """Images as given, and those below folders, each folder's sorted.

    Raises:
        InputError: a path that does not exist, or a folder without images.
    """
    found: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            inside = [str(Path(path) / key) for key in list_images(Path(path))]
            if not inside:
                raise InputError(f"predict: no image below {path}")
            found += inside
        elif os.path.exists(path):
            found.append(path)
        else:
            raise InputError(f"predict: no file or folder {path}")
    return found


def load_detector(file: str, pretrained: str | None = None, device: str = "auto") -> ClipOS:
    """A trained detector from its checkpoint, on a device and ready to predict.

    Args:
        file: a ``last.ckpt``.
        pretrained: weights elsewhere than in training (they must be the same: the fingerprint is checked).
        device: ``cpu``, ``cuda``, or ``auto``.

    Raises:
        InputError: not a checkpoint of ours, other weights, no such device.
    """
    checkpoint = read_checkpoint(file)
    options = checkpoint["hyper_parameters"]
    module = ClipOS(**{**options, "pretrained": pretrained or options["pretrained"]})
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    try:
        return module.to(
            "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
        ).eval()
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"predict: device {device!r} cannot be used: {str(error).splitlines()[0]}") from error


@torch.inference_mode()
def predict(module: ClipOS, paths: Sequence[str], batch_size: int, workers: int) -> Iterator[dict[str, Any]]:
    """A row for each image, in order, streamed.

    Yields:
        path, class, probability (softmax over the C classes), score (higher = more in-distribution), error.
    """
    files = ImageFiles(paths, module.backbone.image_size)
    loader = DataLoader(files, batch_size, num_workers=workers)
    for batch in track(loader, "predicting"):
        out = module.predict_step({"image": batch["image"].to(module.device)})
        yield from rows_of(batch, out, module.class_names)


def rows_of(batch: dict[str, Any], out: dict[str, Tensor], class_names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The batch's rows; an unreadable image has only its path and error."""
    for i, (path, error) in enumerate(zip(batch["path"], batch["error"], strict=True)):
        if error:
            yield {"path": path, "error": error}
        else:
            name = class_names[int(out["class"][i])]
            probability, score = float(out["probability"][i]), float(out["score"][i])
            yield {
                "path": path,
                "class": name,
                "probability": f"{probability:.6g}",
                "score": f"{score:.9g}",
                "error": "",
            }


@contextmanager
def output(path: str | None) -> Iterator[TextIO]:
    """Stdout, or a file that is whole or not there; one that exists is never overwritten."""
    if path is None:
        yield sys.stdout
        return
    if os.path.exists(path):
        raise InputError(f"predict: {path} exists; give another --out, or remove it")
    if not Path(path).absolute().parent.is_dir():
        raise InputError(f"predict: no folder {Path(path).absolute().parent} for --out")
    with whole(Path(path)) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        yield file


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos predict``; returns the exit code."""
    hush()
    parser = Parser(prog="clipos predict", description=__doc__)
    parser.add_argument("file", help="a detector: the last.ckpt of a `clipos fit` run")
    parser.add_argument("paths", nargs="+", metavar="path", help="images, or folders of images (read recursively)")
    parser.add_argument("--out", help="CSV file to write (must not exist); default: stdout")
    parser.add_argument("--batch_size", type=int, default=128, help="images per forward (default 128)")
    parser.add_argument(
        "--num_workers", type=int, default=min(8, (os.cpu_count() or 1) // 2), help="decoding processes"
    )
    parser.add_argument("--pretrained", help="the backbone's weights, where they are not where they were in training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    given = parser.parse_args(list(arguments))
    if given.batch_size < 1:
        raise InputError(f"predict: --batch_size is {given.batch_size}: at least 1")
    paths = find_images(given.paths)
    broken = 0
    with output(given.out) as file:
        module = load_detector(given.file, given.pretrained, given.device)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in predict(module, paths, given.batch_size, max(0, given.num_workers)):
            writer.writerow(row)
            broken += bool(row["error"])
    print(f"{len(paths)} images, {broken} unreadable", file=sys.stderr)
    return 0
