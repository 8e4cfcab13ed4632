"""Redraw the documentation's figures: python scripts/figures.py [NAME …], or make figures.

Each is written to docs/images; all of them take about 20 minutes on two cores. `shots-cifar10` needs $CLIPOS_DATA
(docs/data.md) and is left out without it. `app` is a screenshot: see CONTRIBUTING.md.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from lightning.pytorch import Trainer
from PIL import Image

from clipos_lightning import ClipOS, FewShotOOD
from clipos_lightning.data.scenes import render
from clipos_lightning.data.styles import PHOTO, STYLES
from clipos_lightning.experiments.shot_curves import curve_figure, shot_curves
from clipos_lightning.options.text_files import read_json
from clipos_lightning.reporting.gallery import draw_pictures
from clipos_lightning.reporting.heatmaps import panel_figure

DOCS = Path(__file__).resolve().parents[1] / "docs"
KINDS = {"id": 10, "seen_shapes": 2, "new_shapes": 3, "texture": 2, "noise": 1, "letters": 2}  # of styles.png: pictures
GAP, ENLARGED = 2, 3
EXAMPLES = 5  # images in gallery.png


def run(*words: str) -> str:
    """Run a command of clipos in the working directory; returns what it printed."""
    print("clipos", *words, flush=True)
    command = [sys.executable, "-m", "clipos_lightning", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def folder_of(printed: str) -> Path:
    """The folder that a command names in its last line."""
    return Path(re.findall(r"^run: (.*)$", printed, re.MULTILINE)[-1])


def styles(path: Path) -> None:
    """Pictures of every kind of `scenes`, a row per style, enlarged."""
    rows = []
    for style in (PHOTO, *STYLES):
        images = [render(kind, "train", 0, i, style=style).image for kind, n in KINDS.items() for i in range(n)]
        padded = [np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for image in images]
        rows.append(np.concatenate(padded, axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    larger = picture.resize((ENLARGED * picture.width, ENLARGED * picture.height), Image.Resampling.NEAREST)
    larger.save(path, optimize=True)


def gallery(path: Path) -> None:
    """Images of the demo's test set, and the maps of the detector that it trains."""
    model = ClipOS.load_from_checkpoint(folder_of(run("fit", "--config", "demo.yaml")) / "last.ckpt")
    data = FewShotOOD(id="scenes-blueprint", ood_sets=[])
    Trainer(accelerator="cpu", logger=False, enable_progress_bar=False).test(model, data, verbose=False)
    shown = draw_pictures(model, data)["classes"][:EXAMPLES]
    panel_figure([(example.caption, example.panels) for example in shown]).savefig(path, dpi=120)


def explanation(path: Path) -> None:
    """The commands of docs/own_classes.md up to `clipos explain`."""
    page = (DOCS / "own_classes.md").read_text(encoding="utf-8")
    exec(compile(re.findall(r"```python\n(from pathlib.*?)```", page, re.DOTALL)[0], "own_classes.md", "exec"), {})
    checkpoint = folder_of(run("fit", "--config", "own_micro.yaml")) / "last.ckpt"
    run("calibrate", str(checkpoint), "more")
    (command,) = re.findall(r"^\$ clipos (explain .*)$", page, re.MULTILINE)[:1]
    run(*shlex.split(command), "--out", str(path))


def masks(path: Path) -> None:
    """The masks of all methods side by side."""
    shutil.copyfile(folder_of(run("benchmark", "masks")) / "gallery.png", path)


def shots(*options: str) -> Callable[[Path], None]:
    """Curves over the number of shots, of a grid with these options."""

    def draw(path: Path) -> None:
        folder = folder_of(run("benchmark", "shots", *options))
        (curves,) = shot_curves(read_json(folder / "results.json", "figures")).values()
        curve_figure(curves).savefig(path, dpi=100)

    return draw


CIFAR = ("--config", "cifar10_1shot_micro.yaml")
FIGURES: dict[str, Callable[[Path], None]] = {
    "styles": styles,
    "gallery": gallery,
    "explanation": explanation,
    "masks": masks,
    "shots-blueprint": shots("--data.id", "scenes-blueprint"),
    "shots-cifar10": shots(*CIFAR),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the figures that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FIGURES))
    parser.add_argument("--out", type=Path, default=DOCS / "images", help="folder to write to")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in FIGURES]
    if unknown:
        parser.error(f"no figure {', '.join(unknown)}: they are {', '.join(FIGURES)}")
    out, start = given.out.resolve(), Path.cwd()
    out.mkdir(parents=True, exist_ok=True)
    for name in given.names or FIGURES:
        if name == "shots-cifar10" and not os.environ.get("CLIPOS_DATA"):
            print("shots-cifar10: left out, $CLIPOS_DATA is not set")
            continue
        with TemporaryDirectory() as scratch:
            os.chdir(scratch)
            made = Path(scratch) / f"{name}-new.png"
            try:
                FIGURES[name](made)
            finally:
                os.chdir(start)
            shutil.copyfile(made, out / f"{name}.png")
        print(f"{name}: {out / f'{name}.png'}")


if __name__ == "__main__":
    main()
