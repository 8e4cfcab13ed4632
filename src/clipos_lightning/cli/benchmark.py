"""``clipos benchmark GRID.yaml`` and ``clipos report DIR…``: compare many detectors on equal terms."""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from ..errors import InputError
from ..experiments import tables
from ..experiments.engine import Bench
from ..experiments.grid import Grid, digest_of, parse_shard, slug, take_shard
from ..experiments.grid_plots import draw_outcome
from ..experiments.outcome import RunFolders, build_outcome
from ..experiments.plan import Entry, GridRun, kept_by_rows, make_plan
from ..options.configs import find_grid
from ..options.messages import CommandParser
from ..reporting.plots import svg_uri
from ..utils.files import write_json, write_text
from ..utils.progress import silence_libraries

OPTION_PREFIXES = ("--model.", "--data.", "--trainer.")


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos benchmark``; returns the exit code."""
    silence_libraries()
    given, flags = read_arguments(arguments)
    path = find_grid(given.grid)
    grid, runs, entries = make_plan(path, given.config or [], flags, parse_seeds(given.seeds))
    for line in kept_by_rows(path, given.config or [], flags):
        print(line)
    folder = Path(given.out) if given.out else Path("runs") / folder_name(grid, runs)
    open_folder(folder, grid.name, {run.id for run in runs})
    if grid.kind == "masks":
        from .mask_study import run_masks

        if given.shard != "1/1" or given.wandb:
            raise InputError("benchmark: a mask study is one pass: it takes neither --shard nor --wandb")
        write_json(folder / "grid.json", grid_record(grid, []))
        run_masks(grid, runs, entries, folder)
        return 0
    write_json(folder / "grid.json", grid_record(grid, entries))
    mine = take_shard(runs, parse_shard(given.shard))
    print(f"{grid.title}: {len(entries)} table entries, {len(runs)} detectors", flush=True)
    bench = Bench(folder, mine)
    todo = sum(not bench.trained(run) for run in mine)
    print(f"training {todo} of {len(mine)} detectors ({len(mine) - todo} are there)", flush=True)
    bench.run()
    say_cost(bench, len(mine))
    if any(bench.seconds.values()):
        write_json(folder / f"timing{'' if len(mine) == len(runs) else '-' + slug(given.shard)}.json", bench.seconds)
    write_results(folder, [folder], given.wandb)
    return 0


def open_folder(folder: Path, name: str, runs: Set[str]) -> None:
    """Make the folder, or go on in one of the same grid, which may have grown or shrunk since.

    Args:
        folder: where runs and tables are written.
        name: of the grid.
        runs: of the plan.

    Raises:
        InputError: it holds another grid, one with other options, or files that are not ours.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"benchmark: --out {folder} is a file: give a folder")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "grid.json").exists():
        plan = read_plan(folder)
        there = {digest_of(entry["run"]) for entry in plan["entries"]}
        if plan["name"] != name:
            raise InputError(f"benchmark: {folder} holds grid {plan['name']!r}: give another --out for {name!r}")
        if there and there.isdisjoint(map(digest_of, runs)):
            raise InputError(f"benchmark: {folder} holds grid {name!r} with other options: give another --out")
    elif any(folder.glob("results.*")):
        raise InputError(f"benchmark: {folder} holds results.* of something else: give another --out")


def benchmark_parser() -> CommandParser:
    """The options of ``clipos benchmark``, without those of model, data and trainer."""
    more = "Every --model., --data. and --trainer. option of clipos fit can be given too: for rows that do not set it."
    parser = CommandParser(prog="clipos benchmark", description=__doc__, epilog=more, allow_abbrev=False)
    parser.add_argument("grid", help="a grid file, or a shipped one's name: main, ablation, … (clipos configs)")
    parser.add_argument("-c", "--config", action="append", help="in place of the grid's own configs; may be repeated")
    parser.add_argument("--seeds", help="in place of the grid's, like 1,2,3")
    parser.add_argument("--shard", default="1/1", help="PART/WHOLE: only this part of the runs (default: all)")
    parser.add_argument("--out", help="folder of runs and tables; goes on with what is there (default: below runs/)")
    parser.add_argument("--wandb", metavar="PROJECT", help="log every run and the tables to this W&B project")
    return parser


def read_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """The command's own options, and those of model, data and trainer as ``--x=v``."""
    parser = benchmark_parser()
    own, flags = as_flags(arguments, parser)
    return parser.parse_args(own), flags


def parse_seeds(text: str | None) -> tuple[int, ...]:
    """``1,2,3`` to (1, 2, 3); none: ()."""
    try:
        seeds = tuple(int(word) for word in text.split(",")) if text else ()
        if len(set(seeds)) < len(seeds) or min(seeds, default=0) < 0:
            raise ValueError
        return seeds
    except ValueError as error:
        raise InputError(f"benchmark: --seeds {text!r}: write different whole numbers, like 1,2,3") from error


def as_flags(words: Sequence[str], parser: CommandParser) -> tuple[list[str], list[str]]:
    """The command's own words, and ``--model.x v`` or ``--model.x=v`` alike as the latter."""
    own: list[str] = []
    flags: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if not word.startswith(OPTION_PREFIXES):
            own.append(word)
            continue
        value = None if "=" in word else next(remaining, None)
        if "=" not in word and (value is None or value.startswith("--")):
            parser.error(f"{word} has no value")
        flags.append(word if value is None else f"{word}={value}")
    return own, flags


