"""Which images: the few-shot draw and the limit on test sets, pinned by rule so that every machine draws the same."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from ..errors import InputError


class Written(NamedTuple):
    """A draw that was read from a file: class to keys, and the seed and shots that it was drawn with."""

    images: dict[str, list[str]]
    seed: int
    shots: int | str


def digest(text: str) -> str:
    """SHA-256 of a text, as hexadecimal; of a file name that is not UTF-8, its bytes."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def draw_shots(
    keys: Sequence[str], labels: Sequence[int], class_keys: Sequence[str], shots: int | Literal["all"], seed: int
) -> list[int]:
    """Positions of the few-shot images, class by class: per class the K smallest sha256("seed/class/key").

    Nested (the 1-shot draw lies inside the 2-shot draw of the same seed) and free of order, platform and library.

    Args:
        keys: each image's key: its POSIX path inside the class folder, or its index in the training order.
        labels: each image's class index.
        class_keys: each class's folder name, or its index as text.
        shots: K, or ``all``.
        seed: any integer, 0 too.

    Raises:
        InputError: K below 1, or a class with fewer images.
    """
    if shots != "all" and shots < 1:
        raise InputError(f"--data.shots is {shots}: take at least 1 image per class, or all")
    by_class: list[list[int]] = [[] for _ in class_keys]
    for i, label in enumerate(labels):
        by_class[label].append(i)
    drawn = []
    for name, members in zip(class_keys, by_class, strict=True):
        wanted = len(members) if shots == "all" else shots
        if not members:
            raise InputError(f"class {name!r} has no training images: add some, or remove the class")
        if len(members) < wanted:
            raise InputError(
                f"class {name!r} has {len(members)} training images and --data.shots asks for {wanted}: "
                "lower --data.shots, or add images"
            )
        ranked = sorted(members, key=lambda i: digest(f"{seed}/{name}/{keys[i]}"))
        drawn += ranked[:wanted]
    return drawn


def limit_positions(keys: Sequence[str], limit: int | None) -> list[int]:
    """Positions of the ``limit`` images with the smallest sha256 of their key, in their own order; None: all."""
    if limit is None or limit >= len(keys):
        return list(range(len(keys)))
    return sorted(sorted(range(len(keys)), key=lambda i: digest(keys[i]))[:limit])


def read_shots(file: str) -> Written:
    """The draw that a ``shots.json`` of an earlier run names.

    Raises:
        InputError: not such a file.
    """
    try:
        with open(file, encoding="utf-8") as opened:
            written = json.load(opened)
        images = {str(group): list(map(str, members)) for group, members in written["images"].items()}
        shots = written["shots"] if written["shots"] == "all" else int(written["shots"])
        return Written(images, int(written["seed"]), shots)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"--data.shots_file: {file} is not a shots.json of a run: {error}") from error


def find_shots(
    written: Written, file: str, keys: Sequence[str], labels: Sequence[int], class_keys: Sequence[str], name: str
) -> list[int]:
    """Positions of a written draw's images.

    Args:
        written: the draw.
        file: where it was read from.
        keys: each training image's key.
        labels: each training image's class index.
        class_keys: each class's folder name, or its index as text.
        name: the ID set's.

    Raises:
        InputError: an image or class that the ID set has not.
    """
    wanted = [(group, key) for group, members in written.images.items() for key in members]
    classes = (class_keys[label] for label in labels)
    positions = {pair: i for i, pair in enumerate(zip(classes, keys, strict=True))}
    missing = [pair for pair in wanted if pair not in positions]
    if missing:
        raise InputError(f"--data.shots_file: the ID set {name} has not {'/'.join(missing[0])} of {file}")
    empty = set(class_keys) - {group for group, _ in wanted}
    if empty:
        raise InputError(f"--data.shots_file: {file} has no image of class {min(empty)}")
    return [positions[pair] for pair in wanted]


def manifest(
    name: str, seed: int, shots: int | str, class_keys: Sequence[str], drawn: Sequence[tuple[int, str]], views: int = 1
) -> dict[str, Any]:
    """The draw as it is written beside a run: class to keys, with a digest over all of them.

    Args:
        name: the ID set.
        seed: of the draw.
        shots: K or ``all``.
        class_keys: class folder names, or indices as text.
        drawn: (label, key) of each drawn image, in order.
        views: how many times each counts, by augmented views.
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
