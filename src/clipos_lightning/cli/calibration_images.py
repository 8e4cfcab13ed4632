"""Scores of the images that ``clipos calibrate`` is given, and the part of them that a detector remembers."""

import argparse
import hashlib
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data.classnames import folder_names
from ..detector.detector import Detector
from ..detector.image_stream import count_paths, stream_paths
from ..errors import InputError
from ..evaluation.memory import Memory, join_memories
from ..types import ImageFeatures, PathName
from ..utils.progress import open_bar
from .inference import decoding_for, load_batches, note_left_out, report_dead_workers

SHOWN_ERRORS = 5  # unreadable images that are named
MAX_MEMORY = 5000  # images that a detector remembers


@dataclass
class ScoredImages:
    """A detector's results for the readable ones of some images.

    Attributes:
        scores: (n,).
        predicted: index of the most probable class, (n,).
        paths: as given, n.
        remembered: whether the image is in the detector's memory, bool (n,).
    """

    scores: NDArray[np.float64]
    predicted: NDArray[np.int64]
    paths: list[str]
    remembered: NDArray[np.bool_]

    def labels(self, names: Sequence[Sequence[str]]) -> NDArray[np.int64]:
        """The class of each image whose folder is named like a class, otherwise -1, (n,).

        Args:
            names: all names of each class; ``_`` counts as space, and case is ignored.

        Example:
            >>> images = ScoredImages(np.zeros(2), np.zeros(2, int), ["polar_bear/1.png", "2.png"], np.zeros(2, bool))
            >>> images.labels([["cat"], ["polar bear"]])
            array([ 1, -1])
        """
        index = {plain(name): c for c, group in enumerate(names) for name in group}
        return np.array([index.get(plain(Path(path).parent.name), -1) for path in self.paths], dtype=np.int64)


def plain(name: str) -> str:
    """A class or folder name for comparison."""
    return folder_names([name])[0].lower()


@torch.inference_mode()
def encode_paths(
    detector: Detector, paths: Sequence[str], given: argparse.Namespace, needed: frozenset[PathName], what: str
) -> Iterator[tuple[ImageFeatures, list[str]]]:
    """Features of the readable images of each batch, and their paths; unreadable ones are reported on stderr.

    Args:
        detector: the detector.
        paths: files, folders, patterns or ``-``.
        given: the options of inference.
        needed: paths of the backbone.
        what: kind of the images, for the progress.
    """
    left_out, unreadable, decoding = Counter[str](), 0, decoding_for(detector, given)
    backbone, files = detector.backbone, unique_files(stream_paths(paths, left_out))
    batches = load_batches(files, backbone.preprocessing, decoding, given.batch_size, given.num_workers)
    with open_bar(what, partial(count_paths, paths), "images", leave=True) as bar, report_dead_workers():
        for batch in batches:
            readable = [i for i, error in enumerate(batch.errors) if not error]
            if readable:
                images = batch.images[readable].to(backbone.device)
                yield backbone.encode_image(images, needed), [batch.paths[i] for i in readable]
            bar.update(len(batch.paths))
            for error in filter(None, batch.errors):
                unreadable += 1
                if unreadable <= SHOWN_ERRORS:
                    print(f"left out: {error}", file=sys.stderr)
    if unreadable > SHOWN_ERRORS:
        print(f"left out: {unreadable - SHOWN_ERRORS} more images that cannot be read", file=sys.stderr)
    note_left_out(left_out)


def unique_files(paths: Iterable[str]) -> Iterator[str]:
    """The paths without repeated files, which would count as independent images."""
    seen = set[str]()
    for path in paths:
        real = os.path.realpath(path)
        if real not in seen:
            seen.add(real)
            yield path


def score_paths(detector: Detector, paths: Sequence[str], given: argparse.Namespace, what: str) -> ScoredImages:
    """Scores and predicted classes of images; arguments as for :func:`encode_paths`.

    Raises:
        InputError: none of the images can be read, or a score is not finite.
    """
    scores, predicted, remembered, found = [], [], [], []
    memory = detector.head.memory
    for features, part in encode_paths(detector, paths, given, detector.head.paths, what):
        result = detector.predict_features(features)
        scores.append(result.score.double().cpu().numpy())
        predicted.append(result.predicted.cpu().numpy())
        inside = torch.zeros(len(part), dtype=torch.bool) if memory is None else memory.contains(features.cls)
        remembered.append(inside.cpu().numpy())
        found += part
    if not found:
        raise InputError(f"calibrate: none of the {what} can be read: give other image files")
    joined = ScoredImages(np.concatenate(scores), np.concatenate(predicted), found, np.concatenate(remembered))
    if not np.isfinite(joined.scores).all():
        raise InputError(f"calibrate: {detector.score} is not finite for all images: train with another --model.score")
    return joined


def remember_paths(detector: Detector, paths: Sequence[str], given: argparse.Namespace) -> Memory:
    """The memory of images, with their predicted classes; arguments as for :func:`encode_paths`.

    Raises:
        InputError: none of the images can be read.
    """
    head = detector.head
    parts = [
        head.remember(features)
        for features, _ in encode_paths(detector, paths, given, head.memory_paths, "images to remember")
    ]
    if not parts:
        raise InputError("calibrate: none of the images for --memory can be read: give other image files")
    return join_memories(parts)


def split_for_memory(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split images into those to remember and those to set the threshold with, at random by a hash of their paths.

    No image is in both parts, also if it is given twice or through a link; the order of the paths changes nothing. At
    most :data:`MAX_MEMORY` images, and at most half of them, are remembered.

    Args:
        paths: files, folders, patterns or ``-``.

    Returns:
        The paths of both parts, in a fixed order.

    Raises:
        InputError: fewer than two images.

    Example:
        >>> split_for_memory(["a.png", "b.png", "b.png", "c.png"])
        (['c.png'], ['b.png', 'a.png'])
    """
    left_out = Counter[str]()
    files = {os.path.realpath(path): path for path in stream_paths(paths, left_out)}
    note_left_out(left_out)
    if len(files) < 2:
        raise InputError("calibrate: --memory splits the images in two halves: give at least two images")

    def digest(path: str) -> str:
        return hashlib.sha256(os.path.relpath(path).encode("utf-8", "surrogateescape")).hexdigest()

    ordered = sorted(files, key=digest)
    count = min(len(ordered) // 2, MAX_MEMORY)
    return [files[path] for path in ordered[:count]], [files[path] for path in ordered[count:]]
