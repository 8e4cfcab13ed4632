"""``clipos calibrate``: the threshold of a detector, and the temperature of its probabilities."""

import argparse
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..detector.detector import Detector
from ..detector.file import is_checkpoint
from ..detector.image_stream import check_paths
from ..errors import InputError
from ..evaluation.calibration import conformal_point, fit_temperature, recall_table, smallest_n, stranger_point
from ..evaluation.memory import join_memories
from ..evaluation.scores import find_score
from ..options.messages import DETECTOR_HELP, CommandParser
from ..training.notes import counted
from ..utils.progress import silence_libraries
from .calibration_images import ScoredImages, remember_paths, score_paths, split_for_memory
from .calibration_lines import (
    VIEWS_WARNING,
    describe_accepted,
    describe_class_points,
    describe_classes,
    describe_point,
    describe_stranger_point,
    describe_temperature,
    training_images_warning,
)
from .calibration_views import ViewScores, open_shots, score_views
from .inference import add_inference_options, check_detector_paths, parse_arguments
from .wandb_option import add_wandb_option, log_to_wandb

RECALL, ACCEPT = 0.95, 0.05  # defaults
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
    text = "fraction of ID images to accept (default: 0.95, unless --strangers or --threshold sets the threshold)"
    parser.add_argument("--recall", type=float, metavar="R", help=text)
    text = "images of other classes, as PATH: the threshold accepts at most --accept of them; with --recall or "
    text += "--threshold their accepted fraction is printed only"
    parser.add_argument("--strangers", nargs="+", default=[], metavar="PATH", help=text)
    text = "fraction of --strangers to accept at most (default: 0.05)"
    parser.add_argument("--accept", type=float, metavar="A", help=text)
    text = "the threshold itself: images with a lower score are unknown"
    parser.add_argument("--threshold", type=float, metavar="T", help=text)
    text = "a threshold for each predicted class, each with the requested recall (Mondrian conformal)"
    parser.add_argument("--per_class", action="store_true", help=text)
    text = "keep the features of half of the ID images in the detector, for the scores knn and mahalanobis; the other "
    parser.add_argument("--memory", action="store_true", help=text + "half sets the threshold")
    text = "detector to write; must not exist (default: detector.safetensors)"
    parser.add_argument("--out", default="detector.safetensors", metavar="DETECTOR", help=text)
    text = "random crops of each few-shot image (default: 10)"
    parser.add_argument("--views", type=int, default=10, metavar="N", help=text)
    text = "data root of the few-shot images (default: $CLIPOS_DATA, else the data root of the training run)"
    parser.add_argument("--root", metavar="DIR", help=text)
    add_wandb_option(parser, "the calibration and the new detector")
    add_inference_options(parser)
    return parser


def check_arguments(given: argparse.Namespace) -> None:
    """Check the options before anything is loaded.

    Raises:
        InputError: an option is wrong, or the threshold cannot be set from what was given.
    """
    for option, value in (("recall", given.recall), ("accept", given.accept)):
        if value is not None and not 0 < value < 1:
            raise InputError(f"calibrate: --{option} is {value}: it must be between 0 and 1, such as 0.95 for 95 %")
    if given.threshold is not None and not math.isfinite(given.threshold):
        raise InputError(f"calibrate: --threshold is {given.threshold}: give a number")
    if given.recall is not None and given.threshold is not None:
        raise InputError("calibrate: --recall and --threshold both set the threshold: give one of them")
    if given.accept is not None and (not given.strangers or set_by(given) != "strangers"):
        raise InputError("calibrate: --accept needs --strangers, without --recall and --threshold")
    if given.per_class and (set_by(given) != "recall" or not given.paths):
        raise InputError("calibrate: --per_class needs ID images, and --recall in place of --threshold or --strangers")
    if given.memory and not given.paths:
        raise InputError("calibrate: --memory needs ID images, to keep half of them: give a folder")
    if given.views < 1:
        raise InputError(f"calibrate: --views is {given.views}: it must be at least 1")
    check_detector_paths("calibrate", given.file, given.out)
    if not is_checkpoint(given.file) and not given.paths and set_by(given) == "recall":
        raise InputError(
            f"calibrate: {given.file} does not refer to its few-shot images: give ID images, or the last.ckpt of the "
            "`clipos fit` run"
        )
    check_paths([*given.paths, *given.strangers], "calibrate")


def set_by(given: argparse.Namespace) -> str:
    """What sets the threshold: ``threshold``, ``recall`` or ``strangers``."""
    if given.threshold is not None:
        return "threshold"
    return "strangers" if given.strangers and given.recall is None else "recall"


