"""Aggregate a benchmark's runs: metrics of each seed, mean and std, differences to the reference with intervals."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..evaluation.metrics import OOD_METRICS
from ..reporting.report import summarise
from ..utils.array_files import load_arrays
from .bootstrap import REPEATS, interval, resample, resampled_auroc
from .grid import find_run, scores_file
from .run_files import RUN_AGAIN, read_scores, read_tests

Outcome = dict[str, Any]


class RunFolders:
    """Reads finished runs from one or several folders, and caches their metrics.

    Args:
        folders: folders of `clipos benchmark`.

    Raises:
        InputError: by the methods, if a run is missing or not finished.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = folders
        self.cached_metrics: dict[str, Outcome] = {}
        self.cached_bootstrap: dict[tuple[str, str], NDArray[np.float64]] = {}

    def folder_of(self, run: str) -> Path:
        """The folder of a finished run."""
        for folder in self.folders:
            found = find_run(folder, run)
            if found is not None and (found / "tests.json").exists():
                return found
        where = ", ".join(map(str, self.folders))
        raise InputError(f"benchmark: run {run} is not finished in {where}: run the grid there, or add its folder")

    def missing(self, entries: Sequence[Mapping[str, Any]]) -> list[str]:
        """IDs of the runs that are missing or not finished."""
        found = []
        for run in dict.fromkeys(entry["run"] for entry in entries):
            try:
                self.folder_of(run)
            except InputError:
                found.append(run)
        return found

    def scores(self, run: str, name: str) -> dict[str, NDArray[Any]]:
        """All arrays of a run for one test set (``id`` or an OOD set): predictions, scores, labels, image digest."""
        return read_scores(self.folder_of(run), name)

    def column(self, run: str, name: str, score: str) -> NDArray[Any]:
        """One array of a run for one test set, such as one score."""
        return load_arrays(self.folder_of(run) / scores_file(name), score, cure=RUN_AGAIN)[score]

    def tests(self, run: str) -> Outcome:
        """The test sets of a run: the ID set, the OOD sets and their kinds, limits."""
        return read_tests(self.folder_of(run))

    def metrics(self, run: str) -> Outcome:
        """Accuracy, and OOD metrics by test set and score.

        Raises:
            InputError: a score is not finite.
        """
        if run not in self.cached_metrics:
            tests = self.tests(run)
            results = {name: self.scores(run, name) for name in ("id", *tests["ood"])}
            labels = results["id"].pop("labels")
            tables = {
                n: {k: v for k, v in t.items() if k not in ("keys", "labels", "detector")} for n, t in results.items()
            }
            try:
                self.cached_metrics[run] = summarise(tables, labels, tests["ood"])
            except InputError as error:
                raise InputError(f"benchmark: run {run}: {error}; then remove its folder and run again") from error
        return self.cached_metrics[run]

    def image_digests(self, run: str) -> dict[str, str]:
        """Test set to a digest of the images that the run was tested on."""
        return {name: str(self.column(run, name, "keys")) for name in ("id", *self.tests(run)["ood"])}

    def bootstrap_auroc(self, run: str, score: str) -> NDArray[np.float64]:
        """Average AUROC over the OOD sets in each bootstrap repeat, (repeats,)."""
        if (run, score) not in self.cached_bootstrap:
            id_scores, names = self.column(run, "id", score), list(self.tests(run)["ood"])
            total = np.zeros(REPEATS)
            for k, name in enumerate(names):
                ood_scores = self.column(run, name, score)
                counts = resample(len(id_scores)), resample(len(ood_scores), seed=k + 1)
                total += resampled_auroc(id_scores, ood_scores, *counts) / len(names)
            self.cached_bootstrap[run, score] = total
        return self.cached_bootstrap[run, score]


def build_outcome(grid: Mapping[str, Any], runs: RunFolders) -> Outcome:
    """The contents of ``results.json`` (schema 1); metrics in percent.

    Args:
        grid: the contents of ``grid.json``: name, title, reference, entries.
        runs: the runs, all of them finished.

    Raises:
        InputError: rows at the same grid point were tested on different images, or a run lacks a score.
    """
    grid_points: dict[str, list[Outcome]] = {}
    for entry in grid["entries"]:
        rows = grid_points.setdefault(json.dumps(entry["grid_point"]), [])
        row = next((r for r in rows if r["name"] == entry["name"]), None)
        if row is None:
            row = {k: v for k, v in entry.items() if k not in ("seed", "run")} | {"seeds": []}
            rows.append(row)
        row["seeds"].append(seed_result(entry, runs.metrics(entry["run"])))
    for rows in grid_points.values():
        check_comparable(rows, runs)
        for row in rows:
            row["mean"] = spread_all(row["seeds"])
        add_differences(rows, grid["reference"], runs)
    found = [{"tests": runs.tests(rows[0]["seeds"][0]["run"]), "rows": rows} for rows in grid_points.values()]
    return {"schema": 1, **{k: grid[k] for k in ("name", "title", "reference")}, "grid_points": found}


