"""``clipos calibrate``: a threshold for a wanted ID recall and a temperature, written into ``detector.safetensors``."""

import argparse
import math
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import __version__
from .calibration import ConformalPoint, Temperature, conformal_point, conformal_rank, fit_temperature, smallest_n
from .checkpoint import read_checkpoint
from .data.datamodule import FewShotOOD
from .detector import BATCH, Detector, is_checkpoint
from .errors import InputError
from .inputs import check_paths, count_paths, stream_paths
from .predict import Parser, add_engine_options, load_batches, parse
from .progress import counter, hush
from .types import Labels

Scores = NDArray[np.float64]


def make_parser() -> Parser:
    """The options of ``clipos calibrate``."""
    parser = Parser(prog="clipos calibrate", description=__doc__)
    parser.add_argument("file", help="the last.ckpt of a `clipos fit` run, or a detector.safetensors")
    text = "unlabelled ID images to set the threshold by, as for predict; without any: views of the few-shot images"
    parser.add_argument("paths", nargs="*", metavar="path", help=text)
    parser.add_argument("--recall", type=float, default=0.95, help="share of ID images to accept (default 0.95)")
    text = "detector to write (must not exist); default: detector.safetensors"
    parser.add_argument("--out", default="detector.safetensors", help=text)
    parser.add_argument("--views", type=int, default=10, help="random crops of each few-shot image (default 10)")
    parser.add_argument("--root", help="where the few-shot images lie, if not where they were in training")
    add_engine_options(parser)
    return parser


def check_options(given: argparse.Namespace) -> None:
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
    if Path(given.out).exists():
        raise InputError(f"calibrate: {given.out} exists; give another --out, or remove it")
    if not is_checkpoint(given.file) and not given.paths:
        raise InputError(
            f"calibrate: {given.file} does not hold the few-shot images: give ID images to set the threshold by, or "
            "the last.ckpt of the fit"
        )
    check_paths(given.paths, "calibrate")


# ---- what the threshold and the temperature are found on


@torch.inference_mode()
def score_images(detector: Detector, batches: Iterable[Any]) -> Iterator[tuple[Scores, list[str]]]:
    """Scores of the readable images of each batch, and the errors of the others."""
    for batch in batches:
        readable = torch.tensor([not error for error in batch.errors])
        scores = detector.judge(batch.images).score.cpu()[readable]
        yield scores.double().numpy(), [error for error in batch.errors if error]


def score_paths(detector: Detector, given: argparse.Namespace) -> Scores:
    """Scores of one's own ID images; unreadable ones are left out and named on stderr.

    Raises:
        InputError: none can be read.
    """
    batches = load_batches(stream_paths(given.paths), detector.backbone.image_size, given.batch_size, given.num_workers)
    shown = sys.stderr.isatty()
    found: list[Scores] = []
    with counter(count_paths(given.paths) if shown else None, 0, "scoring ID images", shown) as step:
        for scores, errors in score_images(detector, batches):
            found.append(scores)
            step(len(scores) + len(errors))
            for error in errors:
                print(f"left out: {error}", file=sys.stderr)
    if not sum(map(len, found)):
        raise InputError("calibrate: none of the images can be read")
    return np.concatenate(found)


@torch.inference_mode()
def judge_views(detector: Detector, images: Tensor) -> tuple[Scores, Tensor]:
    """Scores (N,) and logits (N, C) of images at the model's size."""
    scores, logits = [], []
    for batch in images.split(BATCH):
        features = detector.backbone.encode_image(batch.to(detector.backbone.device), detector.head.paths)
        found, cosine = detector.head.judge(features)
        scores.append(found[detector.score].double().cpu())
        logits.append((detector.head.scale * cosine).cpu())
    return torch.cat(scores).numpy(), torch.cat(logits)


