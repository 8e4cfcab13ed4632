"""From a benchmark's runs to its outcome: every seed, mean and spread, differences to the reference with intervals."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..evaluation.metrics import OOD_METRICS
from ..reporting.report import summarise
from .bootstrap import REPEATS, interval, resample, resampled_auroc
from .grid import file_name, find_run

Outcome = dict[str, Any]


class RunFolders:
    """Finished runs in one or several folders, read once.

    Args:
        folders: of `clipos benchmark`, merged.

    Raises:
        InputError: a run is asked for that is in none of them, or is not finished.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.seen: dict[str, Outcome] = {}
        self.drawn: dict[tuple[str, str], NDArray[np.float64]] = {}

    def place(self, run: str) -> Path:
        """The folder of a finished run."""
        for folder in self.folders:
            place = find_run(folder, run)
            if place is not None and (place / "tests.json").exists():
                return place
        where = ", ".join(map(str, self.folders))
        raise InputError(f"benchmark: run {run} is not finished in {where}: run the grid there, or add its folder")

    def missing(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """Runs that are not finished."""
        found = []
        for run in dict.fromkeys(entry["run"] for entry in entries):
            try:
                self.place(run)
            except InputError:
                found.append(run)
        return found

    def scores(self, run: str, name: str) -> dict[str, NDArray[Any]]:
        """A run's columns for one set (``id``, or an OOD set)."""
        return dict(np.load(self.place(run) / file_name(name)))

    def column(self, run: str, name: str, score: str) -> NDArray[Any]:
        """One score of a run's for one set."""
        with np.load(self.place(run) / file_name(name)) as file:
            return file[score]

    def tests(self, run: str) -> Outcome:
        """What it was tested on: ID set, OOD sets and their kinds."""
        return json.loads((self.place(run) / "tests.json").read_text(encoding="utf-8"))

    def figures(self, run: str) -> Outcome:
        """Accuracy, and metrics by set and score.

        Raises:
            InputError: a score is not finite.
        """
        if run not in self.seen:
            tests = self.tests(run)
            results = {name: self.scores(run, name) for name in ("id", *tests["ood"])}
            labels = results["id"].pop("labels")
            tables = {n: {k: v for k, v in t.items() if k not in ("keys", "labels")} for n, t in results.items()}
            try:
                self.seen[run] = summarise(tables, labels, tests["ood"])
            except InputError as error:
                raise InputError(f"benchmark: run {run}: {error}; then remove its folder and run again") from error
        return self.seen[run]

    def images(self, run: str) -> dict[str, str]:
        """Set to a digest of the images that it was tested on."""
        return {name: str(self.column(run, name, "keys")) for name in ("id", *self.tests(run)["ood"])}

    def draws(self, run: str, score: str) -> NDArray[np.float64]:
        """Average AUROC over the OOD sets in each bootstrap repeat, (repeats,)."""
        if (run, score) not in self.drawn:
            inside, names = self.column(run, "id", score), list(self.tests(run)["ood"])
            total = np.zeros(REPEATS)
            for k, name in enumerate(names):
                outside = self.column(run, name, score)
                counts = resample(len(inside)), resample(len(outside), seed=k + 1)
                total += resampled_auroc(inside, outside, *counts) / len(names)
            self.drawn[run, score] = total
        return self.drawn[run, score]


def build_outcome(grid: Mapping[str, Any], runs: RunFolders) -> Outcome:
    """The whole outcome as plain data (schema 1), percent.

    Args:
        grid: as ``grid.json`` holds it: title, reference, entries.
        runs: all of them finished.

    Raises:
        InputError: rows at one grid point were tested on different images.
    """
    grid_points: dict[str, list[Outcome]] = {}
    for entry in grid["entries"]:
        rows = grid_points.setdefault(json.dumps(entry["grid_point"]), [])
        row = next((r for r in rows if r["name"] == entry["name"]), None)
        if row is None:
            row = {k: v for k, v in entry.items() if k not in ("seed", "run")} | {"seeds": []}
            rows.append(row)
        row["seeds"].append(one_seed(entry, runs.figures(entry["run"])))
    for rows in grid_points.values():
        for row in rows:
            row["mean"] = spread_all(row["seeds"])
        row_tests = [runs.images(seed["run"]) for row in rows for seed in row["seeds"]]
        if any(tests != row_tests[0] for tests in row_tests):
            raise InputError(
                f"benchmark: the rows at {rows[0]['grid_point'] or 'one grid point'} were tested on different images: "
                "they do not belong in one table; make what differs (data.ood_sets, data.limit_per_set, …) an axis"
            )
        add_differences(rows, grid["reference"], runs)
    found = [{"tests": runs.tests(rows[0]["seeds"][0]["run"]), "rows": rows} for rows in grid_points.values()]
    return {"schema": 1, **{k: grid[k] for k in ("name", "title", "reference")}, "grid_points": found}


def one_seed(entry: Mapping[str, Any], figures: Outcome) -> Outcome:
    """A row under one seed: by its score, and the averages of every score."""
    score = entry["score"]
    ood = {name: scores[score] for name, scores in figures["ood"].items()}
    averages = {k: figures[k][score] for k in ("average", "average_near", "average_far") if figures.get(k)}
    found = {"seed": entry["seed"], "run": entry["run"], "accuracy": figures["id"]["accuracy"], "ood": ood}
    return {**found, **averages, "scores": figures["average"]}


def spread_all(seeds: Sequence[Outcome]) -> Outcome:
    """Mean and standard deviation over seeds of accuracy and of each average."""
    found = {"accuracy": spread([s["accuracy"] for s in seeds])}
    for kind in ("average", "average_near", "average_far"):
        if kind in seeds[0]:
            found[kind] = {m: spread([s[kind][m] for s in seeds]) for m in OOD_METRICS}
    found["ood"] = {n: {m: spread([s["ood"][n][m] for s in seeds]) for m in OOD_METRICS} for n in seeds[0]["ood"]}
    scores = seeds[0]["scores"]
    found["scores"] = {s: {m: spread([x["scores"][s][m] for x in seeds]) for m in OOD_METRICS} for s in scores}
    return found


def spread(values: Sequence[float]) -> Outcome:
    """Mean, and the sample standard deviation; None for a single seed."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "n": len(values)}


def add_differences(rows: Sequence[Outcome], reference: str, runs: RunFolders) -> None:
    """Each row's AUROC difference to the reference row, else to the best baseline, with its 95 % interval."""
    if not all("average" in row["mean"] for row in rows):
        return
    rivals = [row for row in rows if (reference in (row["row"], row["name"]) if reference else row["baseline"])]
    if not rivals:
        return
    best = max(rivals, key=lambda row: row["mean"]["average"]["auroc"]["mean"])
    theirs = mean_draws(best, runs)
    for row in rows:
        if row is not best:
            difference = row["mean"]["average"]["auroc"]["mean"] - best["mean"]["average"]["auroc"]["mean"]
            low, high = interval(mean_draws(row, runs), theirs)
            row["difference"] = {"to": best["name"], "auroc": difference, "low": low, "high": high}


def mean_draws(row: Outcome, runs: RunFolders) -> NDArray[np.float64]:
    """Bootstrap repeats of the row's average AUROC, mean over its seeds."""
    return np.mean([runs.draws(seed["run"], row["score"]) for seed in row["seeds"]], axis=0)
