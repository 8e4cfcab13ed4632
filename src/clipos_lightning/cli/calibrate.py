"""``clipos calibrate``: a threshold for a wanted ID recall and a temperature, written into ``detector.safetensors``."""

import argparse
import math
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import __version__
from ..data.datamodule import FewShotOOD
from ..data.image_sets import FolderSet
from ..detector.detector import BATCH, Detector, is_checkpoint
from ..detector.image_stream import check_paths, count_paths, stream_paths
from ..errors import InputError
from ..evaluation.calibration import (
    ConformalPoint,
    Temperature,
    conformal_point,
    conformal_rank,
    fit_temperature,
    smallest_n,
)
from ..method.prototypes import VIEWS
from ..options.messages import CommandParser
from ..training.checkpoint import data_options, known_options, read_checkpoint
from ..training.record import shorten_value
from ..types import Labels
from ..utils.files import check_parent
from ..utils.progress import counter, silence_libraries
from .predict import add_engine_options, living_workers, load_batches, parse_arguments

Float64Array = NDArray[np.float64]
MAX_VIEWS = 4096  # views that are judged
PROMISES = ("guaranteed", "likely")  # of a conformal point, for images that the detector has not seen


def calibrate_parser() -> CommandParser:
    """The options of ``clipos calibrate``."""
    parser = CommandParser(prog="clipos calibrate", description=__doc__)
    parser.add_argument("file", help="the last.ckpt of a `clipos fit` run, or a detector.safetensors")
    text = "unlabelled ID images to set the threshold by, as for predict; without any: views of the few-shot images"
    parser.add_argument("paths", nargs="*", metavar="path", help=text)
    parser.add_argument("--recall", type=float, default=0.95, help="share of ID images to accept (default 0.95)")
    text = "detector to write (must not exist); default: detector.safetensors"
    parser.add_argument("--out", default="detector.safetensors", help=text)
    parser.add_argument("--views", type=int, default=10, help="random crops of each few-shot image (default 10)")
    parser.add_argument("--root", help="data root of the few-shot images; default: $CLIPOS_DATA, else that of training")
    add_engine_options(parser)
    return parser


def check_arguments(given: argparse.Namespace) -> None:
    """Options that fit together, before anything is loaded.

    Raises:
        InputError: they do not.
    """
    if not 0 < given.recall < 1:
        raise InputError(f"calibrate: --recall is {given.recall}: a share of the ID images, between 0 and 1, like 0.95")
    if given.views < 1:
        raise InputError(f"calibrate: --views is {given.views}: at least 1")
    if Path(given.out).suffix != ".safetensors":
        raise InputError(f"calibrate: --out {given.out}: a detector's name ends in .safetensors")
    if not Path(given.file).is_file():
        raise InputError(f"calibrate: no file {given.file}: give the last.ckpt of a `clipos fit` run, or a detector")
    if Path(given.out).exists():
        raise InputError(f"calibrate: {given.out} exists; give another --out, or remove it")
    check_parent(Path(given.out))
    if not is_checkpoint(given.file) and not given.paths:
        raise InputError(
            f"calibrate: {given.file} does not hold the few-shot images: give ID images to set the threshold by, or "
            "the last.ckpt of the fit"
        )
    check_paths(given.paths, "calibrate")


# ---- what the threshold and the temperature are found on


@torch.inference_mode()
def score_images(detector: Detector, batches: Iterable[Any]) -> Iterator[tuple[Float64Array, list[str], list[str]]]:
    """Scores of the readable images of each batch, the errors of the others, and the paths of all."""
    for batch in batches:
        readable = torch.tensor([not error for error in batch.errors])
        scores = detector.predict(batch.images).score.cpu()[readable]
        yield scores.double().numpy(), [error for error in batch.errors if error], batch.paths


