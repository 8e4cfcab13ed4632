"""The few-shot draw and the subsets of test sets: fixed by hashes, so that every machine selects the same images."""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ..errors import InputError
from ..options.schema import Count, Fields, NonNegative, find_problem
from ..options.text_files import read_json

SHOTS = Fields({"images": dict[str, list[str | int]], "seed": NonNegative, "shots": Count | Literal["all"]})


class StoredDraw(NamedTuple):
    """A draw read from a ``shots.json``.

    Attributes:
        images: class key to the keys of its images.
        seed: the seed of the draw.
        shots: images per class, or ``all``.
    """

    images: dict[str, list[str]]
    seed: int
    shots: int | str


def digest(text: str) -> str:
    """SHA-256 of a text in UTF-8 as hexadecimal; undecodable bytes of file names are hashed as they are."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def draw_shots(
    keys: Sequence[str], labels: Sequence[int], class_keys: Sequence[str], shots: int | Literal["all"], seed: int
) -> list[int]:
    """Draw the few-shot images: of each class, the K images with the smallest SHA-256 of ``seed/class/key``.

    The draws of one seed are nested: the 1-shot draw is part of the 2-shot draw. They do not depend on the order of the
    images, the platform or the versions of libraries.

    Args:
        keys: key of each of the N images: its POSIX path inside the class folder, or its index in the training set.
        labels: class index of each image (N).
        class_keys: key of each class: its folder name, or its index as text.
        shots: K, or ``all``.
        seed: any integer.

    Returns:
        Positions of the drawn images, class by class, each class in the order of the hashes.

    Raises:
        InputError: K is below 1, or a class has fewer than K images.

    >>> keys, labels = [f"{i}.png" for i in range(8)], [0, 0, 0, 0, 1, 1, 1, 1]
    >>> draw_shots(keys, labels, ["cat", "dog"], shots=1, seed=1)
    [2, 5]
    >>> draw_shots(keys, labels, ["cat", "dog"], shots=2, seed=1)
    [2, 1, 5, 6]
    """
    if shots != "all" and shots < 1:
        raise InputError(f"--data.shots is {shots}: take at least 1 image per class, or all")
    by_class: list[list[int]] = [[] for _ in class_keys]
    for i, label in enumerate(labels):
        by_class[label].append(i)
    drawn = []
    for name, members in zip(class_keys, by_class, strict=True):
        count = len(members) if shots == "all" else shots
        if not members:
            raise InputError(f"class {name!r} has no training images: add some, or remove the class")
        if len(members) < count:
            raise InputError(
                f"class {name!r} has {len(members)} training images and --data.shots asks for {count}: "
                "lower --data.shots, or add images"
            )
        ranked = sorted(members, key=lambda i: digest(f"{seed}/{name}/{keys[i]}"))
        drawn += ranked[:count]
    return drawn


def limit_positions(keys: Sequence[str], limit: int | None) -> list[int]:
    """Select the ``limit`` images with the smallest SHA-256 of their key (None: all).

    Returns:
        Their positions, in ascending order.

    >>> limit_positions(["a.png", "b.png", "c.png", "d.png"], 2)
    [1, 2]
    """
    if limit is None or limit >= len(keys):
        return list(range(len(keys)))
    return sorted(sorted(range(len(keys)), key=lambda i: digest(keys[i]))[:limit])


def read_shots(file: str) -> StoredDraw:
    """Read the draw from the ``shots.json`` of an earlier run.

    Raises:
        InputError: the file cannot be read, or is not a ``shots.json``.
    """
    written = read_json(file, "--data.shots_file: cannot read")
    problem = find_problem(written, SHOTS)
    if problem:
        raise InputError(f"--data.shots_file: {file} is not a shots.json of a run: {problem}; give one that fit wrote")
    images = {group: list(map(str, members)) for group, members in written["images"].items()}
    twice = [f"{group}/{key}" for group, members in images.items() for key, n in Counter(members).items() if n > 1]
    if twice:
        raise InputError(f"--data.shots_file: {file} names {twice[0]} twice; give one that fit wrote")
    return StoredDraw(images, written["seed"], written["shots"])


def find_shots(
    stored: StoredDraw, file: str, keys: Sequence[str], labels: Sequence[int], class_keys: Sequence[str], name: str
) -> list[int]:
    """Find the images of a stored draw in the training set.

    Args:
        stored: the draw.
        file: the file it was read from, for error messages.
        keys: key of each of the N training images, as in :func:`draw_shots`.
        labels: class index of each training image (N).
        class_keys: key of each class.
        name: name of the ID set, for error messages.

    Returns:
        Positions of the images, in the order of the file.

    Raises:
        InputError: the training set lacks one of the images, or the file has no image of some class.
    """
    drawn = [(group, key) for group, members in stored.images.items() for key in members]
    classes = (class_keys[label] for label in labels)
    positions = {pair: i for i, pair in enumerate(zip(classes, keys, strict=True))}
    missing = [pair for pair in drawn if pair not in positions]
    if missing:
        raise InputError(
            f"--data.shots_file: {file} names {'/'.join(missing[0])}, which the ID set {name} does not have"
        )
    empty = set(class_keys) - {group for group, _ in drawn}
    if empty:
        raise InputError(f"--data.shots_file: {file} has no image of class {min(empty)}")
    return [positions[pair] for pair in drawn]


def manifest(
    name: str, seed: int, shots: int | str, class_keys: Sequence[str], drawn: Sequence[tuple[int, str]], views: int = 1
) -> dict[str, Any]:
    """The content of a run's ``shots.json``: the draw, and a digest to compare draws by.

    Args:
        name: name of the ID set.
        seed: the seed of the draw.
        shots: images per class, or ``all``.
        class_keys: key of each class: its folder name, or its index as text.
        drawn: (label, key) of each drawn image, in order.
        views: number of views of each image, the original included.

    Returns:
        The arguments, ``images`` (class key to image keys) and ``digest``, the SHA-256 of ``images`` as JSON.
    """
    images: dict[str, list[str]] = {name: [] for name in class_keys}
    for label, key in drawn:
        images[class_keys[label]].append(key)
    return {
        "set": name,
        "seed": seed,
        "shots": shots,
        "views": views,
        "images": images,
        "digest": digest(json.dumps(images, sort_keys=True)),
    }
