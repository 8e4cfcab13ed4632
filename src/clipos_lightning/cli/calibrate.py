"""``clipos calibrate``: set the threshold for a requested ID recall, and the temperature of the probabilities."""

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
from jaxtyping import Float
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
from ..options.messages import DETECTOR_HELP, CommandParser
from ..training.checkpoint import data_options, known_options, read_checkpoint
from ..training.record import shorten_value
from ..types import Labels
from ..utils.files import check_parent
from ..utils.progress import counter, silence_libraries
from .inference import add_inference_options, load_batches, parse_arguments, report_dead_workers

Float64Array = NDArray[np.float64]
MAX_VIEWS = 4096  # views to score, over all few-shot images
GUARANTEES = ("guaranteed", "likely")  # fields of a conformal point that hold only for images not used in training


def calibrate_parser() -> CommandParser:
    """The parser of ``clipos calibrate``."""
    text = "Set a detector's threshold for a requested ID recall, and its temperature; save it for `clipos predict`."
    parser = CommandParser(prog="clipos calibrate", description=text)
    parser.add_argument("file", metavar="FILE", help=DETECTOR_HELP)
    text = (
        "unlabelled ID images: files, folders, patterns or -, as in `clipos predict` (default: crops of the few-shot "
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help=text + "images, without a guarantee)")
    text = "fraction of ID images to accept (default: 0.95)"
    parser.add_argument("--recall", type=float, default=0.95, metavar="R", help=text)
    text = "detector to write; must not exist (default: detector.safetensors)"
    parser.add_argument("--out", default="detector.safetensors", metavar="DETECTOR", help=text)
    text = "random crops of each few-shot image (default: 10)"
    parser.add_argument("--views", type=int, default=10, metavar="N", help=text)
    text = "data root of the few-shot images (default: $CLIPOS_DATA, else the data root of the training run)"
    parser.add_argument("--root", metavar="DIR", help=text)
    add_inference_options(parser)
    return parser


def check_arguments(given: argparse.Namespace) -> None:
    """Check the options before anything is loaded.

    Raises:
        InputError: an option is wrong, or the threshold cannot be set from what was given.
    """
    if not 0 < given.recall < 1:
        raise InputError(f"calibrate: --recall is {given.recall}: it must be between 0 and 1, such as 0.95")
    if given.views < 1:
        raise InputError(f"calibrate: --views is {given.views}: it must be at least 1")
    if Path(given.out).suffix != ".safetensors":
        raise InputError(f"calibrate: --out {given.out}: the name must end in .safetensors")
    if not Path(given.file).is_file():
        raise InputError(
            f"calibrate: no file {given.file}: give the last.ckpt of a `clipos fit` run, or a detector.safetensors"
        )
    if Path(given.out).exists():
        raise InputError(f"calibrate: {given.out} exists: give another --out, or remove it")
    check_parent(Path(given.out))
    if not is_checkpoint(given.file) and not given.paths:
        raise InputError(
            f"calibrate: {given.file} does not refer to its few-shot images: give ID images, or the last.ckpt of the "
            "`clipos fit` run"
        )
    check_paths(given.paths, "calibrate")


# ---- scores of ID images, scores and logits of views


@torch.inference_mode()
def score_images(detector: Detector, batches: Iterable[Any]) -> Iterator[tuple[Float64Array, list[str], list[str]]]:
    """Score batches of images.

    Yields:
        Scores of the readable images of a batch, errors of the unreadable ones, paths of all.
    """
    for batch in batches:
        readable = torch.tensor([not error for error in batch.errors])
        scores = detector.predict(batch.images).score.cpu()[readable]
        yield scores.double().numpy(), [error for error in batch.errors if error], batch.paths