def score_paths(detector: Detector, given: argparse.Namespace, learned: Set[str]) -> tuple[Float64Array, int]:
    """Scores of one's own ID images; unreadable ones are left out and named on stderr.

    Args:
        detector: the detector.
        given: the options.
        learned: real paths of the images that it learned from.

    Returns:
        The scores, and how many of the images are among those.

    Raises:
        InputError: none can be read.
    """
    batches = load_batches(stream_paths(given.paths), detector.backbone.image_size, given.batch_size, given.num_workers)
    shown = sys.stderr.isatty()
    found, known = list[Float64Array](), 0
    total = count_paths(given.paths) if shown else None
    with counter(total, 0, "scoring ID images", shown) as step, living_workers():
        for scores, errors, paths in score_images(detector, batches):
            found.append(scores)
            known += sum(os.path.realpath(path) in learned for path in paths)
            step(len(scores) + len(errors))
            for error in errors:
                print(f"left out: {error}", file=sys.stderr)
    if not sum(map(len, found)):
        raise InputError("calibrate: none of the images can be read")
    return np.concatenate(found), known


@dataclass
class Views:
    """What a detector says of views of the few-shot images that training did not see.

    Attributes:
        scores: (N,).
        logits: (N, C).
        labels: (N,).
        images: how many images they are of.
        files: real paths of the images that the detector learned from; none where they are no files.
    """

    scores: Float64Array
    logits: Tensor
    labels: Labels
    images: int
    files: Set[str]


