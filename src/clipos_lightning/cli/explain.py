"""``clipos explain``: a figure of what a detector saw in one's own images, fit for a paper."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from ..data.image_sets import open_image
from ..data.transforms import as_rgb, resize_and_crop
from ..detector.detector import Detector
from ..errors import InputError
from ..options.messages import TRUST, CommandParser
from ..reporting.paper_figure import PAPER, Verdict, paper_figure
from ..utils.files import atomic_write, check_parent
from ..utils.progress import silence_libraries

FORMATS = ("png", "pdf", "svg")
DPI = 300  # of a png
MAX_SIDE = 480  # pixels of an image in the figure, at the most
MAX_IMAGES = 12  # images in one figure


def look(
    detector: Detector, pictures: Sequence[Image.Image], names: Sequence[str], label: int | None = None, top: int = 5
) -> list[Verdict]:
    """What a detector saw in pictures, and what it says of them.

    Args:
        detector: the detector.
        pictures: of any size, N of them.
        names: of the pictures.
        label: index of the class that the maps are of; None: each picture's predicted class.
        top: how many classes to name.
    """
    seen, maps = detector.maps(detector.prepare(pictures), label)
    shares = seen.shares.topk(min(top, len(detector.class_names)))
    grids = {
        name: getattr(maps, name).unflatten(1, detector.backbone.grid).cpu().numpy()
        for name in ("clip", "surgery", "mask")
    }
    found = []
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        ranked = zip(shares.indices[i].tolist(), shares.values[i].tolist(), strict=True)
        found.append(
            Verdict(
                name=name,
                image=square(picture),
                **{name: values[i] for name, values in grids.items()},
                shown=detector.class_names[int(seen.predicted[i]) if label is None else label],
                classes=[(detector.class_names[c], share) for c, share in ranked],
                score_name=detector.score,
                score=float(seen.score[i]),
                threshold=detector.threshold,
            )
        )
    return found


def square(picture: Image.Image) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """The part that the model sees, at the picture's own resolution, (H, H, 3)."""
    return np.asarray(resize_and_crop(as_rgb(picture), min(MAX_SIDE, *picture.size)))


def save_figure(verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the figure as its name ends, whole or not at all; without a date, so that equal figures are equal files."""
    form = path.suffix[1:].lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
    with atomic_write(path) as partial, matplotlib.rc_context(PAPER):
        paper_figure(verdicts).savefig(partial, format=form, dpi=DPI, metadata=undated, facecolor="white")


def find_class(name: str, class_names: Sequence[str]) -> int:
    """The index of a class.

    Raises:
        InputError: no such class.
    """
    if name not in class_names:
        close = difflib.get_close_matches(name, class_names, 3, 0.4) or class_names[:8]
        raise InputError(f"explain: --class {name!r} is not a class of this detector: take one like {', '.join(close)}")
    return list(class_names).index(name)


def check_figure_path(path: Path, images: int) -> None:
    """The figure can be written.

    Raises:
        InputError: it cannot.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise InputError(f"explain: --out {path}: its name ends in .png, .pdf or .svg")
    if path.exists():
        raise InputError(f"explain: {path} exists; give another --out, or remove it")
    check_parent(path)
    if images > MAX_IMAGES:
        raise InputError(
            f"explain: {images} images: at most {MAX_IMAGES} to a figure; predict --explain takes any number"
        )


def explain_parser() -> CommandParser:
    """The options of ``clipos explain``."""
    parser = CommandParser(prog="clipos explain", description=__doc__)
    parser.add_argument("file", help="a detector: detector.safetensors, or the last.ckpt of a `clipos fit` run")
    parser.add_argument("images", nargs="+", metavar="image", help=f"image files, a row each, at most {MAX_IMAGES}")
    text = "figure to write, .png, .pdf or .svg (must not exist); default: explanation.png"
    parser.add_argument("--out", default="explanation.png", help=text)
    parser.add_argument("--class", dest="name", help="the class that the maps are of; default: the predicted one")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (default 5)")
    parser.add_argument("--pretrained", help="the backbone's weights, where they are not where they were in training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument("--trust", action="store_true", help=TRUST)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos explain``; returns the exit code."""
    silence_libraries()
    given = explain_parser().parse_args(list(arguments))
    if given.top < 1:
        raise InputError(f"explain: --top is {given.top}: at least 1")
    check_figure_path(Path(given.out), len(given.images))
    pictures = [open_image(Path(path)) for path in given.images]
    detector = Detector.load(given.file, given.device, given.pretrained, given.trust)
    label = None if given.name is None else find_class(given.name, detector.class_names)
    verdicts = look(detector, pictures, [Path(path).name for path in given.images], label, given.top)
    save_figure(verdicts, Path(given.out))
    for path, verdict in zip(given.images, verdicts, strict=True):
        print(f"{path}: {verdict.classes[0][0]} ({100 * verdict.classes[0][1]:.1f} %); {decision_line(verdict)}")
    print(f"figure: {given.out}")
    return 0


def decision_line(verdict: Verdict) -> str:
    """The decision on one line."""
    return verdict.decision.replace("\n", " ")
