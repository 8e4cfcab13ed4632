"""Read the files of a benchmark's folder: ``grid.json``, and each run's ``run.json``, ``tests.json`` and scores."""

import hashlib
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from numpy.typing import NDArray

from ..errors import InputError
from ..options.schema import Count, Fields, Name, Names, NonNegative, Where, check_file, fields_of
from ..options.text_files import read_json
from ..utils.array_files import load_arrays
from ..utils.progress import print_once
from .grid import scores_file
from .plan import Entry

SCHEMA = 2  # of grid.json
RUN = Fields(
    {"scores": Names, "draw": str | None, "detector": Fields({"class_names": Names})},
    optional={"sha256": str},  # of detector.safetensors
)
TESTS = Fields(
    {
        "id": Fields({"name": Name, "n": NonNegative}),
        "ood": dict[str, str | None],
        "limit_per_set": Count | None,
        "ood_resolution": str,
    }
)
RUN_ID = Annotated[str, Where("a run's ID", lambda run: re.fullmatch(r"[^/\\]*-[0-9a-f]+", run) is not None)]
ENTRY = fields_of(Entry, {"run": RUN_ID})
PLAN = Fields(
    {"name": Name, "title": str, "reference": str, "entries": list[ENTRY]},  # type: ignore[valid-type]
    optional={"kind": Literal["detectors", "masks"]},
)
RUN_AGAIN = "run the benchmark again"
PartT = TypeVar("PartT")


def read_plan(folder: Path) -> dict[str, Any]:
    """Read the ``grid.json`` of a benchmark's folder.

    Raises:
        InputError: the file is missing, broken or of another version.
    """
    path = folder / "grid.json"
    try:
        plan = read_json(path, "report: cannot read")
    except InputError as error:
        raise InputError(f"{error}; give a folder of `clipos benchmark`") from error
    if not isinstance(plan, dict) or plan.get("schema") != SCHEMA:
        raise InputError(f"report: {path} is of another version of clipos: run the benchmark again")
    check_file(path, plan, PLAN, "run the benchmark again in another folder")
    if not plan["entries"] and plan.get("kind") != "masks":
        raise InputError(
            f"report: {path} is broken: it has no table entries; run the benchmark again in another folder"
        )
    return plan


def read_run(folder: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run's folder: its scores, its few-shot draw and its detector's record.

    Raises:
        InputError: the file cannot be read, or is broken.
    """
    return read_part(folder / "run.json", RUN)


def read_tests(folder: Path) -> dict[str, Any]:
    """Read the ``tests.json`` of a run's folder: the ID set, the OOD sets and their kinds, limits.

    Raises:
        InputError: the file cannot be read, or is broken.
    """
    return read_part(folder / "tests.json", TESTS)


def read_part(path: Path, kind: Fields) -> dict[str, Any]:
    """Read and check a JSON file of a run's folder."""
    try:
        content: dict[str, Any] = read_json(path, "benchmark: cannot read")
    except InputError as error:
        raise InputError(f"{error}; {RUN_AGAIN}") from error
    check_file(path, content, kind, RUN_AGAIN)
    return content


def read_scores(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    """Read the arrays of a run for one test set: ``predicted``, the scores in ``run.json``, and digests.

    The digests are ``keys``, of the images, and ``detector``, which former versions lack. The ID set has ``labels``.

    Args:
        folder: of the run.
        name: of the test set; ``id``: the ID set.

    Raises:
        InputError: the file cannot be read, or lacks an array, or their lengths differ.
    """
    arrays, scores = load_arrays(folder / scores_file(name), cure=RUN_AGAIN), read_run(folder)["scores"]
    columns = ["predicted", *scores, *(["labels"] if name == "id" else [])]
    sizes = {arrays[column].shape for column in columns if column in arrays}
    wrong = [column for column in (*columns, "keys") if column not in arrays]
    kinds = {column: "f" if column in scores else "iuf" for column in columns}
    wrong += [column for column in columns if column in arrays and arrays[column].dtype.kind not in kinds[column]]
    wrong += ["the arrays' lengths"] if len(sizes) != 1 or len(next(iter(sizes))) != 1 or sizes == {(0,)} else []
    if wrong:
        raise InputError(f"{folder / scores_file(name)} is broken: {wrong[0]} missing or invalid; {RUN_AGAIN}")
    return {column: arrays[column] for column in (*columns, "keys", "detector") if column in arrays}


def unless_broken(read: Callable[[], PartT]) -> PartT | None:
    """What a reader returns; None, and a note on stderr, if the file is missing a part or broken."""
    try:
        return read()
    except InputError as error:
        print_once(f"note: {str(error).removesuffix(f'; {RUN_AGAIN}')}: computed again", sys.stderr)
        return None


def detector_digest(folder: Path) -> str:
    """SHA-256 of a run's detector, which its ``run.json`` and its scores name.

    Raises:
        InputError: the file cannot be read.
    """
    path = folder / "detector.safetensors"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"benchmark: cannot read {path}: {error.strerror}; {RUN_AGAIN}") from error


def read_trained(folder: Path) -> dict[str, Any]:
    """Read the ``run.json`` of a run's folder, after a check that the detector is the one that it describes.

    Raises:
        InputError: a file cannot be read or is broken.
    """
    written, digest = read_run(folder), detector_digest(folder)
    if written.get("sha256", digest) != digest:
        raise InputError(f"{folder / 'detector.safetensors'} is broken: not the file that was written; {RUN_AGAIN}")
    return written
