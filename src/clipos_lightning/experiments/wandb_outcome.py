"""A benchmark on Weights & Biases: a group for the grid, a run for each row and seed, the tables."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from ..reporting.wandb_log import has_wandb_key
from .tables import body, by_grid_point, header


def log_outcome(project: str, outcome: Mapping[str, Any], folder: Path) -> None:
    """A benchmark's outcome: one group for the grid, one run for each row and seed, one for the tables.

    Args:
        project: W&B's project; without credentials everything is recorded offline, below the folder.
        outcome: as written to results.json.
        folder: of the benchmark.
    """
    common: dict[str, Any] = {"project": project, "group": outcome["name"], "dir": str(folder)}
    common |= {"reinit": "finish_previous", "settings": wandb.Settings(silent=True)}
    if not os.environ.get("WANDB_MODE") and not has_wandb_key():
        common["mode"] = "offline"
    for row in (row for grid_point in outcome["grid_points"] for row in grid_point["rows"]):
        for seed in row["seeds"]:
            config = (
                {k: row[k] for k in ("row", "name", "score")}
                | {k: seed[k] for k in ("seed", "run")}
                | row["grid_point"]
            )
            name = f"{row['name']}, seed {seed['seed']}"
            with wandb.init(**common, name=name, job_type="run", config=config) as run:
                run.summary["id/accuracy"] = seed["accuracy"]
                for place, metrics in {**seed["ood"], "average": seed.get("average", {})}.items():
                    run.summary.update({f"{place}/{metric}": value for metric, value in metrics.items()})
    with wandb.init(**common, name="tables", job_type="tables") as run:
        for grid_point, rows in by_grid_point(outcome).items():
            columns = [column.replace("`", "") for column in header(rows)]
            run.log({f"results {grid_point}".strip(): wandb.Table(columns=columns, data=list(body(rows)))})
