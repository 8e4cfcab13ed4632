"""Images per second that a test loader gives, from image files and from the cache of them: a Markdown table.

    python benchmarks/decode.py [--images 2000] [--side 32] [--format PNG] [--size 224]

Random pictures of one small size; one process, no workers; ratios within one run, the best of a few rounds.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipos_lightning.data import cache
from clipos_lightning.data.scenes import render
from clipos_lightning.data.sets import ImageSet, ModelSizeImages, folder_images

BATCH = 128


def write_images(folder: Path, count: int, side: int, kind: str) -> None:
    """The embedded scenes at another size, as files."""
    folder.mkdir()
    for i in range(count):
        image = Image.fromarray(render("id", "tune", 1, i % 500).image).resize((side, side), Image.Resampling.BICUBIC)
        image.save(folder / f"{i:06d}.{kind.lower()}")


def rates(works: dict[str, Callable[[list[int]], object]], count: int, rounds: int) -> dict[str, float]:
    """Images per second over all positions in batches, the best round of each; the ways take turns."""
    batches = [list(range(count))[start : start + BATCH] for start in range(0, count, BATCH)]
    seconds = dict.fromkeys(works, float("inf"))
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            for batch in batches:
                work(batch)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return {name: count / best for name, best in seconds.items()}


def ways(files: ImageSet, cached: ImageSet, size: int) -> dict[str, Callable[[list[int]], object]]:
    """What is compared, the plain way first."""
    every = range(len(files))
    plain, fast, batched = (
        ModelSizeImages(files, every, size),
        ModelSizeImages(cached, every, size),
        ModelSizeImages(cached, every, size, batched=True),
    )
    return {
        "decoded alone: image files": lambda rows: [np.asarray(files.read(i).image) for i in rows],
        "decoded alone: array cache": lambda rows: [np.asarray(cached.read(i).image) for i in rows],
        "image files, PIL's resize": plain.__getitems__,
        "array cache, PIL's resize (the default)": fast.__getitems__,
        "array cache, torch's batch resize (--data.resize torch)": batched.__getitems__,
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=32, help="pixels a side of the images")
    parser.add_argument("--format", default="PNG", choices=["PNG", "JPEG"])
    parser.add_argument("--size", type=int, default=224, help="the model's")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root / "images", given.images, given.side, given.format)
        files = folder_images("images", root / "images")
        start = time.perf_counter()
        cached = cache.cached_folder(files, root, len(files))
        filling = time.perf_counter() - start
        found = rates(ways(files, cached, given.size), given.images, given.rounds)
    first = {"decoded": found["decoded alone: image files"], "whole": found["image files, PIL's resize"]}
    print(f"{given.images:,} {given.format} images of {given.side} px to {given.size} px; filling: {filling:.1f} s\n")
    print("| way | images/s | ratio |\n|---|---:|---:|")
    for name, value in found.items():
        base = first["decoded" if name.startswith("decoded") else "whole"]
        print(f"| {name} | {value:,.0f} | {value / base:.1f} |")


if __name__ == "__main__":
    main()