@torch.inference_mode()
def score_views(detector: Detector, data: FewShotOOD, views: int) -> Views:
    """Views of every few-shot image, fewer where there are many images, judged some at a time."""
    count, train = len(data.shot_positions), data.id_set.train
    first, views = (
        max(data.views, VIEWS),
        min(views, max(1, MAX_VIEWS // count)),
    )  # the first VIEWS chose the image weight
    rows = torch.arange(first * count, (first + views) * count)[:: math.ceil(views * count / MAX_VIEWS)]
    scores, logits = [], []
    for part in rows.split(BATCH):
        images = data.shot_images(part).to(detector.backbone.device)
        found, cosine = detector.head.score(detector.backbone.encode_image(images, detector.head.paths))
        scores.append(found[detector.score].double().cpu())
        logits.append((detector.head.scale * cosine).cpu())
    files = [train.root / train.keys[i] for i in data.shot_positions] if isinstance(train, FolderSet) else []
    real = set(map(os.path.realpath, files))
    labels = data.shot_labels[rows % count]
    return Views(torch.cat(scores).numpy(), torch.cat(logits), labels, min(count, len(rows)), real)


def open_shots(file: str, root: str | None, image_size: int) -> FewShotOOD:
    """The few-shot images that a checkpoint was trained on.

    Raises:
        InputError: they are not there, or others are.
    """
    checkpoint = read_checkpoint(file)
    options = data_options(checkpoint) | ({} if root is None else {"root": root}) | {"ood_sets": []}
    with known_options(file):
        data = FewShotOOD(**options)
    data.image_size = image_size
    data.setup("fit")
    trained, where = checkpoint["clipos"], f"{data.id_set.name!r} below {data.root}"
    if data.class_names != trained["class_names"]:
        theirs, ours = shorten_value(trained["class_names"]), shorten_value(data.class_names)
        raise InputError(f"{where} has other classes ({ours}) than in training ({theirs})")
    if trained.get("shots") not in (None, data.manifest()["digest"]):
        raise InputError(f"{where} has other images than in training: the draw differs")
    return data


# ---- what is said about it


def point_lines(point: ConformalPoint, recall: float, score: str, what: str, promised: bool) -> list[str]:
    """The threshold, and what it guarantees, if it was set by images that the detector has not seen."""
    lines = [
        f"threshold: {score} >= {point.threshold:.9g}, the {ordinal(point.rank)} smallest score of {what}",
        f"  accepted of these: {100 * point.achieved:.1f} %",
    ]
    if not promised:
        return lines
    if conformal_rank(point.n, recall):
        lines.append(
            f"  a new image exchangeable with these is accepted with a probability of at least {100 * recall:g} % "
            f"(split conformal, n = {point.n}: 1 - {point.rank} / {point.n + 1} = {100 * point.guaranteed:.1f} %)"
        )
    else:
        lines.append(
            f"  {point.n} images are too few to guarantee {100 * recall:g} %, which takes {smallest_n(recall)}: the "
            f"smallest score guarantees {100 * point.guaranteed:.1f} %"
        )
    low, high = (100 * share for share in point.likely)
    lines.append(f"  the recall that this threshold will have: {low:.1f} to {high:.1f} % in 9 of 10 such calibrations")
    return lines


VIEWS_WARNING = [
    "warning: no ID images were given, so the threshold comes from random crops of the few-shot images: it promises",
    "  nothing of new images. Their recall may be lower (the detector learned from these images, and crops of one are",
    "  alike), or higher, with more OOD images accepted (a crop is harder to know than a whole image). Give unlabelled",
    "  ID images when you have some: clipos calibrate CKPT FOLDER",
]


def known_warning(known: int, given: int) -> list[str]:
    """What a threshold from the images of training is worth."""
    return [
        f"warning: the detector learned from {known} of these {given} images and knows them better than new ones: the",
        "  threshold promises nothing, and fewer new images will be accepted. Give ID images that it has not seen.",
    ]


def temperature_line(found: Temperature) -> str:
    """The temperature, and what it does to the views."""
    seen = f"{found.n} views, {100 * found.accuracy:.1f} % in the right class"
    if not found.determined:
        return f"temperature: 1 ({seen}: they do not determine it)"
    return f"temperature: {found.value:.3g} ({seen}; NLL {found.nll_at_one:.3f} at 1, {found.nll:.3f} with it)"


def ordinal(k: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st.

    Example:
        >>> [ordinal(k) for k in (1, 2, 3, 4, 11, 12, 21, 112)]
        ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '112th']
    """
    return f"{k}{'th' if k % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(k % 10, 'th')}"


# ---- the command


def calibrate(detector: Detector, given: argparse.Namespace) -> list[str]:
    """Set threshold, temperature and calibration record; returns what there is to say."""
    lines: list[str] = []
    views = find_views(detector, given, lines)
    record: dict[str, Any] = {"recall": given.recall, "version": __version__}
    if views is not None:
        found = fit_temperature(views.logits, views.labels)
        detector.temperature = found.value
        record["temperature"] = asdict(found)
        lines.append(temperature_line(found))
    elif "temperature" in detector.calibration:
        record["temperature"] = detector.calibration["temperature"]
    if given.paths:
        scores, known = score_paths(detector, given, views.files if views else set())
        what, warning = "ID images", known_warning(known, len(scores)) if known else []
    else:
        assert views is not None
        scores, what, warning = views.scores, f"views of {views.images} images", VIEWS_WARNING
    if not np.isfinite(scores).all():
        raise InputError(f"calibrate: {detector.score} is not finite on every image: take another --model.score")
    point = conformal_point(scores, given.recall)
    detector.threshold = point.threshold
    source = "images" if given.paths else "views"
    kept = {key: value for key, value in asdict(point).items() if not (warning and key in PROMISES)}
    detector.calibration = record | {"source": source, "point": kept}
    said = point_lines(point, given.recall, detector.score, f"{point.n} {what}", promised=not warning)
    return [*said, *warning, *lines]


def find_views(detector: Detector, given: argparse.Namespace, lines: list[str]) -> Views | None:
    """Held-out views of the few-shot images; None where there are none.

    Raises:
        InputError: the few-shot images are not there, and nothing else was given.
    """
    if not is_checkpoint(given.file):
        kept = "of the file kept" if "temperature" in detector.calibration else "1"
        lines.append(f"temperature: {detector.temperature:.3g} ({kept}: a detector's file has no labelled images)")
        return None
    try:
        return score_views(detector, open_shots(given.file, given.root, detector.backbone.image_size), given.views)
    except InputError as error:
        what = f"the few-shot images are not at hand: {error}; give their --root"
        if not given.paths:
            raise InputError(f"{what}, or ID images") from error
        lines.append(f"temperature: 1 ({what})")
        return None


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos calibrate``; returns the exit code."""
    silence_libraries()
    given = parse_arguments(calibrate_parser(), arguments)
    check_arguments(given)
    detector = Detector.load(given.file, given.device, given.pretrained, given.trust)
    lines = calibrate(detector, given)
    detector.save(given.out)
    size = math.ceil(Path(given.out).stat().st_size / 1000)
    print("\n".join(lines))
    print(f"detector: {given.out} ({size} kB; {detector.backbone.name}'s weights are not in it)")
    print(f"next: clipos predict {shlex.quote(given.out)} IMAGES")
    return 0
