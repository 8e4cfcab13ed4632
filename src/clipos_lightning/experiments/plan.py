"""Expand a grid into runs (detectors to train, with all options) and the table entries that refer to them."""

import functools
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
from ..evaluation.score_names import check_scores, default_score, reported_scores
from ..evaluation.scores import find_score, known_scores
from ..method.objective_names import make_objective
from ..options.parser import PackagedConfig, TrainerParser
from ..options.trainer_checks import check_precision
from ..training.module import ClipOS
from ..training.negatives import MINED, negatives_score
from .grid import Grid, GridRow, read_grid, run_digest, slug

# Options that do not affect the result; excluded from the digest in a run's ID.
IGNORED_OPTIONS = {
    "model": ("feature_budget_mb", "compile"),
    "data": ("root", "num_workers", "eval_batch_size", "cache", "validate", "max_pixels", "unreadable"),
    "trainer": (
        *("accelerator", "strategy", "devices", "num_nodes", "logger", "callbacks", "default_root_dir", "profiler"),
        *("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "enable_autolog_hparams"),
        *("log_every_n_steps", "check_val_every_n_epoch", "val_check_interval", "num_sanity_val_steps", "benchmark"),
        *("deterministic", "detect_anomaly", "barebones", "plugins", "model_registry", "use_distributed_sampler"),
    ),
}
FILES = ("pretrained", "class_names", "class_list", "shots_file", "negatives")  # options that may name a file
ZERO_SHOT_OPTIONS = {  # options that a detector without training depends on
    "model": (
        *("backbone", "pretrained", "image_size", "template", "zero_shot_unknown", "surgery", "mask", "scoring"),
        *("scores", "image_weight", "negatives"),
    ),
    "data": (
        *("id", "ood_sets", "limit_per_set", "class_names", "class_list", "ood_resolution", "resize"),
        *("background", "unreadable"),
    ),
    "trainer": ("precision",),
}
SHOT_OPTIONS = ("seed", "shots", "views", "shots_file")  # also, if model.image_weight is set


@dataclass(frozen=True)
class GridRun:
    """One detector to train and score.

    Attributes:
        id: name of its folder: a readable part and, after the last dash, a digest of ``options``.
        train: whether the prompts are trained; False: zero-shot prompts.
        config: parsed options of model, data and trainer.
        options: the options that affect the result, as plain data.
    """

    id: str
    train: bool
    config: Namespace
    options: dict[str, Any]

    @property
    def needs_shots(self) -> bool:
        """Whether the detector depends on few-shot images."""
        model = self.config.model
        names = [model.score, *(model.scores or [])]
        return self.train or bool(model.image_weight) or any(find_score(name).memory for name in names if name)


@dataclass(frozen=True)
class Entry:
    """A table row for one seed.

    Attributes:
        row: name of the grid's row.
        name: name in the tables: the row's, followed by the score if the row reports several.
        grid_point: values of the axes.
        seed: seed of the few-shot draw and of training.
        run: the run's ID.
        score: the score that is reported.
        baseline: whether the row is a baseline.
        group: the varied option, or "".
        value: the varied option's value.
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


@functools.cache
def grid_parser() -> ArgumentParser:
    """Parser of the model, data and trainer options of `clipos fit`."""
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
    """Read a grid and list its runs, without duplicates, and its table entries.

    Args:
        path: the grid file.
        configs: config files that replace the grid's; empty: the grid's.
        flags: options such as ``--model.x=y``, applied after the grid's configs and options, before its rows and axes.
        seeds: seeds that replace the grid's; empty: the grid's.

    Raises:
        InputError: the grid or the options are wrong.
    """
    parser = grid_parser()
    base = base_arguments(path, configs, flags)
    grid = read_grid(path, parse_options(parser, base).model.backbone)
    check_axes(grid, flags)
    runs: dict[str, GridRun] = {}  # by digest: equal detectors under different names share one run
    entries: list[Entry] = []
    for grid_point in grid.grid_points():
        for row in grid.rows:
            parsed = parse_options(parser, [*base, *row_arguments(row), *option_arguments(grid_point)])
            for seed in (seeds or grid.seeds) if grid.kind == "detectors" else (0,):
                run = make_run(parsed.clone(), row, seed)
                run = runs.setdefault(run_digest(run.id), run)
                entries += make_entries(row, grid_point, seed, run, parsed)
    return grid, list(runs.values()), entries


def parse_options(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse command-line arguments into the options of model, data and trainer, defaults included.

    Raises:
        InputError: an option is wrong, or ``trainer.precision`` does not keep the scores in fp32.
    """
    parsed = parser.parse_args(list(arguments))
    check_precision(parsed.trainer.precision)
    return parsed


def check_axes(grid: Grid, flags: Sequence[str]) -> None:
    """Check that no flag and no row sets an option that is an axis.

    Raises:
        InputError: one does.
    """
    for option in grid.axes:
        if any(flag.split("=")[0] == f"--{option}" for flag in flags):
            raise InputError(f"benchmark: {option} is an axis of {grid.name}: leave out --{option}, or edit the grid")
        for row in grid.rows:
            if option in row.options:
                raise InputError(
                    f"benchmark: {option} is an axis of {grid.name}, and row {row.name!r} sets it too: remove one"
                )


def overridden_flags(path: Path, configs: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Notes for the user: a line for each row of the grid that overrides a flag's option."""
    if not flags:
        return []
    parser = grid_parser()
    base = base_arguments(path, configs, flags)
    common = parse_options(parser, base)
    lines = []
    for row in read_grid(path, common.model.backbone).rows:
        parsed = parse_options(parser, [*base, *row_arguments(row)])
        for name in (flag.split("=")[0].removeprefix("--") for flag in flags):
            if parsed.get(name) != common.get(name):
                lines.append(f"note: row {row.name!r} keeps its own {name} {parsed.get(name)}")
    return lines


def base_arguments(path: Path, configs: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Command-line arguments that all rows of a grid share: its configs (or those given), its options, the flags."""
    grid = read_grid(path, None)
    return [*config_arguments(configs or grid.configs), *option_arguments(grid.options), *flags]


def row_arguments(row: GridRow) -> list[str]:
    """Command-line arguments that a row adds."""
    return [*config_arguments(row.configs), *option_arguments(row.options)]


def config_arguments(configs: Sequence[str]) -> list[str]:
    """``--config FILE`` for each file."""
    return [word for config in configs for word in ("--config", config)]


def option_arguments(options: Any) -> list[str]:
    """``--option=value`` for each option, values as JSON."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in options.items()]


def make_run(config: Namespace, row: GridRow, seed: int) -> GridRun:
    """The run of a row for one seed; a zero-shot run's digest covers only the options that it depends on."""
    for section in (config.model, config.data):
        section.seed = seed if section.seed is None else section.seed
    options = {
        part: {k: digest_of_file(k, v) for k, v in config[part].as_dict().items() if k not in ignored}
        for part, ignored in IGNORED_OPTIONS.items()
    }
    if not row.train:
        model, data = ZERO_SHOT_OPTIONS["model"], ZERO_SHOT_OPTIONS["data"]
        if options["model"].get("score") not in (None, *known_scores()):
            model += ("score",)  # a user-defined score is computed only where it is chosen
        data += SHOT_OPTIONS if options["model"].get("image_weight") else ()
        kept = {**ZERO_SHOT_OPTIONS, "model": model, "data": data}
        options = {part: {k: v for k, v in options[part].items() if k in kept[part]} for part in kept}
    text = json.dumps({"train": row.train, **options}, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    draw = [f"shots{options['data'].get('shots')}", f"seed{seed}"] if "seed" in options["data"] else []
    label = "-".join(slug(str(part)) for part in (row.name, *draw))
    return GridRun(f"{label[:60]}-{digest}", row.train, config, json.loads(text))  # options as they are in run.json


def digest_of_file(name: str, value: Any) -> Any:
    """An option's value, or the file's SHA-256 if it is a path: the contents count, not the location."""
    mined = name == "negatives" and value in MINED
    if name in FILES and not mined and isinstance(value, str) and value and Path(value).is_file():
        return hashlib.sha256(Path(value).read_bytes()).hexdigest()
    return value


def make_entries(
    row: GridRow, grid_point: dict[str, Any], seed: int, run: GridRun, options: Namespace
) -> Iterator[Entry]:
    """The table entries of a row for one seed, one for each score that it reports.

    Raises:
        InputError: the detector does not have one of these scores.
    """
    model = options.model
    objective = make_objective(model.objective)
    unknown = objective.unknown or not row.train  # the zero-shot detector always has an "unknown" prompt
    own_score = model.score or objective.score or default_score(objective.unknown)
    scores = row.headlines or (own_score,)
    words = negatives_score(model.negatives)
    check_scores(scores, unknown, words, f"benchmark: row {row.name!r}, headlines:", objective.scores)
    reported = reported_scores(model.scores, own_score, unknown, negatives=words, own=objective.scores)
    for score in scores:
        if score not in reported:
            raise InputError(f"benchmark: row {row.name!r} reports {score!r}, which its model.scores does not include")
        name = f"{row.name} ({score})" if len(scores) > 1 else row.name
        yield Entry(row.name, name, grid_point, seed, run.id, score, row.baseline, row.group, row.value)