# ---- the command


def calibrate(detector: Detector, given: argparse.Namespace) -> tuple[Detector, list[str]]:
    """Set a detector's threshold, temperature and calibration record, and extend its memory.

    Returns:
        The detector, and lines to print.

    Raises:
        InputError: images are missing or unreadable, or their scores are not finite.
    """
    record: dict[str, Any] = {"version": __version__}
    notes: list[str] = []
    views = find_views(detector, given, notes)
    if views is not None:
        found = fit_temperature(views.logits, views.labels)
        detector.temperature = found.value
        record["temperature"] = asdict(found)
        notes += describe_temperature(found, len(detector.class_names))
    elif "temperature" in detector.calibration:
        record["temperature"] = detector.calibration["temperature"]
    paths = given.paths
    if given.memory:
        detector, paths, line = extend_memory(detector, given)
        notes.append(line)
    images = score_paths(detector, paths, given, "ID images") if paths else None
    strangers = score_paths(detector, given.strangers, given, "images of other classes") if given.strangers else None
    if images is not None and strangers is not None:
        check_overlap(images.paths, strangers.paths)
    lines, more = set_threshold(detector, given, images, views, strangers)
    detector.calibration = record | more
    return detector, [*lines, *notes]


def check_overlap(images: Sequence[str], strangers: Sequence[str]) -> None:
    """Check that no image is given both as an ID image and as one of another class.

    Raises:
        InputError: one is.
    """
    both = set(map(os.path.realpath, images)) & set(map(os.path.realpath, strangers))
    if both:
        raise InputError(f"calibrate: {len(both)} images are among the ID images and --strangers: {min(both)}, …")


def extend_memory(detector: Detector, given: argparse.Namespace) -> tuple[Detector, list[str], str]:
    """Keep half of the ID images: the extended detector, the paths of the other half, and a line about them.

    Raises:
        InputError: the detector's score compares with no images, or the images cannot be split or read.
    """
    head = detector.head
    if head.memory is None or not find_score(detector.score).memory:
        raise InputError(
            f"calibrate: --memory: the score {detector.score} compares with no images: fit with --model.score "
            "mahalanobis or knn"
        )
    remembered, others = split_for_memory(given.paths)
    new = remember_paths(detector, remembered, given).without(head.memory)
    memory, added = join_memories([head.memory, new]), len(new.labels)
    line = f"memory: {added} ID images, which did not set the threshold, and {len(head.memory.labels)} from before"
    return replace(detector, head=replace(head, memory=memory)), others, line


def set_threshold(
    detector: Detector,
    given: argparse.Namespace,
    images: ScoredImages | None,
    views: ViewScores | None,
    strangers: ScoredImages | None,
) -> tuple[list[str], dict[str, Any]]:
    """Set the threshold by ``--recall``, ``--strangers`` or ``--threshold``.

    Returns:
        Lines to print, and the record of the calibration.
    """
    how, recall = set_by(given), RECALL if given.recall is None else given.recall
    lines: list[str] = []
    record: dict[str, Any] = {"source": how}
    detector.class_thresholds = None
    if how == "threshold":
        detector.threshold = given.threshold
        lines.append(f"threshold: {detector.score} >= {given.threshold:.9g}, as given")
    elif how == "strangers":
        assert strangers is not None
        accept = ACCEPT if given.accept is None else given.accept
        from_strangers = stranger_point(strangers.scores, accept)
        detector.threshold = from_strangers.threshold
        lines += describe_stranger_point(from_strangers, accept, detector.score)
        record |= {"accept": accept, "strangers": asdict(from_strangers)}
    else:
        scores, warning, what = id_scores(images, views)
        point = conformal_point(scores, recall)
        detector.threshold = point.threshold
        lines += describe_point(point, recall, detector.score, what, guaranteed=not warning)
        kept = {key: value for key, value in asdict(point).items() if not (warning and key in GUARANTEES)}
        record |= {"source": "images" if images else "views", "recall": recall, "point": kept}
        record["by_recall"] = recall_table(scores, recall)
        if given.per_class and images is not None:
            lines += set_class_thresholds(detector, images, recall, guaranteed=not warning)
        lines += warning
    return lines + describe_others(detector, how, recall, images, views, strangers), record


