"""Log a benchmark to Weights & Biases: one group per grid, one run per row and seed, one run for the tables."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb

from ..reporting.wandb_session import choose_mode, open_run, upload
from .tables import body, by_grid_point, header


def log_outcome(project: str, outcome: Mapping[str, Any], folder: Path) -> None:
    """Log a benchmark: one group for the grid, one run for each row and seed, one run for the tables.

    Args:
        project: name of the W&B project; if W&B cannot be signed in to, runs are recorded offline in ``folder``.
        outcome: the contents of ``results.json``.
        folder: the benchmark's folder.
    """
    common: dict[str, Any] = {"project": project, "group": outcome["name"], "dir": str(folder)}
    common |= {"reinit": "finish_previous", "settings": wandb.Settings(silent=True)}
    choose_mode(common, folder)
    for row in (row for grid_point in outcome["grid_points"] for row in grid_point["rows"]):
        for seed in row["seeds"]:
            config = (
                {k: row[k] for k in ("row", "name", "score")}
                | {k: seed[k] for k in ("seed", "run")}
                | row["grid_point"]
            )
            fields = {"name": f"{row['name']}, seed {seed['seed']}", "job_type": "run", "config": config}
            log_run(common, fields, folder, summary=seed_summary(seed))
    log_run(common, {"name": "tables", "job_type": "tables"}, folder, tables=tables_of(outcome))


def log_run(
    common: dict[str, Any],
    fields: Mapping[str, Any],
    folder: Path,
    summary: Mapping[str, float] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> None:
    """Log one run from its start to its end.

    Args:
        common: for ``wandb.init``, of all runs; changed to offline if the server refuses this one.
        fields: for ``wandb.init``, of this run.
        folder: in which W&B writes.
        summary: of the run.
        tables: by name.
    """
    run = open_run(lambda: wandb.init(**common, **fields), common, folder)

    def send() -> None:
        run.summary.update(dict(summary or {}))
        for name, table in (tables or {}).items():
            run.log({name: table})
        run.finish()

    upload(send, folder)


def seed_summary(seed: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one run: ID accuracy, and every metric of every OOD set and of their average."""
    metrics = {
        f"{name}/{metric}": value
        for name, metrics in {**seed["ood"], "average": seed.get("average", {})}.items()
        for metric, value in metrics.items()
    }
    return {"id/accuracy": seed["accuracy"], **metrics}


def tables_of(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a benchmark by name, one for each grid point."""
    tables = {}
    for grid_point, rows in by_grid_point(outcome).items():
        columns = [column.replace("`", "") for column in header(rows)]
        tables[f"results {grid_point}".strip()] = wandb.Table(columns=columns, data=list(body(rows)))
    return tables