def open_shots(file: str, root: str | None, image_size: int) -> FewShotOOD:
    """The few-shot images that a checkpoint was trained on.

    Raises:
        InputError: they are not there.
    """
    options = dict(read_checkpoint(file)["datamodule_hyper_parameters"]) | {"ood_sets": []}
    if root is not None or not Path(options["root"]).is_dir():
        options["root"] = root  # None: $CLIPOS_DATA
    try:
        data = FewShotOOD(**options)
        data.image_size = image_size
        data.setup("fit")
    except InputError as error:
        raise InputError(f"the few-shot images are not at hand (give --root, or ID images): {error}") from error
    return data


def held_out_views(data: FewShotOOD, count: int) -> tuple[Tensor, Labels]:
    """Random crops of the few-shot images that training did not see, and their labels."""
    return data.shot_views(range(data.views, data.views + count))


# ---- what is said about it


def point_lines(point: ConformalPoint, recall: float, score: str, what: str) -> list[str]:
    """The threshold, and what it guarantees."""
    lines = [
        f"threshold: {score} >= {point.threshold:.9g}, the {ordinal(point.rank)} smallest score of {what}",
        f"  accepted of these: {100 * point.achieved:.1f} %",
    ]
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


def views_warning(shots: int, views: int, recall: float) -> list[str]:
    """What a threshold from views is worth."""
    total, most = shots * views, 100 * (1 - max(1, conformal_rank(shots, recall)) / (shots + 1))
    return [
        f"warning: no ID images were given, so the threshold comes from {views} random crops of each few-shot image.",
        f"  What stands above would hold for {total} independent images; {shots} guarantee at most {most:.1f} %.",
        "  The recall on new images may be lower (the detector learned from these images, and crops of one are alike),",
        "  or higher, with more OOD images accepted (a crop is harder to know than a whole image). Give unlabelled ID",
        "  images when you have some: clipos calibrate CKPT FOLDER",
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
        scores, logits, labels, shots = views
        found = fit_temperature(logits, labels)
        detector.temperature = found.value
        record["temperature"] = asdict(found)
        lines.append(temperature_line(found))
    elif "temperature" in detector.calibration:
        record["temperature"] = detector.calibration["temperature"]
    if given.paths:
        scores, what, warning = score_paths(detector, given), "ID images", []
    else:
        assert views is not None
        what, warning = f"views of {shots} images", views_warning(shots, given.views, given.recall)
    if not np.isfinite(scores).all():
        raise InputError(f"calibrate: {detector.score} is not finite on every image: take another --model.score")
    point = conformal_point(scores, given.recall)
    detector.threshold = point.threshold
    source = "images" if given.paths else "views"
    detector.calibration = record | {"source": source, "point": asdict(point)}
    return point_lines(point, given.recall, detector.score, f"{point.n} {what}") + warning + lines


def find_views(
    detector: Detector, given: argparse.Namespace, lines: list[str]
) -> tuple[Scores, Tensor, Labels, int] | None:
    """Scores, logits and labels of held-out views, and how many images they are of; None where there are none.

    Raises:
        InputError: the few-shot images are not there, and nothing else was given.
    """
    if not is_checkpoint(given.file):
        kept = "of the file kept" if "temperature" in detector.calibration else "1"
        lines.append(f"temperature: {detector.temperature:.3g} ({kept}: a detector's file has no labelled images)")
        return None
    try:
        data = open_shots(given.file, given.root, detector.backbone.image_size)
        images, labels = held_out_views(data, given.views)
    except InputError as error:
        if not given.paths:
            raise
        lines.append(f"temperature: 1 ({error})")
        return None
    return *judge_views(detector, images), labels, len(data.drawn)


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos calibrate``; returns the exit code."""
    hush()
    given = parse(make_parser(), arguments)
    check_options(given)
    detector = Detector.load(given.file, given.device, given.pretrained)
    lines = calibrate(detector, given)
    detector.save(given.out)
    size = math.ceil(Path(given.out).stat().st_size / 1000)
    print("\n".join(lines))
    print(f"detector: {given.out} ({size} kB; {detector.backbone.name}'s weights are not in it)")
    print(f"next: clipos predict {shlex.quote(given.out)} IMAGES")
    return 0