def id_scores(images: ScoredImages | None, views: ViewScores | None) -> tuple[Any, list[str], str]:
    """The scores that set the threshold for a recall, a warning about them, and what they are."""
    if images is None:
        assert views is not None
        return views.scores, VIEWS_WARNING, f"{len(views.scores)} views of {views.images} images"
    learned = views.files if views else set()
    trained = np.array([os.path.realpath(path) in learned for path in images.paths])
    known = int((trained | images.remembered).sum())
    warning = training_images_warning(known, len(images.paths)) if known else []
    return images.scores, warning, counted(len(images.paths), "ID image")


def set_class_thresholds(detector: Detector, images: ScoredImages, recall: float, guaranteed: bool) -> list[str]:
    """Set a threshold for each predicted class, the overall one where there are too few images; lines about them."""
    groups = [images.scores[images.predicted == c] for c in range(len(detector.class_names))]
    points = [conformal_point(group, recall) if len(group) >= smallest_n(recall) else None for group in groups]
    assert detector.threshold is not None
    overall = detector.threshold
    detector.class_thresholds = [overall if point is None else point.threshold for point in points]
    return describe_class_points(detector.class_names, points, recall, overall, guaranteed)


def describe_others(
    detector: Detector,
    how: str,
    recall: float,
    images: ScoredImages | None,
    views: ViewScores | None,
    strangers: ScoredImages | None,
) -> list[str]:
    """Lines about what the threshold does to the images that did not set it, and about the classes."""
    lines = []
    if how != "recall" and images is not None:
        lines.append(describe_accepted(float(accepted(detector, images).mean()), len(images.paths), "ID images"))
    elif how != "recall" and views is not None and detector.threshold is not None:
        part = float(np.mean(views.scores >= detector.threshold))
        lines.append(describe_accepted(part, len(views.scores), "views of the few-shot images"))
    if strangers is not None and how != "strangers":
        part = float(accepted(detector, strangers).mean())
        lines.append(describe_accepted(part, len(strangers.paths), "images of other classes"))
    if images is not None:
        labels = images.labels(detector.names)
        goal = recall if how == "recall" else None
        lines += describe_classes(detector.class_names, labels, images.predicted, accepted(detector, images), goal)
    return lines


def accepted(detector: Detector, images: ScoredImages) -> Any:
    """Whether the detector's threshold accepts each image, bool (n,)."""
    thresholds = np.array([detector.threshold_of(c) for c in range(len(detector.class_names))], dtype=np.float64)
    return images.scores >= thresholds[images.predicted]


def find_views(detector: Detector, given: argparse.Namespace, lines: list[str]) -> ViewScores | None:
    """Scores of new views of the few-shot images; None if they are not available.

    Args:
        detector: the detector.
        given: the options.
        lines: receives the line about the temperature if it is not fitted.

    Raises:
        InputError: the few-shot images are not available, and nothing else sets the threshold.
    """
    if not is_checkpoint(given.file):
        reason = "unchanged" if "temperature" in detector.calibration else "not fitted"
        lines.append(f"temperature: {detector.temperature:.3g} ({reason}: a detector file has no labelled images)")
        return None
    try:
        return score_views(detector, open_shots(given.file, given.root, detector.backbone.preprocessing), given.views)
    except InputError as error:
        reason = f"the few-shot images are not available: {error}; give their folder as --root"
        if not given.paths and set_by(given) == "recall":
            raise InputError(f"{reason}, or ID images") from error
        lines.append(f"temperature: 1 ({reason})")
        return None


def summary_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The plain values of a calibration record, by their names with dots.

    Example:
        >>> summary_of({"source": "images", "recall": 0.95, "point": {"n": 40, "guaranteed": 0.95}})
        {'source': 'images', 'recall': 0.95, 'point.n': 40, 'point.guaranteed': 0.95}
    """
    inner = {f"{k}.{name}": v for k, part in record.items() if isinstance(part, Mapping) for name, v in part.items()}
    return {k: v for k, v in (dict(record) | inner).items() if isinstance(v, str | int | float)}


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos calibrate``; returns the exit code."""
    silence_libraries()
    given = parse_arguments(calibrate_parser(), arguments)
    check_arguments(given)
    loaded = Detector.load(given.file, given.device, given.pretrained, given.trust)
    with log_to_wandb(given, "calibrate", loaded, makes=True) as log:
        detector, lines = calibrate(loaded, given)
        detector.save(given.out)
        log({"threshold": detector.threshold, "temperature": detector.temperature} | summary_of(detector.calibration))
    size = math.ceil(Path(given.out).stat().st_size / 1000)
    print("\n".join(lines))
    print(f"detector: {given.out} ({size} kB, without the weights of {detector.backbone.name})")
    print(f"next: clipos predict {shlex.quote(given.out)} IMAGES")
    return 0
