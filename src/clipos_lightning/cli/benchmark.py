"""``clipos benchmark`` and ``clipos report``: compare many detectors under the same conditions."""

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from ..errors import InputError
from ..experiments import tables
from ..experiments.benchmark_folder import RESULTS, prepare_folder
from ..experiments.columns import (
    METRIC_NAMES,
    Cell,
    Column,
    main_columns,
    overall_name,
    rows_by_detector,
    score_columns,
    set_columns,
)
from ..experiments.engine import BenchmarkRunner
from ..experiments.grid import Grid, parse_shard, slug, take_shard
from ..experiments.latex import to_latex
from ..experiments.outcome import RunFolders, build_outcome
from ..experiments.plan import Entry, GridRun, make_plan, overridden_flags
from ..experiments.results_page import to_page
from ..experiments.run_files import SCHEMA, read_plan
from ..options.configs import find_grid
from ..options.messages import CommandParser
from ..reporting.terminal import print_table
from ..utils.files import write_json, write_text
from ..utils.progress import silence_libraries

OPTION_PREFIXES = ("--model.", "--data.", "--trainer.")


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos benchmark``; returns the exit code."""
    silence_libraries()
    given, flags = read_arguments(arguments)
    path = find_grid(given.grid)
    grid, runs, entries = make_plan(path, given.config or [], flags, parse_seeds(given.seeds))
    for line in overridden_flags(path, given.config or [], flags):
        print(line)
    folder = Path(given.out) if given.out else Path("runs") / folder_name(grid, runs)
    timing = f"timing{'' if given.shard == '1/1' else '-' + slug(given.shard)}.json"
    written = [*RESULTS, "gallery.png" if grid.kind == "masks" else timing]
    plan = grid_record(grid, [] if grid.kind == "masks" else entries)
    prepare_folder(folder, plan, written)
    if grid.kind == "masks":
        from .mask_study import run_masks

        if given.shard != "1/1" or given.wandb:
            raise InputError("benchmark: a mask study takes neither --shard nor --wandb: leave them out")
        write_json(folder / "grid.json", plan)
        run_masks(grid, runs, entries, folder)
        return 0
    write_json(folder / "grid.json", plan)
    shard = take_shard(runs, parse_shard(given.shard))
    print(f"{grid.title}: {len(entries)} table entries, {len(runs)} detectors", flush=True)
    runner = BenchmarkRunner(folder, shard)
    todo = len(runner.untrained)
    print(f"training {todo} of {len(shard)} detectors ({len(shard) - todo} already trained)", flush=True)
    runner.run()
    print_timing(runner, len(shard))
    if any(runner.seconds.values()):
        write_json(folder / timing, runner.seconds)
    write_results(folder, [folder], given)
    return 0


def benchmark_parser() -> CommandParser:
    """The parser of ``clipos benchmark``, without the options of model, data and trainer."""
    text = "Train the detectors of a grid, test all of them in one pass over the test sets, and write tables."
    more = "The --model., --data. and --trainer. options of `clipos fit` are accepted, for rows that do not set them."
    parser = CommandParser(prog="clipos benchmark", description=text, epilog=more, allow_abbrev=False)
    parser.add_argument("grid", help="a grid file, or the name of a shipped grid, such as main (see `clipos configs`)")
    text = "config to use instead of the grid's configs: a file or a shipped config's name; may be repeated"
    parser.add_argument("-c", "--config", action="append", help=text)
    parser.add_argument("--seeds", help="seeds to use instead of the grid's, such as 1,2,3")
    text = "run only shard I of N, to split a benchmark between machines (default: 1/1)"
    parser.add_argument("--shard", default="1/1", metavar="I/N", help=text)
    text = "output folder; finished runs in it are not repeated (default: a folder in runs/ named after the grid)"
    parser.add_argument("--out", metavar="DIR", help=text)
    add_table_options(parser)
    return parser


def add_table_options(parser: CommandParser) -> None:
    """Add the options of the commands that write a benchmark's tables."""
    text = "print AUROC and FPR95 by OOD set and by score too; results.html and the other files hold them in any case"
    parser.add_argument("--verbose", action="store_true", help=text)
    text = "columns of results.tex: the average over OOD sets (default), or every set too"
    parser.add_argument("--latex", choices=("average", "sets"), default="average", help=text)
    parser.add_argument("--wandb", metavar="PROJECT", help="log every run and the tables to this W&B project")


def read_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of the command itself, and those of model, data and trainer as ``--name=value``."""
    parser = benchmark_parser()
    own, flags = split_arguments(arguments, parser)
    return parser.parse_args(own), flags


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """Parse ``--seeds``: ``1,2,3`` to (1, 2, 3); None to ().

    Raises:
        InputError: not a list of different non-negative integers.
    """
    try:
        seeds = tuple(int(word) for word in text.split(",")) if text else ()
        if len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
            raise ValueError
        return seeds
    except ValueError as error:
        raise InputError(f"benchmark: --seeds {text!r}: give different non-negative integers, like 1,2,3") from error


def split_arguments(words: Sequence[str], parser: CommandParser) -> tuple[list[str], list[str]]:
    """The command's own arguments, and the options of model, data and trainer, all written as ``--model.x=v``."""
    own: list[str] = []
    flags: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith(OPTION_PREFIXES):
            own.append(word)
            continue
        value = None if "=" in word else next(remaining, None)
        if "=" not in word and (value is None or value.startswith("--")):
            parser.error(f"{word} needs a value")
        flags.append(word if value is None else f"{word}={value}")
    return own, flags