def folder_name(grid: Grid, runs: Sequence[GridRun]) -> str:
    """The same for the same plan, so that a killed run is gone on with: grid, ID set, digest of all runs."""
    digest = hashlib.sha256("\n".join(run.id for run in runs).encode()).hexdigest()[:8]
    return f"{slug(grid.name)}-{slug(Path(runs[0].config.data.id).name.removeprefix('folder:'))}-{digest}"


def grid_record(grid: Grid, entries: Sequence[Entry]) -> dict[str, Any]:
    """``grid.json``: all that the tables need to know of the plan."""
    named = {"name": grid.name, "kind": grid.kind, "title": grid.title, "reference": grid.reference}
    return {"schema": 2, **named, "entries": [asdict(entry) for entry in entries]}


def say_cost(bench: Bench, count: int) -> None:
    """What the grid cost, and what of it grows with the number of detectors."""
    s = bench.seconds
    print(f"training {s['training']:.1f} s", flush=True)
    if bench.images:
        whole, one = s["features"] + s["judging"], s["features"] + s["judging"] / count
        print(f"one pass over {bench.images:,} test images for {count} detectors: {whole:.1f} s", flush=True)
        print(
            f"(features {s['features']:.1f} s, judging {s['judging']:.1f} s; {whole / one:.2f} x one detector's pass)"
        )


def write_results(folder: Path, sources: Sequence[Path], wandb: str | None = None) -> None:
    """Write and print the tables where every run is there; else say what is missing."""
    grid = read_plan(folder)
    runs = RunFolders(sources)
    missing = runs.missing(grid["entries"])
    if missing:
        total = len({entry["run"] for entry in grid["entries"]})
        print(f"{total - len(missing)} of {total} runs are finished; the tables come with the last of them,")
        print(f"or merge folders: clipos report {folder} OTHER_FOLDER…")
    else:
        outcome = build_outcome(grid, runs)
        write_outcome(folder, outcome)
        show(outcome)
        if wandb:
            from ..experiments.wandb_outcome import log_outcome

            log_outcome(wandb, outcome, folder)
        print(f"report: {folder / 'results.html'}")
    print(f"run: {folder}")


def write_outcome(folder: Path, outcome: Mapping[str, Any]) -> None:
    """``results.json``, ``.md``, ``.csv``, ``.tex``, ``.html``."""
    write_text(folder / "results.json", tables.to_json(outcome))
    write_text(folder / "results.md", tables.grid_markdown(outcome))
    write_text(folder / "results.csv", tables.to_csv(outcome))
    write_text(folder / "results.tex", tables.to_latex(outcome))
    uris = {caption: svg_uri(figure) for caption, figure in draw_outcome(outcome).items()}
    write_text(folder / "results.html", tables.to_page(outcome, uris))


def show(outcome: Mapping[str, Any]) -> None:
    """The main tables on the terminal."""
    print(f"{tables.grid_title(outcome)}\nAUROC ↑ / FPR95 ↓ in percent, mean ± std over seeds")
    console = Console(width=None if sys.stdout.isatty() else 160)
    for grid_point, rows in tables.by_grid_point(outcome).items():
        view = Table(title=grid_point or None, title_justify="left", box=box.SIMPLE_HEAD)
        head, body = tables.short_table(rows)
        for name in head:
            view.add_column(name, justify="left" if name in ("method", "score") else "right")
        for values in body:
            view.add_row(*(value.replace("`", "") for value in values))
        console.print(view)


def report_parser() -> CommandParser:
    """The options of ``clipos report``."""
    text = "Merge folders of `clipos benchmark` into one set of tables."
    parser = CommandParser(prog="clipos report", description=text)
    parser.add_argument("folders", nargs="+", metavar="DIR", help="folders of one grid")
    parser.add_argument("--out", help="folder to write the tables to (default: the first DIR)")
    parser.add_argument("--wandb", metavar="PROJECT", help="log every run and the tables to this W&B project")
    return parser


def report(arguments: Sequence[str]) -> int:
    """Run ``clipos report``; returns the exit code."""
    given = report_parser().parse_args(list(arguments))
    folders = [Path(folder) for folder in given.folders]
    plans = [read_plan(folder) for folder in folders]
    if any(plan.get("kind") == "masks" for plan in plans):
        raise InputError("report: a mask study is one pass, with nothing to merge: its tables are in its folder")
    if any(plan != plans[0] for plan in plans):
        different = folders[next(i for i, plan in enumerate(plans) if plan != plans[0])]
        raise InputError(f"report: {different} holds another grid, or the same with other options, than {folders[0]}")
    out = Path(given.out) if given.out else folders[0]
    open_folder(out, plans[0]["name"], {entry["run"] for entry in plans[0]["entries"]})
    write_json(out / "grid.json", plans[0])
    write_results(out, folders, given.wandb)
    return 0


def read_plan(folder: Path) -> dict[str, Any]:
    """A folder's ``grid.json``.

    Raises:
        InputError: not a folder of `clipos benchmark`.
    """
    try:
        plan = json.loads((folder / "grid.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"report: {folder} is not a folder of clipos benchmark (no grid.json): {error}") from error
    if not isinstance(plan, dict) or plan.get("schema") != 2:
        raise InputError(f"report: {folder}/grid.json is not of this version of clipos: run the benchmark again")
    return plan
