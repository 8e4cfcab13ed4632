"""From a grid to runs: every detector to train, with its options in full, and the table entries that it stands for."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import Trainer

from ..data.datamodule import FewShotOOD
from ..errors import InputError
from ..evaluation.scores import SCORES, check_scores, defined_scores
from ..method.objectives import make_objective
from ..options.parser import PackagedConfig, TrainerParser, check_precision
from ..training.module import ClipOS
from .grid import Grid, GridRow, digest_of, read_grid, slug

# What differs between machines, or changes nothing in the result: not part of a run's name.
APART = {
    "model": ("feature_budget_mb", "compile"),
    "data": ("root", "num_workers", "eval_batch_size", "cache"),
    "trainer": (
        *("accelerator", "strategy", "devices", "num_nodes", "logger", "callbacks", "default_root_dir", "profiler"),
        *("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams"),
        *("log_every_n_steps", "check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps", "benchmark"),
        *("deterministic", "detect_anomaly", "barebones", "plugins", "model_registry", "use_distributed_sampler"),
    ),
}
UNTRAINED = {  # what a detector without training depends on
    "model": (
        *("backbone", "pretrained", "image_size", "template", "zero_shot_unknown", "surgery", "mask", "scoring"),
        *("scores", "image_weight"),
    ),
    "data": ("id", "ood_sets", "limit_per_set", "class_names", "class_list", "ood_resolution", "resize"),
    "trainer": ("precision",),
}
IMAGES = ("seed", "shots", "views", "shots_file")  # ... and what its images depend on, where they have a share


@dataclass(frozen=True)
class GridRun:
    """One detector.

    Attributes:
        id: a readable name and, after the last dash, a digest of all options that matter; names its folder.
        train: False: the zero-shot prompts.
        config: model, data and trainer options, parsed.
        plain: the options that matter, as plain data.
    """

    id: str
    train: bool
    config: Namespace
    plain: dict[str, Any]

    @property
    def draws(self) -> bool:
        """Whether few-shot images matter to it."""
        return self.train or bool(self.config.model.image_weight)


@dataclass(frozen=True)
class Entry:
    """A row of a table under one seed.

    Attributes:
        row: the grid's row.
        name: as it stands in the tables: the row, with the score where it has several.
        grid_point: the axes' values.
        seed: of draw and training.
        run: the detector's id.
        score: that it is judged by.
        baseline: one of the rivals.
        group: the option that is varied, or "".
        value: its value.
    """

    row: str
    name: str
    grid_point: dict[str, Any]
    seed: int
    run: str
    score: str
    baseline: bool
    group: str = ""
    value: str = ""


def grid_parser() -> ArgumentParser:
    """The options of model, data and trainer, as `clipos fit` has them."""
    parser = TrainerParser(prog="clipos benchmark")
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
) -> tuple[Grid, list[GridRun], list[Entry]]:
    """A grid's runs, each once, and its entries.

    Args:
        path: the grid's file.
        configs: in place of the grid's own, where given.
        flags: ``--model.x=y`` and so on; over the grid's configs and options, under its rows and axes.
        seeds: in place of the grid's own, where given.

    Raises:
        InputError: whatever is wrong with grid or options.
    """
    parser = grid_parser()
    first = read_grid(path, None)
    base = [*config_words(configs or first.configs), *words(first.options), *flags]
    common = parse_options(parser, base)
    grid = read_grid(path, common.model.backbone)
    check_axes(grid, flags)
    runs: dict[str, GridRun] = {}  # by digest: equal detectors under different names are one
    entries: list[Entry] = []
    for grid_point in grid.grid_points():
        for row in grid.rows:
            parsed = parse_options(parser, [*base, *config_words(row.configs), *words(row.options), *words(grid_point)])
            for seed in (seeds or grid.seeds) if grid.kind == "detectors" else (0,):
                made = make_run(parsed.clone(), row, seed)
                run = runs.setdefault(digest_of(made.id), made)
                entries += entries_of(row, grid_point, seed, run, parsed)
    return grid, list(runs.values()), entries


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Options in full.

    Raises:
        InputError: wrong ones, or a precision in which scores would not be fp32.
    """
    parsed = parser.parse_args(list(arguments))
    check_precision(parsed.trainer.precision)
    return parsed


