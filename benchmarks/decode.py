"""Decode and resize small images for a test loader: the array cache compared with image files.

    python benchmarks/decode.py [--images 1000] [--side 32] [--format PNG] [--size 224]

Images of one small size, one thread, no worker processes; the variants are timed in alternation.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import Row, check, in_turns, show
from PIL import Image

from clipos_lightning.data import cache
from clipos_lightning.data.image_sets import ImageSet, ModelSizeImages, folder_images
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.data.scenes import render

BATCH = 128


def write_images(folder: Path, count: int, side: int, kind: str) -> None:
    """Write scenes of the embedded set at another size."""
    folder.mkdir()
    for i in range(count):
        image = Image.fromarray(render("id", "tune", 1, i % 500).image).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:06d}.{kind.lower()}")


def over_batches(work: Callable[[list[int]], object], count: int) -> None:
    """Call ``work`` with all positions, one batch at a time."""
    for start in range(0, count, BATCH):
        work(list(range(start, min(start + BATCH, count))))


def decode(images: ImageSet, positions: list[int]) -> list[np.ndarray]:
    """Decode images without resizing."""
    return [np.asarray(images.read(i).image) for i in positions]


def rows(given: argparse.Namespace) -> Iterator[Row]:
    """Measure decoding alone, then with the resize."""
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder), given.images
        write_images(root / "images", count, given.side, given.format)
        files = folder_images("images", root / "images")
        cached = cache.cached_folder(files, root, len(files))
        plain, fast = (ModelSizeImages(images, range(count), Preprocessing(given.size)) for images in (files, cached))
        batched = ModelSizeImages(cached, range(count), Preprocessing(given.size), batched=True)
        first = [ways[0]["image"].float() for ways in (plain.__getitems__([0]), fast.__getitems__([0]))]
        check(*first, "pixels from the cache", 0)
        check(batched.__getitems__([0])[0]["image"].float(), first[0], "torch's pixels", 2.5 / 255)
        ways: dict[str, Callable[[list[int]], object]] = {
            "files": partial(decode, files),
            "cache": partial(decode, cached),
            "files, resized": plain.__getitems__,
            "cache, resized": fast.__getitems__,
            "cache, torch": batched.__getitems__,
        }
        took = in_turns({name: partial(over_batches, work, count) for name, work in ways.items()}, given.rounds)
    what = f"{count:,} {given.format} images of {given.side} px"
    yield Row(f"decode {what}: array cache / image files", took["cache"], took["files"])
    yield Row(f"the same, to {given.size} px (PIL's resize)", took["cache, resized"], took["files, resized"])
    yield Row("the same, `--data.resize torch`", took["cache, torch"], took["files, resized"])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--format", default="PNG", choices=["PNG", "JPEG"])
    parser.add_argument("--size", type=int, default=224, help="the model's image size")
    parser.add_argument("--rounds", type=int, default=3)
    torch.set_num_threads(1)
    show(rows(parser.parse_known_args()[0]))


if __name__ == "__main__":
    main()