def check_comparable(rows: Sequence[Outcome], runs: RunFolders) -> None:
    """Check that all runs of a grid point were tested on the same images, and that a row's seeds have the same scores.

    Raises:
        InputError: they differ.
    """
    tested = [(runs.image_digests(run), runs.tests(run)["ood"]) for run in (s["run"] for r in rows for s in r["seeds"])]
    if any(one != tested[0] for one in tested):
        raise InputError(
            f"benchmark: the rows at {rows[0]['grid_point'] or 'one grid point'} were tested on different images, "
            "so no table can compare them: make the option that differs (data.ood_sets, data.limit_per_set, …) an "
            "axis"
        )
    for row in rows:
        first = row["seeds"][0]
        other = next((s["run"] for s in row["seeds"] if s["scores"].keys() != first["scores"].keys()), None)
        if other is not None:
            raise InputError(f"benchmark: runs {first['run']} and {other} have different scores; {RUN_AGAIN}")


def seed_result(entry: Mapping[str, Any], metrics: Outcome) -> Outcome:
    """A row's result for one seed: the metrics of its score, and the averages of every score.

    Raises:
        InputError: the run does not have this score.
    """
    score = entry["score"]
    if any(score not in scores for scores in metrics["ood"].values()):
        raise InputError(f"benchmark: run {entry['run']} has no score {score!r}; {RUN_AGAIN}")
    ood = {name: scores[score] for name, scores in metrics["ood"].items()}
    averages = {k: metrics[k][score] for k in ("average", "average_near", "average_far") if metrics.get(k)}
    found = {"seed": entry["seed"], "run": entry["run"], "accuracy": metrics["id"]["accuracy"], "ood": ood}
    return {**found, **averages, "scores": metrics["average"]}


def spread_all(seeds: Sequence[Outcome]) -> Outcome:
    """Mean and standard deviation over seeds of accuracy and of all OOD metrics."""
    found = {"accuracy": spread([s["accuracy"] for s in seeds])}
    for kind in ("average", "average_near", "average_far"):
        if kind in seeds[0]:
            found[kind] = {m: spread([s[kind][m] for s in seeds]) for m in OOD_METRICS}
    found["ood"] = {n: {m: spread([s["ood"][n][m] for s in seeds]) for m in OOD_METRICS} for n in seeds[0]["ood"]}
    scores = seeds[0]["scores"]
    found["scores"] = {s: {m: spread([x["scores"][s][m] for x in seeds]) for m in OOD_METRICS} for s in scores}
    return found


def spread(values: Sequence[float]) -> Outcome:
    """Mean and sample standard deviation; the latter is None for a single seed."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "n": len(values)}


def add_differences(rows: Sequence[Outcome], reference: str, runs: RunFolders) -> None:
    """Add each row's AUROC difference to the reference row, or to the best baseline, with its 95 % interval."""
    if not all("average" in row["mean"] for row in rows):
        return
    candidates = [row for row in rows if (reference in (row["row"], row["name"]) if reference else row["baseline"])]
    if not candidates:
        return
    best = max(candidates, key=lambda row: row["mean"]["average"]["auroc"]["mean"])
    best_auroc = mean_bootstrap_auroc(best, runs)
    for row in rows:
        if row is not best:
            difference = row["mean"]["average"]["auroc"]["mean"] - best["mean"]["average"]["auroc"]["mean"]
            low, high = interval(mean_bootstrap_auroc(row, runs), best_auroc)
            row["difference"] = {"to": best["name"], "auroc": difference, "low": low, "high": high}


def mean_bootstrap_auroc(row: Outcome, runs: RunFolders) -> NDArray[np.float64]:
    """A row's average AUROC in each bootstrap repeat, mean over its seeds, (repeats,)."""
    return np.mean([runs.bootstrap_auroc(seed["run"], row["score"]) for seed in row["seeds"]], axis=0)
