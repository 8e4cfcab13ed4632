"""Random views of the few-shot images that training did not use: labelled images to calibrate a checkpoint with."""

import math
import os
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ..data.datamodule import FewShotOOD
from ..data.image_sets import FolderSet
from ..data.preprocessing import Preprocessing
from ..detector.detector import BATCH, Detector
from ..errors import InputError
from ..method.image_weight import VIEWS
from ..training.checkpoint import data_options, read_checkpoint
from ..training.record import shorten_value
from ..types import Labels
from ..utils.progress import track

MAX_VIEWS = 4096  # views to score, over all few-shot images


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

    scores: NDArray[np.float64]
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
    for part in track(rows.split(BATCH), "scoring views of few-shot images"):
        images = data.shot_images(part).to(detector.backbone.device)
        found, cosine = detector.head.score(detector.backbone.encode_image(images, detector.head.paths))
        scores.append(found[detector.score].double().cpu())
        logits.append((detector.head.scale * cosine).cpu())
    files = [train.root / train.keys[i] for i in data.shot_positions] if isinstance(train, FolderSet) else []
    real = set(map(os.path.realpath, files))
    labels = data.shot_labels[rows % count]
    return ViewScores(torch.cat(scores).numpy(), torch.cat(logits), labels, min(count, len(rows)), real)


def open_shots(file: str, root: str | None, preprocessing: Preprocessing) -> FewShotOOD:
    """Open the few-shot images that a checkpoint was trained on.

    Raises:
        InputError: they are missing, or the classes or images are not those of training.
    """
    checkpoint = read_checkpoint(file)
    options = data_options(checkpoint) | ({} if root is None else {"root": root}) | {"ood_sets": []}
    data = FewShotOOD(**options)
    data.preprocessing = preprocessing
    data.setup("fit")
    trained, where = checkpoint["clipos"], f"{data.id_set.name!r} in {data.root}"
    if data.class_names != trained["class_names"]:
        found, expected = shorten_value(data.class_names), shorten_value(trained["class_names"])
        raise InputError(f"{where} has other classes ({found}) than in training ({expected})")
    if trained.get("shots") not in (None, data.manifest()["digest"]):
        raise InputError(f"{where} has other images than in training: the few-shot draw differs")
    return data
