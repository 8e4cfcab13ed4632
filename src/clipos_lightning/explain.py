"""``clipos explain``: a figure of what a detector saw in one's own images, fit for a paper."""

import difflib
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image

from .data.sets import open_image
from .data.transforms import to_side
from .detector import MAPS, Detector
from .errors import InputError
from .figures import PAPER, Verdict, paper_figure
from .files import whole
from .predict import Parser
from .progress import hush
from .surgery import relevant_patches, similarity_map
from .tables import MAP_PATHS

FORMATS = ("png", "pdf", "svg")
DPI = 300  # of a png
SIDE = 480  # pixels of an image in the figure, at the most
LARGEST = 12  # images in one figure


@torch.inference_mode()
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
    head, backbone, count = detector.head, detector.backbone, len(detector.class_names)
    images = detector.prepare(pictures).to(backbone.device)
    features = backbone.encode_image(images, head.paths | MAP_PATHS | head.mask.paths)
    seen = detector.judge_features(features)
    shares = (head.scale * features.cls @ head.text[:count].T / detector.temperature).softmax(1).topk(min(top, count))
    labels = seen.predicted if label is None else torch.full_like(seen.predicted, label)
    surgery, clip = (similarity_map(features.path(path), head.class_text[labels]) for path in MAPS)
    mask = relevant_patches(features, head.class_text, labels, head.mask)
    maps = {"clip": clip, "surgery": surgery, "mask": mask}
    grids = {name: values.unflatten(1, backbone.grid).cpu().numpy() for name, values in maps.items()}
    found = []
    for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
        ranked = zip(shares.indices[i].tolist(), shares.values[i].tolist(), strict=True)
        found.append(
            Verdict(
                name=name,
                image=square(picture),
                **{name: values[i] for name, values in grids.items()},
                shown=detector.class_names[int(labels[i])],
                classes=[(detector.class_names[c], share) for c, share in ranked],
                score_name=detector.score,
                score=float(seen.score[i]),
                threshold=detector.threshold,
            )
        )
    return found


def square(picture: Image.Image) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
    """The part that the model sees, at the picture's own resolution, (H, H, 3)."""
    return np.asarray(to_side(picture.convert("RGB"), min(SIDE, *picture.size)))


def save_figure(verdicts: Sequence[Verdict], path: Path) -> None:
    """Write the figure as its name ends, whole or not at all; without a date, so that equal figures are equal files."""
    form = path.suffix[1:].lower()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}.get(form)
    with whole(path) as partial, matplotlib.rc_context(PAPER):
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


def check_out(path: Path, images: int) -> None:
    """The figure can be written.

    Raises:
        InputError: it cannot.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise InputError(f"explain: --out {path}: its name ends in .png, .pdf or .svg")
    if path.exists():
        raise InputError(f"explain: {path} exists; give another --out, or remove it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"explain: no folder {path.absolute().parent} for --out")
    if images > LARGEST:
        raise InputError(f"explain: {images} images: at most {LARGEST} to a figure; predict --explain takes any number")


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos explain``; returns the exit code."""
    hush()
    parser = Parser(prog="clipos explain", description=__doc__)
    parser.add_argument("file", help="a detector: detector.safetensors, or the last.ckpt of a `clipos fit` run")
    parser.add_argument("images", nargs="+", metavar="image", help=f"image files, a row each, at most {LARGEST}")
    text = "figure to write, .png, .pdf or .svg (must not exist); default: explanation.png"
    parser.add_argument("--out", default="explanation.png", help=text)
    parser.add_argument("--class", dest="name", help="the class that the maps are of; default: the predicted one")
    parser.add_argument("--top", type=int, default=5, help="how many classes to name (default 5)")
    parser.add_argument("--pretrained", help="the backbone's weights, where they are not where they were in training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    given = parser.parse_args(list(arguments))
    if given.top < 1:
        raise InputError(f"explain: --top is {given.top}: at least 1")
    check_out(Path(given.out), len(given.images))
    pictures = [open_image(Path(path)) for path in given.images]
    detector = Detector.load(given.file, given.device, given.pretrained)
    label = None if given.name is None else find_class(given.name, detector.class_names)
    verdicts = look(detector, pictures, [Path(path).name for path in given.images], label, given.top)
    save_figure(verdicts, Path(given.out))
    for path, verdict in zip(given.images, verdicts, strict=True):
        print(f"{path}: {verdict.classes[0][0]} ({100 * verdict.classes[0][1]:.1f} %); {one_line(verdict)}")
    print(f"figure: {given.out}")
    return 0


def one_line(verdict: Verdict) -> str:
    """The decision on one line."""
    return verdict.decision.replace("\n", " ")
