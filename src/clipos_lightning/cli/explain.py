"""``clipos explain``: a figure of similarity maps, mask, class probabilities and decision for the user's images."""

import difflib
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from ..data.decoding import Decoding, open_image
from ..data.pixels import as_rgb
from ..data.transforms import resize_image
from ..detector.detector import Detector
from ..errors import InputError
from ..options.messages import DETECTOR_HELP, CommandParser
from ..reporting.paper_figure import PAPER, Explanation, paper_figure
from ..utils.files import atomic_write, check_parent
from ..utils.progress import silence_libraries
from .inference import add_loading_options, add_max_pixels, decoding_for

FIGURE_FORMATS = ("png", "pdf", "svg")
DPI = 300  # resolution of PNG files
FIGURE_SIDE = 480  # largest side of an image in the figure, pixels
MAX_IMAGES = 12  # images in one figure


def explain_images(
    detector: Detector, pictures: Sequence[Image.Image], names: Sequence[str], label: int | None = None, top: int = 5
) -> list[Explanation]:
    """Predictions and similarity maps of images, ready for the figure.

    Args:
        detector: the detector.
        pictures: images of any size.
        names: names of the images.
        label: index of the class to show maps for; None: the predicted class of each image.
        top: number of classes to list.
    """
    predictions, maps = detector.maps(detector.prepare(pictures), label)
    ranked = predictions.probabilities.topk(min(top, len(detector.class_names)))
    grids = {
        name: getattr(maps, name).unflatten(1, detector.backbone.grid).cpu().numpy()
        for name in ("clip", "surgery", "mask")
    }
    if maps.difference is not None:
        grids["distance"] = maps.difference.unflatten(1, detector.backbone.grid).cpu().numpy()
    found = []
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        classes = zip(ranked.indices[i].tolist(), ranked.values[i].tolist(), strict=True)
        shown = replace(detector.backbone.preprocessing, size=min(FIGURE_SIDE, *picture.size))
        found.append(
            Explanation(
                name=name,
                image=np.asarray(resize_image(as_rgb(picture), shown)),
                **{kind: values[i] for kind, values in grids.items()},
                shown=detector.class_names[int(predictions.predicted[i]) if label is None else label],
                classes=[(detector.class_names[c], probability) for c, probability in classes],
                score_name=detector.score,
                score=float(predictions.score[i]),
                threshold=detector.threshold_of(int(predictions.predicted[i])),
            )
        )
    return found


def save_figure(explanations: Sequence[Explanation], path: Path) -> None:
    """Write the figure atomically, in the format of the path's suffix; equal figures give equal bytes."""
    form = path.suffix[1:].lower()
    no_date = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
    with atomic_write(path) as partial, matplotlib.rc_context(PAPER):
        paper_figure(explanations).savefig(partial, format=form, dpi=DPI, metadata=no_date, facecolor="white")


def find_class(name: str, class_names: Sequence[str]) -> int:
    """The index of a class.

    Raises:
        InputError: the detector has no such class.
    """
    if name not in class_names:
        close = difflib.get_close_matches(name, class_names, 3, 0.4) or class_names[:8]
        raise InputError(f"explain: --class {name!r} is not a class of this detector: use one of {', '.join(close)}")
    return list(class_names).index(name)


def check_figure_path(path: Path, images: int) -> None:
    """Check that the figure can be written.

    Raises:
        InputError: the file exists or has an unknown suffix, its folder is missing, or there are too many images.
    """
    if path.suffix[1:].lower() not in FIGURE_FORMATS:
        raise InputError(f"explain: --out {path}: the name must end in .png, .pdf or .svg")
    if path.exists():
        raise InputError(f"explain: {path} exists: give another --out, or remove it")
    check_parent(path)
    if images > MAX_IMAGES:
        raise InputError(
            f"explain: {images} images, but a figure has at most {MAX_IMAGES}: give fewer, or use predict --explain"
        )


def read_images(paths: Sequence[str], decoding: Decoding) -> tuple[list[tuple[str, Image.Image]], list[InputError]]:
    """Path and image of each file that can be read, and the errors of the others.

    Raises:
        InputError: none can be read.
    """
    pictures, errors = list[tuple[str, Image.Image]](), list[InputError]()
    for path in paths:
        try:
            pictures.append((path, open_image(Path(path), decoding)))
        except InputError as error:
            errors.append(error)
    if not pictures:
        raise InputError(f"explain: {f'none of {len(errors)} images can be read: ' * (len(errors) > 1)}{errors[0]}")
    return pictures, errors


def explain_parser() -> CommandParser:
    """The parser of ``clipos explain``."""
    text = (
        "Draw a figure with one row per image: similarity maps, ID-relevant mask, the most probable classes, and the "
        "decision."
    )
    parser = CommandParser(prog="clipos explain", description=text)
    parser.add_argument("file", metavar="FILE", help=DETECTOR_HELP)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help=f"image files, at most {MAX_IMAGES}")
    text = ".png, .pdf or .svg file to write; must not exist (default: explanation.png)"
    parser.add_argument("--out", default="explanation.png", metavar="FIGURE", help=text)
    text = "class to show the maps for (default: the predicted class of each image)"
    parser.add_argument("--class", dest="name", metavar="NAME", help=text)
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes to list (default: 5)")
    add_max_pixels(parser)
    add_loading_options(parser)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos explain``; returns the exit code."""
    silence_libraries()
    given = explain_parser().parse_args(list(arguments))
    if given.top < 1:
        raise InputError(f"explain: --top is {given.top}: it must be at least 1")
    check_figure_path(Path(given.out), len(given.images))
    missing = next((path for path in given.images if not os.path.lexists(path)), None)
    if missing is not None:
        raise InputError(f"explain: no file {missing}")
    detector = Detector.load(given.file, given.device, given.pretrained, given.trust)
    readable, errors = read_images(given.images, decoding_for(detector, given))
    paths, pictures = zip(*readable, strict=True)
    label = None if given.name is None else find_class(given.name, detector.class_names)
    explanations = explain_images(detector, pictures, [Path(path).name for path in paths], label, given.top)
    save_figure(explanations, Path(given.out))
    for path, explanation in zip(paths, explanations, strict=True):
        name, probability = explanation.classes[0]
        print(f"{path}: {name} ({100 * probability:.1f} %); {' '.join(explanation.text.decision)}")
    print(f"figure: {given.out}")
    for error in errors:
        print(f"left out: {error}", file=sys.stderr)
    return 0