def check_axes(grid: Grid, flags: Sequence[str]) -> None:
    """An axis is not set elsewhere as well."""
    for option in grid.axes:
        if any(flag.split("=")[0] == f"--{option}" for flag in flags):
            raise InputError(f"benchmark: {option} is an axis of {grid.name}: leave --{option} out, or edit the grid")
        for row in grid.rows:
            if option in row.options:
                raise InputError(f"benchmark: {option} is an axis of {grid.name}, and row {row.name!r} sets it, too")


def kept_by_rows(path: Path, configs: Sequence[str], flags: Sequence[str]) -> list[str]:
    """What a flag does not reach: rows that set its option themselves, a line each."""
    parser = grid_parser()
    first = read_grid(path, None)
    base = [*config_words(configs or first.configs), *words(first.options), *flags]
    common = parse_options(parser, base)
    lines = []
    for row in read_grid(path, common.model.backbone).rows:
        parsed = parse_options(parser, [*base, *config_words(row.configs), *words(row.options)])
        for name in (flag.split("=")[0].removeprefix("--") for flag in flags):
            if parsed.get(name) != common.get(name):
                lines.append(f"note: row {row.name!r} keeps its own {name} {parsed.get(name)}")
    return lines


def config_words(configs: Sequence[str]) -> list[str]:
    """``--config`` for each."""
    return [word for config in configs for word in ("--config", config)]


def words(options: Any) -> list[str]:
    """``--option=value`` for each, values as JSON."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def make_run(config: Namespace, row: GridRow, seed: int) -> GridRun:
    """A row under one seed; untrained ones differ only where their result does."""
    for part in (config.model, config.data):
        part.seed = seed if part.seed is None else part.seed
    plain = {
        part: {k: content(k, v) for k, v in config[part].as_dict().items() if k not in APART[part]} for part in APART
    }
    if not row.train:
        model, data = UNTRAINED["model"], UNTRAINED["data"]
        model += () if plain["model"].get("score") in (None, *SCORES) else ("score",)  # the others are reported anyway
        data += IMAGES if plain["model"].get("image_weight") else ()
        kept = {**UNTRAINED, "model": model, "data": data}
        plain = {part: {k: v for k, v in plain[part].items() if k in kept[part]} for part in kept}
    text = json.dumps({"train": row.train, **plain}, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    drawn = [f"shots{plain['data'].get('shots')}", f"seed{seed}"] if "seed" in plain["data"] else []
    label = "-".join(slug(str(part)) for part in (row.name, *drawn))
    return GridRun(f"{label[:60]}-{digest}", row.train, config, json.loads(text))


def content(name: str, value: Any) -> Any:
    """A file's digest in place of its path: edited, it is another option; elsewhere, the same."""
    if name in ("pretrained", "class_names", "class_list", "shots_file") and value and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return value


def entries_of(
    row: GridRow, grid_point: dict[str, Any], seed: int, run: GridRun, options: Namespace
) -> Iterator[Entry]:
    """A row's entry, one for each score that it is judged by.

    Raises:
        InputError: a score that this detector has not.
    """
    model = options.model
    unknown = make_objective(model.objective).unknown or not row.train
    scores = row.headlines or (model.score or ("msp_unknown" if unknown else "msp"),)
    check_scores(scores, unknown, f"benchmark: row {row.name!r}, headlines:")
    reported = {*(model.scores or defined_scores(unknown)), model.score}
    for score in scores:
        if score not in reported:
            raise InputError(f"benchmark: row {row.name!r} is judged by {score!r}, which its model.scores leave out")
        name = f"{row.name} ({score})" if len(scores) > 1 else row.name
        yield Entry(row.name, name, grid_point, seed, run.id, score, row.baseline, row.group, row.value)