def folder_name(grid: Grid, runs: Sequence[GridRun]) -> str:
    """Name of the default output folder: grid, ID set and a digest of all runs, so that equal plans share a folder."""
    digest = hashlib.sha256("\n".join(run.id for run in runs).encode()).hexdigest()[:8]
    return f"{slug(grid.name)}-{slug(Path(runs[0].config.data.id).name.removeprefix('folder:'))}-{digest}"


def grid_record(grid: Grid, entries: Sequence[Entry]) -> dict[str, Any]:
    """The contents of ``grid.json``: what the tables need of the plan."""
    fields = {"name": grid.name, "kind": grid.kind, "title": grid.title, "reference": grid.reference}
    return {"schema": SCHEMA, **fields, "entries": [asdict(entry) for entry in entries]}


def print_timing(runner: BenchmarkRunner, count: int) -> None:
    """Print the times of training and testing, and how the latter compares with testing a single detector."""
    s = runner.seconds
    print(f"training: {s['training']:.1f} s", flush=True)
    if runner.images:
        total, single = s["features"] + s["scoring"], s["features"] + s["scoring"] / count
        print(f"one pass over {runner.images:,} test images for {count} detectors: {total:.1f} s", flush=True)
        print(
            f"(features {s['features']:.1f} s, scoring {s['scoring']:.1f} s; {total / single:.2f} x a single detector)"
        )


def write_results(folder: Path, sources: Sequence[Path], given: argparse.Namespace) -> None:
    """Write and print the tables if all runs are finished, else print how many are missing.

    Args:
        folder: to write to.
        sources: folders with the runs.
        given: the parsed options ``latex``, ``verbose`` and ``wandb``.
    """
    grid = read_plan(folder)
    runs = RunFolders(sources)
    missing = runs.missing(grid["entries"])
    if missing:
        total = len({entry["run"] for entry in grid["entries"]})
        print(f"{total - len(missing)} of {total} runs are finished; the tables are written after the last one.")
        print(f"To merge shards in several folders: clipos report {folder} OTHER_DIR…")
    else:
        outcome = build_outcome(grid, runs)
        write_outcome(folder, outcome, with_sets=given.latex == "sets")
        print_tables(outcome, given.verbose)
        if given.wandb:
            from ..experiments.wandb_outcome import log_outcome

            log_outcome(given.wandb, outcome, folder)
        print(f"report: {folder / 'results.html'}")
    print(f"run: {folder}")


def write_outcome(folder: Path, outcome: Mapping[str, Any], with_sets: bool) -> None:
    """Write ``results.json``, ``.md``, ``.csv``, ``.tex`` (of every OOD set, if ``with_sets``) and ``.html``."""
    write_json(folder / "results.json", outcome, indent=1)
    write_text(folder / "results.md", tables.grid_markdown(outcome))
    write_text(folder / "results.csv", tables.to_csv(outcome))
    write_text(folder / "results.tex", to_latex(outcome, with_sets))
    write_text(folder / "results.html", to_page(outcome))


def print_tables(outcome: Mapping[str, Any], verbose: bool) -> None:
    """Print the main table of each grid point; if ``verbose``, also AUROC and FPR95 by OOD set and by score."""
    seeds = len(outcome["grid_points"][0]["rows"][0]["seeds"])
    print(f"{tables.grid_title(outcome)}\nin percent, {f'mean ± std over {seeds} seeds' if seeds > 1 else 'one seed'}")
    for grid_point, rows in tables.by_grid_point(outcome).items():
        overall = overall_name(rows)
        print_columns(", ".join(filter(None, (grid_point, overall))), rows, main_columns(rows))
        for metric, name in METRIC_NAMES.items() if verbose and overall else ():
            if len(rows[0]["mean"]["ood"]) > 1:
                print_columns(f"{name} by OOD set", rows, set_columns(rows, metric))
            detectors = rows_by_detector(rows)
            lines = [[Text(c.title), *map(console_cell, c.cells)] for c in score_columns(detectors, metric)]
            print_table(f"{name} by score, {overall}", ["score", *(row["row"] for row in detectors)], lines)
    if not verbose:
        print("every OOD set and score: in results.html, or here with --verbose")


def print_columns(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """Print a table with one line per row of the grid."""
    lines = [[row["row"], row["score"], *(console_cell(c.cells[i]) for c in columns)] for i, row in enumerate(rows)]
    print_table(title, ["method", "score", *(column.title for column in columns)], lines, text_columns=2)


def console_cell(cell: Cell) -> Text:
    """A cell for the terminal; the best of a column is bold."""
    return Text.assemble((cell.text, "bold" if cell.best else ""), f" {cell.note}" if cell.note else "")


def report_parser() -> CommandParser:
    """The parser of ``clipos report``."""
    text = "Merge the shards of a benchmark into one set of tables, or write the tables of a benchmark again."
    parser = CommandParser(prog="clipos report", description=text)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="output folders of the same benchmark")
    parser.add_argument("--out", metavar="DIR", help="folder to write the tables to (default: the first DIR)")
    add_table_options(parser)
    return parser


def report(arguments: Sequence[str]) -> int:
    """Run ``clipos report``; returns the exit code."""
    given = report_parser().parse_args(list(arguments))
    folders = [Path(folder) for folder in given.folders]
    plans = [read_plan(folder) for folder in folders]
    if any(plan.get("kind") == "masks" for plan in plans):
        raise InputError("report: a mask study has nothing to merge: its tables are in its folder")
    if any(plan != plans[0] for plan in plans):
        different = folders[next(i for i, plan in enumerate(plans) if plan != plans[0])]
        raise InputError(f"report: {different} and {folders[0]} hold different grids, or different options of one")
    out = Path(given.out) if given.out else folders[0]
    prepare_folder(out, plans[0], RESULTS)
    write_json(out / "grid.json", plans[0])
    write_results(out, folders, given)
    return 0
