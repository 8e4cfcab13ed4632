"""Shared by the benchmarks: timing, peak memory, the table, a ViT-B/16 with random weights, images and class names.

Random weights are fine for speed and meaningless for accuracy.
"""

import ctypes
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the command line does; for both sides of every ratio

import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.data.classnames import CIFAR10, CIFAR100, imagenet_classes
from clipos_lightning.data.scenes import ID_SHAPES, render
from clipos_lightning.utils.quiet import quiet

VIT = "ViT-B-16-quickgelu"
COLUMNS = ("what", "ours", "plain", "ratio", "goal", "peak MB: ours", "plain", "repeats: ours, plain")
HEAD = f"| {' | '.join(COLUMNS)} |\n|---|{'---:|' * 7}"


@dataclass
class Measured:
    """Timing of a function.

    Attributes:
        seconds: median of the repeats.
        peak: peak memory of the process in MB; 0 where it is not measured.
        repeats: how often it was timed.
    """

    seconds: float
    peak: float
    repeats: int


@dataclass
class Row:
    """A row of the table.

    Attributes:
        what: what is compared.
        ours: timing of this package.
        plain: timing of the plain implementation.
        goal: smallest ratio plain / ours (how many times faster) that meets the goal; None: no goal.
        limit: largest number of seconds for ours that meets the goal; None: no goal.
    """

    what: str
    ours: Measured
    plain: Measured
    goal: float | None = None
    limit: float | None = None

    @property
    def text(self) -> str:
        """The row in Markdown."""
        ratio = self.plain.seconds / self.ours.seconds
        goals = [(f"≥ {self.goal:.3g}×", ratio >= (self.goal or 0))] if self.goal else []
        goals += [(f"≤ {self.limit:g} s", self.ours.seconds <= (self.limit or 0))] if self.limit else []
        goal = ", ".join(f"{text} {'met' if met else '**missed**'}" for text, met in goals)
        sides, peaks = (self.ours, self.plain), [f"{m.peak:,.0f}" if m.peak else "" for m in (self.ours, self.plain)]
        seconds = [f"{m.seconds:.3f} s" if m.seconds < 10 else f"{m.seconds:.1f} s" for m in sides]
        counts = ", ".join(str(m.repeats) for m in sides)
        return f"| {self.what} | {' | '.join(seconds)} | {ratio:.2f}× | {goal} | {' | '.join(peaks)} | {counts} |"


def show(rows: Iterable[Row]) -> None:
    """Print rows as they are measured; with ``--rows`` on the command line the caller prints the table's head."""
    if "--rows" not in sys.argv:
        print(HEAD, flush=True)
    for row in rows:
        print(row.text, flush=True)


def timed(function: Callable[[], object], repeats: int = 3, warm_up: int = 1, device: str = "cpu") -> Measured:
    """Time ``repeats`` calls after ``warm_up`` untimed ones: median seconds, and peak memory of the timed calls."""
    seconds = []
    for i in range(warm_up + repeats):
        if i == warm_up:
            reset_peak()
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return Measured(statistics.median(seconds[warm_up:]), peak_mb(), repeats)


def in_turns(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, Measured]:
    """Time several functions in alternation, so that other load affects all of them; the first round is a warm-up."""
    rounds = [{name: timed(function, 1, 0) for name, function in functions.items()} for _ in range(repeats + 1)][1:]
    return {
        name: Measured(statistics.median(r[name].seconds for r in rounds), max(r[name].peak for r in rounds), repeats)
        for name in functions
    }


def reset_peak() -> None:
    """Return freed memory to the system and restart the count of peak memory (Linux)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> float:
    """Peak resident memory of the process since :func:`reset_peak`, in MB; 0 if the system does not report it."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")), 0.0)
    return 0.0


def random_clip() -> open_clip.CLIP:
    """OpenAI's ViT-B/16, randomly initialised."""
    torch.manual_seed(0)
    with quiet():
        return open_clip.create_model(VIT, pretrained=None, load_weights=False)


def vit_b_16() -> FrozenClip:
    """This package's backbone with the model of :func:`random_clip`."""
    return FrozenClip(random_clip(), open_clip.get_tokenizer(VIT), VIT, "quick_gelu", weights_fingerprint="random")


def save_weights(path: Path) -> str:
    """Write random weights to a file for ``--model.pretrained``; returns its path."""
    save_file({name: tensor.contiguous() for name, tensor in random_clip().state_dict().items()}, path)
    return str(path)


def class_names(count: int) -> list[str]:
    """The first ``count`` class names of CIFAR-10, CIFAR-100 or ImageNet."""
    every = CIFAR10 if count <= 10 else CIFAR100 if count <= 100 else tuple(imagenet_classes().values())
    return [name.replace("/", " ") for name in every[:count]]


def write_classes(root: Path, names: Iterable[str], images: int) -> None:
    """Write ``root/train/<class>/N.png``: images of 32 px, the size of CIFAR's."""
    for c, name in enumerate(names):
        folder = root / "train" / name
        folder.mkdir(parents=True)
        for n in range(images):
            picture = render("id", "train", 0, (c % len(ID_SHAPES)) + len(ID_SHAPES) * n)
            Image.fromarray(picture.image).save(folder / f"{n}.png")


def random_images(count: int, size: int) -> torch.Tensor:
    """Random pixels, uint8 (N, 3, size, size)."""
    return torch.randint(0, 256, (count, 3, size, size), generator=torch.manual_seed(0), dtype=torch.uint8)


def check(ours: torch.Tensor, plain: torch.Tensor, what: str, tolerance: float = 1e-3) -> None:
    """Check that two results agree.

    Args:
        ours: result of this package.
        plain: result of the plain implementation.
        what: name of the result, for the message.
        tolerance: largest difference, relative to the largest absolute value.

    Raises:
        AssertionError: they differ by more.
    """
    worst = float((ours - plain).abs().max() / plain.abs().max().clamp_min(1e-12))
    if worst > tolerance:
        raise AssertionError(f"{what}: ours and the plain implementation differ by {worst:.1e} of the largest value")