def score_paths(detector: Detector, given: argparse.Namespace, learned: Set[str]) -> tuple[Float64Array, int]:
    """Scores of the user's ID images; unreadable ones are reported on stderr and left out.

    Args:
        detector: the detector.
        given: the options.
        learned: resolved paths of the images that the detector was trained on.

    Returns:
        The scores, and the number of images that the detector was trained on.

    Raises:
        InputError: none of the images can be read.
    """
    batches = load_batches(stream_paths(given.paths), detector.backbone.image_size, given.batch_size, given.num_workers)
    shown = sys.stderr.isatty()
    found, known = list[Float64Array](), 0
    total = count_paths(given.paths) if shown else None
    with counter(total, 0, "scoring ID images", shown) as step, report_dead_workers():
        for scores, errors, paths in score_images(detector, batches):
            found.append(scores)
            known += sum(os.path.realpath(path) in learned for path in paths)
            step(len(scores) + len(errors))
            for error in errors:
                print(f"left out: {error}", file=sys.stderr)
    if not sum(map(len, found)):
        raise InputError("calibrate: none of the images can be read: give other image files")
    return np.concatenate(found), known


@dataclass
class ViewScores:
    """A detector's outputs for random views of the few-shot images that were not used in training.

    Attributes:
        scores: (N,).
        logits: (N, C).
        labels: (N,).
        images: number of images that the views come from.
        files: resolved paths of the few-shot images; empty if they are not files.
    """

    scores: Float64Array
    logits: Float[Tensor, "batch classes"]
    labels: Labels
    images: int
    files: Set[str]


