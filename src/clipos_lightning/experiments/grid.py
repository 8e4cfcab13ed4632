"""Read a grid from YAML: the detectors that a benchmark trains and compares. Plain data, no torch."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..errors import InputError
from ..options.configs import EMBEDDED_BACKBONE
from ..options.schema import NonNegative, find_problem
from ..options.text_files import read_text_file
from ..options.yaml_files import read_yaml

KEYS = {"title", "kind", "configs", "options", "seeds", "axes", "reference", "rows", "vary"}
ROW_KEYS = {"configs", "micro", "options", "train", "baseline", "headlines", "only"}


@dataclass(frozen=True)
class GridRow:
    """A method, or one setting of a method.

    Attributes:
        name: its name in the tables.
        configs: config files, applied after the grid's.
        options: dotted option to value, applied after the configs.
        train: whether the prompts are trained; False: zero-shot prompts.
        baseline: whether it is one of the baselines that the other rows are compared with.
        headlines: the scores to report, one table row each; empty: its ``model.score``.
        group: the option that it varies, for a row of the ``vary`` section.
        value: the option's value.
    """

    name: str
    configs: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    train: bool = True
    baseline: bool = False
    headlines: tuple[str, ...] = ()
    group: str = ""
    value: str = ""


@dataclass(frozen=True)
class Grid:
    """What a benchmark compares.

    Attributes:
        name: the file's name without suffix.
        title: the file's ``title``, else its first comment, else its name.
        kind: ``detectors``, or ``masks`` (similarity maps against ground-truth masks; nothing is trained).
        configs: config files for every row.
        options: dotted option to value, applied after the configs and before the command line's options.
        seeds: seeds of the few-shot draw and of training.
        axes: dotted option to values; every row runs at each grid point, which is a combination of values.
        reference: the row that the others are compared with; "": the best baseline. Of a mask study: the row whose S
            and Delta the gallery shows; "": the first.
        rows: methods or settings.
    """

    name: str
    title: str
    kind: str
    configs: tuple[str, ...]
    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]]
    reference: str
    rows: tuple[GridRow, ...]

    def grid_points(self) -> list[dict[str, Any]]:
        """Every combination of the axes' values."""
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*self.axes.values())]


def read_grid(path: Path, backbone: str | None = EMBEDDED_BACKBONE) -> Grid:
    """Read a grid file and keep the rows that apply to the backbone.

    Args:
        path: a YAML file.
        backbone: the backbone's name. On the embedded MicroCLIP, which needs other constants, a row's ``micro`` configs
            replace its ``configs``; ``only: micro`` or ``only: large`` rows are dropped on other backbones. None: keep
            all rows.

    Raises:
        InputError: the file cannot be read, has a key twice, or is not a grid.
    """
    given = read_yaml(path, "benchmark: cannot read grid")
    check_keys(given, KEYS, f"grid {path}")
    first = read_text_file(path, "benchmark: cannot read grid").split("\n", 1)[0]
    written = read_yaml(path, "benchmark: cannot read grid", as_text=True)  # names that look like numbers
    title = name_in(given, written, "title") or (
        first.removeprefix("#").strip() if first.startswith("#") else path.stem
    )
    rows = [*named_rows(given.get("rows") or {}, path, backbone), *varied_rows(given.get("vary") or {}, path)]
    seeds = given.get("seeds", [1, 2, 3])
    axes = given.get("axes") or {}
    if not rows or not seeds or find_problem(seeds, list[NonNegative]):
        raise InputError(f"benchmark: grid {path} needs rows (or vary) and a list of seeds, like [1, 2, 3]")
    for what, values in (("row", [row.name for row in rows]), ("seed", seeds)):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise InputError(f"benchmark: grid {path} has the {what} {twice[0]!r} twice")
    if not has_names(axes) or not all(isinstance(v, list) and v for v in axes.values()):
        raise InputError(f"benchmark: grid {path}: axes must map options to lists of values, like data.shots: [1, 2]")
    reference = name_in(given, written, "reference")
    if reference and reference not in {row.name for row in rows}:
        raise InputError(f"benchmark: grid {path}: reference {reference!r} is not one of its rows")
    kind = given.get("kind", "detectors")
    if kind not in ("detectors", "masks"):
        raise InputError(f"benchmark: grid {path}: kind is {kind!r}: use detectors or masks")
    frozen = {name: tuple(values) for name, values in axes.items()}
    configs, options = tuple(read_names(given, "configs", f"grid {path}")), read_options(given, f"grid {path}")
    return Grid(path.stem, title, kind, configs, options, tuple(seeds), frozen, reference, tuple(rows))


def name_in(given: dict[str, Any], written: dict[str, Any], key: str) -> str:
    """A name as it is written in a grid file, such as 1.10; empty if it is missing."""
    return str(written[key]) if given.get(key) is not None else ""


