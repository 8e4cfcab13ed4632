"""Small outcomes of ``clipos benchmark`` with made-up numbers, in the layout of ``results.json``."""

from collections.abc import Sequence
from typing import Any

from clipos_lightning.evaluation.metrics import OOD_METRICS
from clipos_lightning.experiments.outcome import spread_all

SETS = {"near_set": 600, "far_set": 1200, "other": 40}
LONG = "a method with a long name, trained on everything"


def metrics_of(auroc: float) -> dict[str, float]:
    """Every metric of a detector; FPR95 is the AUROC's complement."""
    return {name: auroc for name in OOD_METRICS} | {"fpr95": 100 - auroc}


def grid_row(name: str, aurocs: Sequence[float], sets: dict[str, int] = SETS, **changes: Any) -> dict[str, Any]:
    """A row: one AUROC per seed, the k-th OOD set k points below it; three scores, the headline is ``energy``."""
    seeds = []
    for number, auroc in enumerate(aurocs, start=1):
        ood = {s: metrics_of(auroc - k) | {"n": n} for k, (s, n) in enumerate(sets.items())}
        mean = sum(m["auroc"] for m in ood.values()) / max(len(ood), 1)
        seed = {"seed": number, "run": f"run-{number}", "accuracy": auroc - 20, "ood": ood, "scores": {}}
        if sets:
            seed |= {"average": metrics_of(mean), "average_near": metrics_of(auroc)}
            seed["scores"] = {s: metrics_of(mean - k) for k, s in enumerate(("energy", "msp", "energy_region_unknown"))}
        seeds.append(seed)
    row = {"row": name, "name": name, "score": "energy", "grid_point": {}, "baseline": False, "group": "", "value": ""}
    return row | {"seeds": seeds, "mean": spread_all(seeds)} | changes


def compared(rows: list[dict[str, Any]], reference: int = 0) -> list[dict[str, Any]]:
    """The rows with their differences to one of them; the interval is the difference ± 1."""
    for row in rows:
        if row is not rows[reference] and "average" in row["mean"]:
            auroc = row["mean"]["average"]["auroc"]["mean"] - rows[reference]["mean"]["average"]["auroc"]["mean"]
            row["difference"] = {"to": rows[reference]["name"], "auroc": auroc, "low": auroc - 1, "high": auroc + 1}
    return rows


def outcome_of(*grid_points: list[dict[str, Any]]) -> dict[str, Any]:
    """An outcome with these rows at each grid point."""
    tests = {"id": {"name": "zoo", "n": 1000}, "limit_per_set": None}
    points = [{"tests": tests, "rows": rows} for rows in grid_points]
    return {"schema": 1, "name": "my_grid", "title": "Some methods & more", "reference": "", "grid_points": points}


def usual_rows(**changes: Any) -> list[dict[str, Any]]:
    """A baseline, a better row, and the same row again."""
    rows = [grid_row("base", (90.0, 92.0), baseline=True, **changes)]
    return compared([*rows, grid_row(LONG, (94.0, 95.0), **changes), grid_row("again_", (94.0, 95.0), **changes)])
