"""``clipos rerun``: repeat a run from what its folder records, and compare the numbers."""

import csv
import io
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from ..errors import InputError
from ..options.messages import CommandParser
from ..options.schema import Fields, check_file, has_type
from ..options.text_files import read_json, read_text_file
from ..options.yaml_files import read_yaml
from ..training.checkpoint import read_checkpoint
from ..utils.array_files import load_arrays
from ..utils.progress import print_once
from ..utils.versions import PROVENANCE, installed_versions
from .commands import TRAINER_COMMANDS
from .trainer import main as run_trainer

Numbers = dict[str, np.ndarray]
START_AGAIN = "restore the file, or start the run again"
OPTIONS = Fields({}, {"ckpt_path": str | None})  # of config.yaml
VERSIONS = Fields({}, {"versions": dict[str, str]})  # of provenance.json
MAX_SHOWN = 8  # numbers that differ are listed up to this one


def rerun_parser() -> CommandParser:
    """The parser of ``clipos rerun``."""
    text = (
        "Repeat a run of fit, validate or test from the options in its folder, into a new folder beside it, and "
        "compare the numbers. Further options are those of the command, such as --data.root."
    )
    parser = CommandParser(prog="clipos rerun", description=text)
    parser.add_argument("folder", metavar="RUN_DIR", help="folder of the run: the last line that it printed")
    text = "largest difference of two equal numbers (default: 0; another device differs in the last digits)"
    parser.add_argument("--tolerance", type=float, default=0.0, metavar="T", help=text)
    return parser


def command_of(folder: Path) -> str:
    """The command that wrote a run's folder: fit, validate or test.

    Raises:
        InputError: none of them did.
    """
    name = folder.resolve().name.partition("-")[0]
    if (folder / "grid.json").is_file():
        raise InputError(f"rerun: {folder} is of a benchmark: give its command another --out, and compare the tables")
    if name not in TRAINER_COMMANDS or not (folder / "config.yaml").is_file():
        raise InputError(f"rerun: {folder} is not the folder of a fit, validate or test: it has no config.yaml of one")
    return name


def recorded_words(folder: Path, options: Path) -> list[str]:
    """The command line that repeats a run.

    Args:
        folder: of the run.
        options: file to write for ``--config``: the run's ``config.yaml`` without the checkpoint.

    Raises:
        InputError: it is not the folder of a run, or its ``config.yaml`` is broken.
    """
    command, path = command_of(folder), folder / "config.yaml"
    config = read_yaml(path, "rerun: cannot read")
    check_file(path, config, OPTIONS, START_AGAIN)
    checkpoint = config.pop("ckpt_path", None)
    options.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    return [command, "--config", str(options), *(["--ckpt_path", checkpoint] if checkpoint else [])]


def numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in plain data, with their path; integers beyond 64 bits, which no run writes, are left out.

    Example:
        >>> list(numbers_in({"id": {"n": 3, "name": "scenes"}, "list": [1.5]}))
        [('id/n', 3.0), ('list/0', 1.5)]
    """
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in pairs:
            yield from numbers_in(item, f"{name}/{key}" if name else str(key))
    elif isinstance(value, float) or has_type(value, int):
        yield name, float(value)


def read_numbers(folder: Path) -> dict[str, Numbers]:
    """All numbers of a run's folder: file to name to values.

    They are the learned tensors of ``last.ckpt``, the columns of ``metrics.csv``, the scores of ``scores.npz``, and
    ``report.json`` without its description of the run.

    Raises:
        InputError: one of the files is broken.
    """
    found: dict[str, Numbers] = {}
    if (folder / "last.ckpt").is_file():
        state = read_checkpoint(str(folder / "last.ckpt"))["state_dict"]
        found["last.ckpt"] = {name: tensor.float().numpy() for name, tensor in state.items()}
    if (folder / "scores.npz").is_file():
        arrays = load_arrays(folder / "scores.npz", cure=START_AGAIN)
        found["scores.npz"] = {name: array for name, array in arrays.items() if array.dtype.kind in "fiu"}
    if (folder / "report.json").is_file():
        report = read_json(folder / "report.json", "rerun: cannot read")
        check_file(folder / "report.json", report, Fields({}), START_AGAIN)
        numbers = numbers_in({name: value for name, value in report.items() if name != "run"})
        found["report.json"] = {name: np.array(value) for name, value in numbers}
    if (folder / "metrics.csv").is_file():
        found["metrics.csv"] = read_columns(folder / "metrics.csv")
    return found


def read_columns(path: Path) -> Numbers:
    """The columns of a CSV file of numbers, without its empty cells.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    text = read_text_file(path, "rerun: cannot read")
    try:
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        names = rows[0].keys() if rows else ()
        return {name: np.array([float(row[name]) for row in rows if row[name]]) for name in names}
    except (ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is broken: it is no table of numbers ({error}); {START_AGAIN}") from error


def largest_gap(before: np.ndarray | None, after: np.ndarray | None) -> float:
    """The largest absolute difference of two arrays; infinity if one is missing or of another shape.

    Example:
        >>> largest_gap(np.array([1.0, np.nan]), np.array([1.5, np.nan])), largest_gap(np.zeros(2), None)
        (0.5, inf)
    """
    if before is None or after is None or before.shape != after.shape:
        return float("inf")
    if np.array_equal(before, after, equal_nan=True):
        return 0.0
    gap = np.abs(before.astype(np.float64) - after.astype(np.float64))
    gap[np.isnan(before) & np.isnan(after)] = 0  # type: ignore[index]
    return float(np.nan_to_num(gap, nan=np.inf).max())


def compare(before: dict[str, Numbers], after: dict[str, Numbers], tolerance: float) -> list[str]:
    """Print a line for each file, and return the names of the numbers that differ, the largest difference first."""
    different: list[tuple[float, str]] = []
    for file in before:
        names = [*before[file], *(after.get(file, {}).keys() - before[file].keys())]
        gaps = {name: largest_gap(before[file].get(name), after.get(file, {}).get(name)) for name in names}
        count, largest = sum(array.size for array in before[file].values()), max(gaps.values(), default=0.0)
        result = "identical" if largest == 0 else f"largest difference {largest:.3g}"
        print_once(f"{file:<12}{count:>10,} numbers   {result}")
        different += [(gap, f"{file} {name} ({gap:.3g})") for name, gap in gaps.items() if gap > tolerance]
    return [text for _, text in sorted(different, key=lambda pair: -pair[0])]


def changed_versions(folder: Path) -> list[str]:
    """The libraries whose version is not the one that the run recorded.

    Raises:
        InputError: the record is broken.
    """
    path, now = folder / PROVENANCE, installed_versions()
    provenance = read_json(path, "rerun: cannot read") if path.is_file() else {}
    check_file(path, provenance, VERSIONS, START_AGAIN)
    recorded = provenance.get("versions", {})
    return [f"{name} {old} → {now[name]}" for name, old in recorded.items() if now.get(name, old) != old]


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos rerun``; returns the exit code.

    Raises:
        InputError: the folder is not a run's, or its numbers are not those of the new run.
    """
    given, more = rerun_parser().parse_known_args(list(arguments))
    folder = Path(given.folder)
    if not folder.is_dir():
        raise InputError(f"rerun: no folder {folder}: give the one that a run printed last")
    before = read_numbers(folder)
    if not before:
        raise InputError(f"rerun: {folder} has no numbers: the run did not finish; start it again")
    versions = changed_versions(folder)
    if versions:
        print_once(f"note: other versions than in the run: {', '.join(versions)}", sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        new = run_trainer([*recorded_words(folder, Path(scratch) / "config.yaml"), *more])
    print_once("")
    different = compare(before, read_numbers(new), given.tolerance)
    if different:
        others = f" and {len(different) - MAX_SHOWN} more" if len(different) > MAX_SHOWN else ""
        raise InputError(
            f"rerun: {len(different)} of the numbers in {folder} and {new} differ: {', '.join(different[:MAX_SHOWN])}"
            f"{others}. Compare their config.yaml and {PROVENANCE}; --tolerance allows small differences"
        )
    print_once(f"the same numbers: {folder} and {new}")
    return 0
