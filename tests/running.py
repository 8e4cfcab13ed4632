"""Run the command line in the test's process, and make small image folders for the tests."""

import functools
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import open_clip
import torch
from PIL import Image
from stand_in_downloads import cifar_batch

from clipos_lightning import ClipOS, ContextOptions, Detector
from clipos_lightning.cli.main import main
from clipos_lightning.data.scenes import ID_SHAPES, render
from clipos_lightning.options.configs import find_config, with_bases
from clipos_lightning.reporting import callback

TOKENIZER = functools.cache(open_clip.get_tokenizer)  # a fifth of a short run's time
CPU = ("--trainer.accelerator", "cpu", "--data.num_workers", "0")
PHOTOS = ("circle", "star", "heart")
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
NATURAL = ("buildings", "forest", "glacier", "mountain", "sea", "street")


@dataclass
class Run:
    """Result of a command: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def folder(self) -> Path:
        assert self.lines[-1].startswith("run: "), self.out
        return Path(self.lines[-1].removeprefix("run: "))

    @property
    def checkpoint(self) -> str:
        return str(self.folder / "last.ckpt")

    @property
    def report(self) -> dict[str, Any]:
        return json.loads((self.folder / "report.json").read_text(encoding="utf-8"))

    @property
    def scores(self) -> dict[str, np.ndarray]:
        return dict(np.load(self.folder / "scores.npz"))

    @property
    def context(self) -> torch.Tensor:
        return torch.cat([t.flatten() for _, t in sorted(state_of(self.checkpoint).items())])


def clipos(*words: Any, env: dict[str, str] | None = None, pictures: bool = False) -> Run:
    """``clipos WORDS``, without $CLIPOS_DATA unless given; pictures are slow and only made if requested."""
    out, err = io.StringIO(), io.StringIO()
    draw = callback.draw_pictures if pictures else lambda *_: {}
    with (
        mock.patch.dict(os.environ),
        mock.patch.object(callback, "draw_pictures", draw),
        mock.patch.object(open_clip, "get_tokenizer", TOKENIZER),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        os.environ.pop("CLIPOS_DATA", None)
        os.environ.update(env or {})
        code = main([str(word) for word in words])
    return Run(code, out.getvalue(), err.getvalue())


def done(*words: Any, **kwargs: Any) -> Run:
    """A trainer command on the CPU that must succeed."""
    run = clipos(*words, *CPU, **kwargs)
    assert run.code == 0, run.err
    return run


def refused(run: Run, *pieces: str) -> None:
    """Check exit code 2, and at most three lines on stderr with these pieces, without a traceback."""
    assert run.code == 2, (run.code, run.err)
    lines = run.err.strip().splitlines()
    assert 1 <= len(lines) <= 3, run.err
    assert lines[0].startswith("clipos: error: ")
    assert "Traceback" not in run.err
    for piece in pieces:
        assert piece in run.err, f"{piece!r} is not in {run.err!r}"


def options_of(config: str) -> dict[str, Any]:
    """A config's options merged with those of its bases."""
    return functools.reduce(merged, (options for _, options in with_bases(find_config(config))))


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Both mappings at every level; the second one's values win."""
    common = (k for k in above if isinstance(above[k], dict) and isinstance(below.get(k), dict))
    both = {k: merged(below[k], above[k]) for k in common}
    return below | above | both


def state_of(checkpoint: str) -> dict[str, torch.Tensor]:
    return torch.load(checkpoint, weights_only=True)["state_dict"]


def relative_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def save_scene(path: Path, shape: str, index: int, stream: str = "tune") -> None:
    """A picture of the embedded set as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = render("id", stream, 5, 10 * index + ID_SHAPES.index(shape)).image
    Image.fromarray(picture).save(path)


def save_classes(root: Path, count: int, first: int = 0) -> None:
    """Pictures of each class, ``<class>/N.png``; from picture ``first`` of the stream on."""
    for shape in PHOTOS:
        for i in range(count):
            save_scene(root / shape / f"{i}.png", shape, first + i)


def save_detector(path: Path) -> None:
    """An untrained detector of the pictures' classes, with a threshold."""
    model = ClipOS(sorted(PHOTOS), backbone="MicroCLIP", score="energy", context=ContextOptions(words="a photo of a"))
    detector = Detector.of(model)
    detector.threshold = 12.0
    detector.save(path)


def save_noise(path: Path, seed: int, size: tuple[int, int] = (40, 36)) -> None:
    """A picture of random pixels as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_photos(root: Path, train: int = 4, test: int = 5, other: int = 7) -> Path:
    """``photos/{train,test}/{circle,star,heart}/N.png`` and ``other/N.png`` below a folder."""
    save_classes(root / "photos/train", train)
    save_classes(root / "photos/test", test, first=100)
    for i in range(other):
        save_noise(root / "other" / f"{i}.png", i)
    return root


PHOTO_OPTIONS = ("--data.id", "folder:photos", "--data.ood_sets", "[folder:other]")


def make_benchmarks(root: Path) -> Path:
    """CIFAR-10's batches, a miniature DTD, and image folders under the names that the shipped configs use."""
    rng = np.random.default_rng(0)
    batches = root / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    for name, each in [*((f"data_batch_{i}", 2) for i in range(1, 6)), ("test_batch", 2)]:
        write_cifar_batch(batches / name, rng, np.arange(10 * each) % 10)
    for i, kind in enumerate(("banded", "dotted")):
        save_noise(root / "dtd/dtd/images" / kind / f"{kind}_0001.jpg", i)
    labels = root / "dtd/dtd/labels"
    labels.mkdir()
    for split, kind in (("train1", "banded"), ("val1", "dotted"), ("test1", "banded")):
        (labels / f"{split}.txt").write_text(f"{kind}/{kind}_0001.jpg\n")
    seed = iter(range(10**6))
    for name, classes in (("cifar10-images", CIFAR10), ("intel-scenes", NATURAL)):
        for split, count in (("train", 4), ("test", 2)):
            for kind in classes:
                for i in range(count):
                    save_noise(root / name / split / kind / f"{i}.png", next(seed), (24, 20))
    for folder in ("textures-10class/banded", "textures-10class/dotted", "svhn-images/train", "svhn-images/extra"):
        for i in range(3):
            save_noise(root / folder / f"{i}.png", next(seed), (24, 20))
    return root


def write_cifar_batch(path: Path, rng: np.random.Generator, labels: np.ndarray, key: str = "labels") -> np.ndarray:
    """Write a batch as CIFAR's authors pickled them (CIFAR-100's key: fine_labels); returns its rows (N, 3072)."""
    rows = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    path.write_bytes(cifar_batch(rows, labels, key))
    return rows


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Use this folder as the working directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