def check_keys(given: Any, allowed: set[str], what: str) -> None:
    """Raise InputError unless ``given`` is a mapping with no other keys than the allowed ones."""
    if not isinstance(given, dict):
        raise InputError(f"benchmark: {what} must be a mapping with the keys {', '.join(sorted(allowed))}")
    unknown = sorted(map(str, set(given) - allowed))
    if unknown:
        raise InputError(f"benchmark: {what} has the unknown key {unknown[0]!r}: use {', '.join(sorted(allowed))}")


def named_rows(rows: Any, path: Path, backbone: str | None) -> Iterator[GridRow]:
    """The rows of a grid's ``rows`` section."""
    if not isinstance(rows, dict):
        raise InputError(f"benchmark: grid {path}: rows must map names to their options, like CLIP-OS: {{}}")
    for name, given in rows.items():
        given, what = given or {}, f"row {name!r} of grid {path}"
        check_keys(given, ROW_KEYS, what)
        only, train, baseline = given.get("only"), given.get("train", True), given.get("baseline", False)
        if only not in (None, "micro", "large"):
            raise InputError(f"benchmark: {what}: only is {only!r}: use micro or large")
        if not isinstance(train, bool) or not isinstance(baseline, bool):
            raise InputError(f"benchmark: {what}: train and baseline must be true or false")
        if backbone is not None and only == ("large" if backbone == EMBEDDED_BACKBONE else "micro"):
            continue
        configs = read_names(given, "micro" if backbone == EMBEDDED_BACKBONE and "micro" in given else "configs", what)
        headlines = tuple(read_names(given, "headlines", what))
        yield GridRow(str(name), tuple(configs), read_options(given, what), train, baseline, headlines)


def read_names(given: dict[str, Any], key: str, what: str) -> list[str]:
    """The list of strings under a key; empty if the key is missing."""
    found = given.get(key) or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        example = "[msp, energy]" if key == "headlines" else "[demo.yaml]"
        raise InputError(f"benchmark: {what}: {key} must be a list of names, like {example}")
    return found


def read_options(given: dict[str, Any], what: str) -> dict[str, Any]:
    """The mapping under ``options``; empty if it is missing."""
    found = given.get("options") or {}
    if not has_names(found):
        raise InputError(f"benchmark: {what}: options must map dotted options to values, like data.shots: 1")
    return found


def varied_rows(vary: Any, path: Path) -> Iterator[GridRow]:
    """The rows of a grid's ``vary`` section: one for each value of each option, the other options unchanged.

    A value may be a mapping of several options that are set together.
    """
    if not has_names(vary) or not all(isinstance(v, list) and all(map(is_variation, v)) for v in vary.values()):
        raise InputError(f"benchmark: grid {path}: vary must map options to lists of values, like data.shots: [1, 2]")
    for option, values in vary.items():
        for value in values:
            options = value if isinstance(value, dict) else {option: value}
            first = option if option in options else next(iter(options))
            text = str(options[first])
            more = "".join(f", {k.split('.')[-1]} {v}" for k, v in options.items() if k != first and v is not None)
            yield GridRow(f"{option.removeprefix('model.')} = {text}{more}", options=options, group=option, value=text)


def has_names(value: Any) -> bool:
    """Whether a value is a mapping whose keys can be options: they start with a letter."""
    return find_problem(value, dict[str, Any]) is None and all(name[:1].isalpha() for name in value)


def is_variation(value: Any) -> bool:
    """Whether a value in ``vary`` is one of an option, or a mapping of options to values."""
    return not isinstance(value, dict) or (bool(value) and has_names(value))


def parse_shard(text: str) -> tuple[int, int]:
    """Parse ``i/n``: shard i of n.

    Raises:
        InputError: the text is not of this form, or i is not between 1 and n.

    Example:
        >>> parse_shard("2/3")
        (2, 3)
    """
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise InputError(f"benchmark: --shard {text!r}: give I/N, shard I of N, like 1/2 and 2/2")
    return int(index), int(count)


def take_shard(items: Sequence[Any], shard: tuple[int, int]) -> list[Any]:
    """The items of shard i of n: every n-th, starting with the i-th."""
    return list(items[shard[0] - 1 :: shard[1]])


def run_digest(run: str) -> str:
    """The digest of a run's options, which is the last part of its ID."""
    return run.rpartition("-")[2]


def find_run(folder: Path, run: str) -> Path | None:
    """The folder of the run with the same digest, also if its row was renamed; None if there is none."""
    return next(iter(sorted((folder / "runs").glob(f"*-{run_digest(run)}"))), None)


def scores_file(name: str) -> str:
    """File name for the scores of a test set; special characters in its name, such as slashes, are quoted."""
    return f"{quote(name, safe=' ')}.npz"


def slug(text: str) -> str:
    """Lower-case text with only letters, digits, dots, underscores and hyphens, for file names.

    Example:
        >>> slug("CLIP-OS (1 shot)")
        'clip-os--1-shot'
    """
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower()).strip("-")
