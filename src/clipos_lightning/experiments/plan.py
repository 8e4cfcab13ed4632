"""From a grid to cells: every detector to train, with its options in full, and the table entries that it stands for."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

from ..cli import PackagedConfig, Parser
from ..data.datamodule import FewShotOOD
from ..errors import InputError
from ..losses import make_objective
from ..module import ClipOS
from .grid import Grid, Row, read_grid

# What differs between machines, or changes nothing in the result: not part of a cell's name.
APART = {
    "model": ("pretrained", "feature_budget_mb"),
    "data": ("root", "num_workers", "eval_batch_size", "cache"),
}
TRAINING = ("max_epochs", "max_steps", "precision", "gradient_clip_val", "accumulate_grad_batches")
UNTRAINED = {  # what a detector without training depends on
    "model": ("backbone", "image_size", "template", "zero_shot_unknown", "surgery", "mask", "scoring", "scores"),
    "data": ("id", "ood_sets", "limit_per_set", "class_names", "class_list", "ood_resolution", "resize"),
}


@dataclass(frozen=True)
class Cell:
    """One detector.

    Attributes:
        id: a readable name with a digest of all options that matter; names its folder.
        train: False: the zero-shot prompts.
        config: model, data and trainer options, parsed.
        plain: the options that matter, as plain data.
    """

    id: str
    train: bool
    config: Namespace
    plain: dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A row of a table under one seed.

    Attributes:
        row: the grid's row, with the score where it has several.
        point: the axes' values.
        seed: of draw and training.
        cell: the detector's id.
        score: that it is judged by.
        baseline: one of the rivals.
        group: the option that is varied, or "".
        value: its value.
    """

    row: str
    point: dict[str, Any]
    seed: int
    cell: str
    score: str
    baseline: bool
    group: str = ""
    value: str = ""


def make_parser() -> ArgumentParser:
    """The options of model, data and trainer, as `clipos fit` has them."""
    parser = Parser(prog="clipos benchmark")
    parser.add_argument("-c", "--config", action=PackagedConfig)
    parser.add_argument("--seed_everything", type=int, default=1)
    for kind, group, skipped in (
        (ClipOS, "model", {"class_names", "class_wordings"}),
        (FewShotOOD, "data", {}),
        (Trainer, "trainer", {}),
    ):
        parser.add_class_arguments(kind, group, skip=skipped, instantiate=False, sub_configs=True, fail_untyped=False)
    return parser


def make_plan(
    path: Path, configs: Sequence[str], flags: Sequence[str], seeds: Sequence[int] = ()
) -> tuple[Grid, list[Cell], list[Entry]]:
    """A grid's cells, each once, and its entries.

    Args:
        path: the grid's file.
        configs: in place of the grid's own, where given.
        flags: ``--model.x=y`` and so on; over the grid's configs and options, under its rows and axes.
        seeds: in place of the grid's own, where given.

    Raises:
        InputError: whatever is wrong with grid or options.
    """
    parser = make_parser()
    first = read_grid(path)
    base = [*config_words(configs or first.configs), *words(first.options), *flags]
    grid = read_grid(path, parser.parse_args(base).model.backbone)
    for option in grid.axes:
        if any(flag.split("=")[0] == f"--{option}" for flag in flags):
            raise InputError(f"benchmark: {option} is an axis of {path.name}: leave --{option} out, or edit the grid")
    cells: dict[str, Cell] = {}
    entries = []
    for point in grid.points():
        for row in grid.rows:
            arguments = [*base, *config_words(row.configs), *words(row.options), *words(point)]
            parsed = parser.parse_args(arguments)
            for seed in (seeds or grid.seeds) if grid.kind == "detectors" else (0,):
                cell = make_cell(parsed.clone(), row, seed)
                cells.setdefault(cell.id, cell)
                entries += list(entries_of(row, point, seed, cell))
    return grid, list(cells.values()), entries


def config_words(configs: Sequence[str]) -> list[str]:
    """``--config`` for each."""
    return [word for config in configs for word in ("--config", config)]


def words(options: Any) -> list[str]:
    """``--option=value`` for each, values as JSON."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def make_cell(config: Namespace, row: Row, seed: int) -> Cell:
    """A row under one seed; untrained ones differ only where their result does."""
    for part in (config.model, config.data):
        part.seed = seed if part.seed is None else part.seed
    plain = {
        "model": {k: v for k, v in config.model.as_dict().items() if k not in APART["model"]},
        "data": {k: v for k, v in config.data.as_dict().items() if k not in APART["data"]},
        "trainer": {k: config.trainer.as_dict().get(k) for k in TRAINING},
    }
    if not row.train:
        images = ("seed", "shots", "views", "shots_file") if plain["model"].get("image_weight") else ()
        kept = {part: (*UNTRAINED[part], *(images if part == "data" else ())) for part in UNTRAINED}
        plain = {part: {k: v for k, v in plain[part].items() if k in kept[part]} for part in UNTRAINED}
        plain["model"]["image_weight"] = config.model.get("image_weight")
    text = json.dumps({"train": row.train, **plain}, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    data = plain["data"]
    label = "-".join(
        slug(str(part))
        for part in (row.name, *([f"shots{data.get('shots')}", f"seed{seed}"] if "seed" in data else []))
    )
    return Cell(f"{label[:60]}-{digest}", row.train, config, json.loads(text))


def slug(text: str) -> str:
    """For file names."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in text.lower()).strip("-")


def entries_of(row: Row, point: dict[str, Any], seed: int, cell: Cell) -> Iterator[Entry]:
    """A row's entry, one for each score that it is judged by."""
    default = "msp_unknown" if make_objective(cell.config.model.objective).unknown or not row.train else "msp"
    for score in row.headlines or (cell.config.model.score or default,):
        name = f"{row.name} ({score})" if len(row.headlines) > 1 else row.name
        yield Entry(name, point, seed, cell.id, score, row.baseline, row.group, row.value)
