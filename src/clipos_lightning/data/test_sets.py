"""The images of a test: which ones are selected; those that cannot be read are named in one error, or left out."""

import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..utils.progress import print_once, track
from .cache import cached_folder
from .decoding import Decoding, many_unreadable
from .image_sets import FolderSet, ImageSet
from .preprocessing import Preprocessing
from .resolution import DownscaledSet, native_side
from .splits import limit_positions

MOST_REPORTED = 5  # images left out that are named
SKIP = "--data.unreadable skip"
Tests = dict[str, tuple[ImageSet, list[int]]]  # name to set and positions of the images to test


def select_images(
    sets: Mapping[str, ImageSet], limit: int | None, cache_root: Path | None, decoding: Decoding
) -> Tests:
    """Select at most ``limit`` images of each set, and replace folders of small images by their cached arrays.

    Args:
        sets: name to set.
        limit: None: all images.
        cache_root: the data root; None: no cache.
        decoding: of image files.
    """
    tests: Tests = {}
    for name, images in sets.items():
        images.decoding = decoding
        positions = limit_positions(images.keys, limit)
        if cache_root is not None and isinstance(images, FolderSet) and not images.has_masks:
            images = cached_folder(images, cache_root, len(positions))
        tests[name] = images, positions
    return tests


def error_of(images: ImageSet, position: int, whole: bool) -> str:
    """Why an image cannot be read, or ""; without ``whole``, only the header of its file is read."""
    try:
        _ = images.read(position) if whole else images.size(position)
    except InputError as error:
        return str(error)
    return ""


def errors_in(tests: Mapping[str, tuple[ImageSet, list[int]]], whole: bool, workers: int = 0) -> dict[str, list[str]]:
    """:func:`error_of` every image: name of the set to one text per position; only image files are read."""
    errors = {}
    for name, (images, positions) in tests.items():
        if not isinstance(images, FolderSet):
            continue
        with ThreadPoolExecutor(max(1, workers)) as pool:  # decoding releases the interpreter's lock
            found = pool.map(lambda i, of=images: error_of(of, i, whole), positions)
            errors[name] = list(track(found, f"checking the images of {name}", "images"))
    return errors


def readable_images(tests: Tests, skip: bool, workers: int) -> tuple[Tests, dict[str, int]]:
    """The tests after checking that their images can be read, and the number of images left out by set.

    Args:
        tests: name to set and positions.
        skip: decode all images and leave out those that cannot be read; otherwise only headers are checked.
        workers: threads that decode.

    Raises:
        InputError: without ``skip``, an image cannot be read; with it, none of a set.
    """
    if skip:
        return leave_out(tests, workers)
    check_headers(tests)
    return tests, {}


def downscale(tests: Tests, id_name: str, preprocessing: Preprocessing) -> Tests:
    """The tests with the OOD images scaled down to the size of the ID images (``--data.ood_resolution id``)."""
    small = replace(preprocessing, size=native_side(*tests[id_name]))
    return {n: (images if n == id_name else DownscaledSet(images, small), rows) for n, (images, rows) in tests.items()}


def check_headers(tests: Tests) -> None:
    """Check that the header of every image file can be read, before the first image is encoded.

    Raises:
        InputError: some cannot be read; it names the first ones of all sets.
    """
    errors = [error for found in errors_in(tests, whole=False).values() for error in found if error]
    if errors:
        raise many_unreadable(errors, SKIP)


def leave_out(tests: Tests, workers: int) -> tuple[Tests, dict[str, int]]:
    """The tests without the images that cannot be decoded, which are reported on stderr.

    Args:
        tests: name to set and positions.
        workers: threads that decode.

    Returns:
        The tests, and the number of images left out of each set that has some.

    Raises:
        InputError: no image of a set can be read.
    """
    errors = errors_in(tests, whole=True, workers=workers)
    report_left_out([error for found in errors.values() for error in found if error])
    kept: Tests = {}
    for name, (images, positions) in tests.items():
        found = errors.get(name, [""] * len(positions))
        kept[name] = images, [i for i, error in zip(positions, found, strict=True) if not error]
        if positions and not kept[name][1]:
            raise InputError(f"none of the {len(positions):,} images of the set {name!r} can be read: {found[0]}")
    counts = {name: len(tests[name][1]) - len(positions) for name, (_, positions) in kept.items()}
    return kept, {name: count for name, count in counts.items() if count}


def report_left_out(errors: Sequence[str]) -> None:
    """Print the first of the images that are left out, and the number of the others, on stderr."""
    for error in errors[:MOST_REPORTED]:
        print_once(f"left out: {error}", sys.stderr)
    if len(errors) > MOST_REPORTED:
        print_once(f"left out: {len(errors) - MOST_REPORTED:,} more images that cannot be read", sys.stderr)
