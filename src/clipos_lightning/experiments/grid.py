"""Grids: which detectors a benchmark trains and compares, read from YAML. Plain data, no torch."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from ..errors import InputError

EMBEDDED = "MicroCLIP"
KEYS = {"title", "kind", "configs", "options", "seeds", "axes", "reference", "rows", "vary"}
ROW_KEYS = {"configs", "micro", "options", "train", "baseline", "headlines", "only"}


@dataclass(frozen=True)
class GridRow:
    """A method, or one setting of it.

    Attributes:
        name: as it stands in the tables.
        configs: overlays over the grid's.
        options: dotted option to value, over the overlays.
        train: False: the zero-shot prompts.
        baseline: one of the rivals that the others are compared with.
        headlines: the scores that it is judged by, a table row for each; none: its ``model.score``.
        group: the option that it varies, of a ``vary`` section.
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
        name: of the file.
        title: its own, else the file's first comment, else its name.
        kind: ``detectors``, or ``masks`` (maps against true masks; nothing is trained).
        configs: under every row.
        options: over the configs, under the command line's.
        seeds: of the draw and of training.
        axes: dotted option to values; every row is run at each combination.
        reference: the row that others are compared with; "": the best baseline.
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


def read_grid(path: Path, backbone: str | None = EMBEDDED) -> Grid:
    """A grid from its file, with the rows that suit the backbone.

    Args:
        path: a YAML file.
        backbone: that it runs on: a row's ``micro`` overlays replace its ``configs`` on the embedded MicroCLIP, whose
            constants are its own, and ``only: micro`` or ``only: large`` rows are left out on the other kind; None:
            every row is kept.

    Raises:
        InputError: not such a file; what is wrong, and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        given = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"benchmark: cannot read grid {path}: {' '.join(str(error).split())}") from error
    check_keys(given, KEYS, f"grid {path}")
    first = text.split("\n", 1)[0]
    title = given.get("title") or (first.removeprefix("#").strip() if first.startswith("#") else path.stem)
    rows = [*fixed_rows(given.get("rows") or {}, path, backbone), *varied_rows(given.get("vary") or {}, path)]
    seeds = given.get("seeds", [1, 2, 3])
    axes = given.get("axes") or {}
    if not rows or not isinstance(seeds, list) or not all(isinstance(s, int) and s >= 0 for s in seeds) or not seeds:
        raise InputError(f"benchmark: grid {path} needs rows (or vary) and a list of seeds, like [1, 2, 3]")
    for what, values in (("row", [row.name for row in rows]), ("seed", seeds)):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise InputError(f"benchmark: grid {path} has the {what} {twice[0]!r} twice")
    if not isinstance(axes, dict) or not all(isinstance(v, list) and v for v in axes.values()):
        raise InputError(f"benchmark: grid {path}: axes map an option to a list of values, like data.shots: [1, 2]")
    reference = given.get("reference", "")
    if reference and reference not in {row.name for row in rows}:
        raise InputError(f"benchmark: grid {path}: reference {reference!r} is not one of its rows")
    kind = given.get("kind", "detectors")
    if kind not in ("detectors", "masks"):
        raise InputError(f"benchmark: grid {path}: kind {kind!r}: take detectors or masks")
    frozen = {name: tuple(values) for name, values in axes.items()}
    configs, options = tuple(names(given, "configs", f"grid {path}")), mapping(given, f"grid {path}")
    return Grid(path.stem, title, kind, configs, options, tuple(seeds), frozen, reference, tuple(rows))


def check_keys(given: Any, allowed: set[str], what: str) -> None:
    """A mapping with no other keys than these, or an InputError that lists them."""
    if not isinstance(given, dict):
        raise InputError(f"benchmark: {what} is not a mapping with {', '.join(sorted(allowed))}")
    strange = sorted(map(str, set(given) - allowed))
    if strange:
        raise InputError(f"benchmark: {what} has no {strange[0]!r}: take {', '.join(sorted(allowed))}")


def fixed_rows(rows: Any, path: Path, backbone: str | None) -> Iterator[GridRow]:
    """The named rows."""
    if not isinstance(rows, dict):
        raise InputError(f"benchmark: grid {path}: rows map a name to its options, like CLIP-OS: {{}}")
    for name, given in rows.items():
        given, what = given or {}, f"row {name!r} of grid {path}"
        check_keys(given, ROW_KEYS, what)
        only, train, baseline = given.get("only"), given.get("train", True), given.get("baseline", False)
        if only not in (None, "micro", "large"):
            raise InputError(f"benchmark: {what}: only {only!r}: take micro or large")
        if not isinstance(train, bool) or not isinstance(baseline, bool):
            raise InputError(f"benchmark: {what}: train and baseline are true or false")
        if backbone is not None and only == ("large" if backbone == EMBEDDED else "micro"):
            continue
        configs = names(given, "micro" if backbone == EMBEDDED and "micro" in given else "configs", what)
        headlines = tuple(names(given, "headlines", what))
        yield GridRow(str(name), tuple(configs), mapping(given, what), train, baseline, headlines)


def names(given: dict[str, Any], key: str, what: str) -> list[str]:
    """A list of texts under this key."""
    found = given.get(key) or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(f"benchmark: {what}: {key} is a list of names, like [{key[0]}.yaml]")
    return found


def mapping(given: dict[str, Any], what: str) -> dict[str, Any]:
    """The options under ``options``."""
    found = given.get("options") or {}
    if not isinstance(found, dict):
        raise InputError(f"benchmark: {what}: options map a dotted option to its value")
    return found


def varied_rows(vary: Any, path: Path) -> Iterator[GridRow]:
    """A row for each value of each option, all else as the grid's configs have it.

    A value may be a mapping of several options that belong together.
    """
    if not isinstance(vary, dict) or not all(isinstance(values, list) for values in vary.values()):
        raise InputError(f"benchmark: grid {path}: vary maps an option to a list of values")
    for option, values in vary.items():
        for value in values:
            options = value if isinstance(value, dict) else {option: value}
            first = option if option in options else next(iter(options))
            text = str(options[first])
            more = "".join(f", {k.split('.')[-1]} {v}" for k, v in options.items() if k != first and v is not None)
            yield GridRow(f"{option.removeprefix('model.')} = {text}{more}", options=options, group=option, value=text)


def parse_shard(text: str) -> tuple[int, int]:
    """``2/3`` to (2, 3).

    Raises:
        InputError: not a part of a whole.
    """
    part, _, whole = text.partition("/")
    if not (part.isdigit() and whole.isdigit() and 1 <= int(part) <= int(whole)):
        raise InputError(f"benchmark: --shard {text!r}: write PART/WHOLE, like 1/2 and 2/2")
    return int(part), int(whole)


def take_shard(items: Sequence[Any], shard: tuple[int, int]) -> list[Any]:
    """Every ``whole``-th item."""
    return list(items[shard[0] - 1 :: shard[1]])


def digest_of(run: str) -> str:
    """The digest of all its options: the last part of a run's name."""
    return run.rpartition("-")[2]


def find_run(folder: Path, run: str) -> Path | None:
    """The folder of a run by its digest, whatever it is called in this plan; None: none."""
    return next(iter(sorted((folder / "runs").glob(f"*-{digest_of(run)}"))), None)


def file_name(name: str) -> str:
    """The file of a set's scores; a set's name may hold a slash."""
    return f"{quote(name, safe=' ')}.npz"


def slug(text: str) -> str:
    """For file names."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower()).strip("-")
