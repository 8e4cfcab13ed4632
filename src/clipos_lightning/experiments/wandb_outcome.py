"""Log a benchmark to Weights & Biases: one group per grid, one run per row and seed, one run for the tables."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from ..reporting.wandb_log import has_wandb_key
from .tables import body, by_grid_point, header


def log_outcome(project: str, outcome: Mapping[str, Any], folder: Path) -> None:
    """Log a benchmark: one group for the grid, one run for each row and seed, one run for the tables.

    Args:
        project: name of the W&B project; without credentials, runs are recorded offline in ``folder``.
        outcome: the contents of ``results.json``.
        folder: the benchmark's folder.
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
            title = f"{row['name']}, seed {seed['seed']}"
            with wandb.init(**common, name=title, job_type="run", config=config) as run:
                run.summary["id/accuracy"] = seed["accuracy"]
                for name, metrics in {**seed["ood"], "average": seed.get("average", {})}.items():
                    run.summary.update({f"{name}/{metric}": value for metric, value in metrics.items()})
    with wandb.init(**common, name="tables", job_type="tables") as run:
        for grid_point, rows in by_grid_point(outcome).items():
            columns = [column.replace("`", "") for column in header(rows)]
            run.log({f"results {grid_point}".strip(): wandb.Table(columns=columns, data=list(body(rows)))})
