"""What ``clipos calibrate`` prints about a threshold, its recall by class, and the temperature."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..evaluation.calibration import ConformalPoint, StrangerPoint, Temperature, conformal_rank, smallest_n
from ..training.notes import counted

SHOWN_CLASSES = 12  # classes in a list, those with the lowest recall first
VIEWS_WARNING = [
    "warning: no ID images were given, so the threshold comes from random crops of the few-shot images: its recall on",
    "  new images is unknown. It may be lower (the detector was trained on these images, and crops of one image are",
    "  similar), or higher, with more OOD images accepted (a crop is harder to classify than a whole image). With",
    "  unlabelled ID images: clipos calibrate FILE FOLDER",
]


def describe_point(point: ConformalPoint, recall: float, score: str, what: str, guaranteed: bool) -> list[str]:
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
            f"  {counted(point.n, 'image')} cannot guarantee {100 * recall:g} %, which needs {smallest_n(recall)}: the "
            f"smallest score guarantees {100 * point.guaranteed:.1f} %"
        )
    low, high = (100 * bound for bound in point.likely)
    lines.append(f"  recall on new images: {low:.1f} to {high:.1f} % in 9 of 10 such calibrations")
    return lines


def describe_class_points(
    names: Sequence[str],
    points: Sequence[ConformalPoint | None],
    recall: float,
    overall: float,
    guaranteed: bool,
) -> list[str]:
    """Lines about the thresholds of the predicted classes.

    Args:
        names: of the classes.
        points: threshold of each class; None: too few images, so the overall threshold counts.
        recall: requested.
        overall: the threshold of all images.
        guaranteed: whether the images are new to the detector.
    """
    own = [(name, point) for name, point in zip(names, points, strict=True) if point is not None]
    few = [name for name, point in zip(names, points, strict=True) if point is None]
    lines = [f"thresholds by predicted class: {len(own)} of {len(names)}"]
    lines += [f"  {name}: {point.threshold:.6g} (n = {point.n})" for name, point in own[:SHOWN_CLASSES]]
    lines += [f"  … and {len(own) - SHOWN_CLASSES} more"] if len(own) > SHOWN_CLASSES else []
    if own and guaranteed:
        lines.append(
            f"  a new image predicted as one of these, exchangeable with the images predicted as it, is accepted with "
            f"a probability of at least {100 * recall:g} % (Mondrian conformal)"
        )
    if few:
        shown = ", ".join(few[:SHOWN_CLASSES]) + (", …" if len(few) > SHOWN_CLASSES else "")
        lines.append(
            f"  fewer than {smallest_n(recall)} images were predicted as {shown}: the overall threshold {overall:.6g} "
            "counts there, without a guarantee for the class"
        )
    return lines


def describe_stranger_point(point: StrangerPoint, accept: float, score: str) -> list[str]:
    """Lines about a threshold from images of other classes."""
    lines = [
        f"threshold: {score} >= {point.threshold:.9g}, just above the {ordinal(point.rank)} largest score of "
        f"{point.n} images of other classes",
        describe_accepted(point.accepted, point.n, "images of other classes"),
    ]
    if point.guaranteed <= accept:
        lines.append(
            f"  a new image exchangeable with these is accepted with a probability of at most {100 * accept:g} % "
            f"({point.rank} / {point.n + 1} = {100 * point.guaranteed:.1f} %)"
        )
    else:
        needed = int(np.ceil(1 / accept - 1e-9)) - 1
        lines.append(
            f"  {point.n} images are too few to guarantee {100 * accept:g} %, which needs {needed}: the largest score "
            f"guarantees {100 * point.guaranteed:.1f} %"
        )
    return lines


def describe_accepted(fraction: float, n: int, what: str) -> str:
    """Line about the fraction of images that a threshold accepts."""
    return f"  accepted of {n} {what}: {100 * fraction:.1f} %"


def describe_classes(
    names: Sequence[str],
    labels: NDArray[np.int64],
    predicted: NDArray[np.int64],
    accepted: NDArray[np.bool_],
    recall: float | None,
) -> list[str]:
    """Lines about accuracy and recall by true class; empty without labels.

    Args:
        names: of the classes.
        labels: true classes, -1: not known, (n,).
        predicted: predicted classes, (n,).
        accepted: whether the threshold accepts the image, (n,).
        recall: requested; None: the threshold was set otherwise.
    """
    known = labels >= 0
    if not known.any():
        return []
    correct = float(np.mean(predicted[known] == labels[known]))
    lines = [f"by class ({known.sum()} images in folders named like a class): {100 * correct:.1f} % in the right class"]
    rows = sorted((float(accepted[labels == c].mean()), names[c], int((labels == c).sum())) for c in set(labels[known]))
    lines += [f"  {name}: {100 * part:.1f} % of {n} accepted" for part, name, n in rows[:SHOWN_CLASSES]]
    lines += [f"  … and {len(rows) - SHOWN_CLASSES} with a higher recall"] if len(rows) > SHOWN_CLASSES else []
    if recall is not None and len(rows) > 1 and below(rows[0][0], rows[0][2], recall):
        lines.append(
            f"  {rows[0][1]} is below {100 * recall:g} %: --per_class sets a threshold for each predicted class"
        )
    return lines


def below(part: float, n: int, recall: float) -> bool:
    """Whether an observed recall of n images is below the requested one by more than two standard errors."""
    return part < recall - 2 * (recall * (1 - recall) / n) ** 0.5


def describe_temperature(found: Temperature, classes: int) -> list[str]:
    """Lines about the temperature and its effect on the views, and a warning if they are mostly misclassified."""
    if classes == 1:
        return ["temperature: 1 (one class, which always has a probability of 100 %)"]
    views = f"{found.n} views, {100 * found.accuracy:.1f} % correctly classified"
    if found.determined:
        lines = [f"temperature: {found.value:.3g} ({views}; NLL {found.nll_at_one:.3f} at 1, {found.nll:.3f} with it)"]
    else:
        lines = [f"temperature: 1 ({views}: they do not determine it)"]
    if classes > 1 and found.accuracy < (1 + 1 / classes) / 2:
        lines += [
            f"warning: only {100 * found.accuracy:.0f} % of the views of the few-shot images are in the right class "
            f"(guessing: {100 / classes:.0f} %): many",
            "  classes that this detector names will be wrong. Fit again with --model.image_weight auto, with more",
            "  images per class, or with names that CLIP knows (docs/own_classes.md)",
        ]
    return lines


def training_images_warning(known: int, given: int) -> list[str]:
    """Warning about a threshold that was set from images that the detector was trained on, or remembers."""
    return [
        f"warning: the detector was trained on, or remembers, {known} of these {given} images, which score higher than",
        "  new ones: the threshold guarantees no recall and accepts fewer new images. Give ID images that were used",
        "  neither in training nor by --memory.",
    ]


def ordinal(k: int) -> str:
    """A number as an English ordinal.

    Example:
        >>> [ordinal(k) for k in (1, 2, 3, 4, 11, 12, 21, 112)]
        ['1st', '2nd', '3rd', '4th', '11th', '12th', '21st', '112th']
    """
    return f"{k}{'th' if k % 100 in (11, 12, 13) else {1: 'st', 2: 'nd', 3: 'rd'}.get(k % 10, 'th')}"