@torch.inference_mode()
def score_views(detector: Detector, data: FewShotOOD, views: int) -> ViewScores:
    """Score ``views`` new views of every few-shot image, fewer if there would be more than MAX_VIEWS in all."""
    count, train = len(data.shot_positions), data.id_set.train
    first = max(data.views, VIEWS)  # the views before it were used in training or for choosing the image weight
    views = min(views, max(1, MAX_VIEWS // count))
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
    return ViewScores(torch.cat(scores).numpy(), torch.cat(logits), labels, min(count, len(rows)), real)


def open_shots(file: str, root: str | None, image_size: int) -> FewShotOOD:
    """Open the few-shot images that a checkpoint was trained on.

    Raises:
        InputError: they are missing, or the classes or images are not those of training.
    """
    checkpoint = read_checkpoint(file)
    options = data_options(checkpoint) | ({} if root is None else {"root": root}) | {"ood_sets": []}
    with known_options(file):
        data = FewShotOOD(**options)
    data.image_size = image_size
    data.setup("fit")
    trained, where = checkpoint["clipos"], f"{data.id_set.name!r} in {data.root}"
    if data.class_names != trained["class_names"]:
        found, expected = shorten_value(data.class_names), shorten_value(trained["class_names"])
        raise InputError(f"{where} has other classes ({found}) than in training ({expected})")
    if trained.get("shots") not in (None, data.manifest()["digest"]):
        raise InputError(f"{where} has other images than in training: the few-shot draw differs")
    return data


# ---- messages


def describe_threshold(point: ConformalPoint, recall: float, score: str, what: str, guaranteed: bool) -> list[str]:
    """Lines about the threshold and, for images that were not used in training, the recall that it guarantees."""
    lines = [
        f"threshold: {score} >= {point.threshold:.9g}, the {ordinal(point.rank)} smallest score of {what}",
        f"  accepted of these: {100 * point.achieved:.1f} %",
    ]
    if not guaranteed:
        return lines
    if conformal_rank(point.n, recall):
        lines.append(
            f"  a new image exchangeable with these is accepted with a probability of at least {100 * recall:g} % "
            f"(split conformal, n = {point.n}: 1 - {point.rank} / {point.n + 1} = {100 * point.guaranteed:.1f} %)"
        )
    else:
        lines.append(
            f"  {point.n} images are too few to guarantee {100 * recall:g} %, which needs {smallest_n(recall)}: the "
            f"smallest score guarantees {100 * point.guaranteed:.1f} %"
        )
    low, high = (100 * bound for bound in point.likely)
    lines.append(f"  recall on new images: {low:.1f} to {high:.1f} % in 9 of 10 such calibrations")
    return lines


VIEWS_WARNING = [
    "warning: no ID images were given, so the threshold comes from random crops of the few-shot images: its recall on",
    "  new images is unknown. It may be lower (the detector was trained on these images, and crops of one image are",
    "  similar), or higher, with more OOD images accepted (a crop is harder to classify than a whole image). With",
    "  unlabelled ID images: clipos calibrate FILE FOLDER",
]


def training_images_warning(known: int, given: int) -> list[str]:
    """Warning about a threshold that was set from training images."""
    return [
        f"warning: the detector was trained on {known} of these {given} images, which score higher than new ones: the",
        "  threshold guarantees no recall and accepts fewer new images. Give ID images that were not used in training.",
    ]


def describe_temperature(found: Temperature) -> str:
    """Line about the temperature and its effect on the views."""
    views = f"{found.n} views, {100 * found.accuracy:.1f} % correctly classified"
    if not found.determined:
        return f"temperature: 1 ({views}: they do not determine it)"
    return f"temperature: {found.value:.3g} ({views}; NLL {found.nll_at_one:.3f} at 1, {found.nll:.3f} with it)"


def ordinal(k: int) -> str:
    """A number as an English ordinal.

    Example:
        >>> [ordinal(k) for k in (1, 2, 3, 4, 11, 12, 21, 112)]
        ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '112th']
    """
    return f"{k}{'th' if k % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(k % 10, 'th')}"


# ---- the command


def calibrate(detector: Detector, given: argparse.Namespace) -> list[str]:
    """Set a detector's threshold, temperature and calibration record.

    Returns:
        Lines to print.

    Raises:
        InputError: images are missing or unreadable, or their scores are not finite.
    """
    lines: list[str] = []
    views = find_views(detector, given, lines)
    record: dict[str, Any] = {"recall": given.recall, "version": __version__}
    if views is not None:
        found = fit_temperature(views.logits, views.labels)
        detector.temperature = found.value
        record["temperature"] = asdict(found)
        lines.append(describe_temperature(found))
    elif "temperature" in detector.calibration:
        record["temperature"] = detector.calibration["temperature"]
    if given.paths:
        scores, known = score_paths(detector, given, views.files if views else set())
        what, warning = "ID images", training_images_warning(known, len(scores)) if known else []
    else:
        assert views is not None
        scores, what, warning = views.scores, f"views of {views.images} images", VIEWS_WARNING
    if not np.isfinite(scores).all():
        raise InputError(f"calibrate: {detector.score} is not finite for all images: train with another --model.score")
    point = conformal_point(scores, given.recall)
    detector.threshold = point.threshold
    source = "images" if given.paths else "views"
    kept = {key: value for key, value in asdict(point).items() if not (warning and key in GUARANTEES)}
    detector.calibration = record | {"source": source, "point": kept}
    described = describe_threshold(point, given.recall, detector.score, f"{point.n} {what}", guaranteed=not warning)
    return [*described, *warning, *lines]


def find_views(detector: Detector, given: argparse.Namespace, lines: list[str]) -> ViewScores | None:
    """Scores of new views of the few-shot images; None if they are not available.

    Args:
        detector: the detector.
        given: the options.
        lines: receives the line about the temperature if it is not fitted.

    Raises:
        InputError: the few-shot images are not available, and no other images were given.
    """
    if not is_checkpoint(given.file):
        reason = "unchanged" if "temperature" in detector.calibration else "not fitted"
        lines.append(f"temperature: {detector.temperature:.3g} ({reason}: a detector file has no labelled images)")
        return None
    try:
        return score_views(detector, open_shots(given.file, given.root, detector.backbone.image_size), given.views)
    except InputError as error:
        reason = f"the few-shot images are not available: {error}; give their folder as --root"
        if not given.paths:
            raise InputError(f"{reason}, or ID images") from error
        lines.append(f"temperature: 1 ({reason})")
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
    print(f"detector: {given.out} ({size} kB, without the weights of {detector.backbone.name})")
    print(f"next: clipos predict {shlex.quote(given.out)} IMAGES")
    return 0
