"""The Weights & Biases dashboard: curves by step, the results as a table, ROC curves, histograms, heat maps."""

import netrc
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from ..evaluation.metrics import OOD_METRICS
from ..evaluation.results import Results
from ..utils.progress import print_once
from .charts import roc_points
from .heatmaps import Example, panel_figure
from .report import paired_scores

RESULT_COLUMNS = ["detector", "set", "score", *OOD_METRICS, "n_id", "n_ood"]


class Dashboard(Callback):
    """Sets up W&B's axes when a run starts."""

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Losses against the step; the summary keeps the last loss and the best AUROC."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("trainer/global_step")
                logger.experiment.define_metric("train/*", step_metric="trainer/global_step", summary="last")
                logger.experiment.define_metric("val/*", step_metric="trainer/global_step", summary="max")

    @rank_zero_only
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Everything is written before the command ends."""
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            wandb.finish()


def log_report(
    run: Any, report: Mapping[str, Any], results: Results, galleries: Mapping[str, Sequence[Example]]
) -> None:
    """Log a test: results table, summary, interactive ROC curves and histograms, heat maps, worst mistakes.

    Args:
        run: W&B's run.
        report: as written to report.json.
        results: the test tables.
        galleries: of :func:`gallery.draw_pictures`; those that are missing are left out.
    """
    headline, trained = report["headline"], bool(report["run"]["trained"])
    run.log({"results": wandb.Table(columns=RESULT_COLUMNS, data=table_rows(report, trained))})
    run.summary["id/accuracy"] = report["id"]["accuracy"]
    for score, metrics in report["average"].items():
        run.summary.update({f"average/{score}/{name}": value for name, value in metrics.items()})
    for name, curves in paired_scores(results, headline, trained).items():
        run.log({f"roc/{name}": roc_plot(curves, f"{name}: {headline}")})
    for name, columns in results.items():
        if headline in columns:
            run.log({f"scores/{name}": wandb.Histogram(columns[headline].tolist())})
    shown = {
        "classes": "ID test images: what the method thought belonged to the predicted class",
        "outside": f"OOD images with the highest {headline}: the worst mistakes",
    }
    for kind, caption in shown.items():
        rows = [(example.caption, example.panels) for example in galleries.get(kind, [])]
        if rows:
            run.log({f"pictures/{kind}": wandb.Image(panel_figure(rows), caption=caption)})


def table_rows(report: Mapping[str, Any], trained: bool) -> list[list[Any]]:
    """A row for each detector, OOD set and score."""
    detectors = {"trained": report, "zero-shot": report["zero_shot"]} if trained else {"zero-shot": report}
    return [
        [detector, name, score, *(metrics[m] for m in OOD_METRICS), part["id"]["n"], metrics["n"]]
        for detector, part in detectors.items()
        for name, scores in part["ood"].items()
        for score, metrics in scores.items()
    ]


def roc_plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Any:
    """Interactive ROC curves, ID positive: detector -> (ID scores, OOD scores)."""
    points = {name: roc_points(inside, outside) for name, (inside, outside) in curves.items()}
    xs, ys = ([found[:, axis].tolist() for found in points.values()] for axis in (0, 1))
    return wandb.plot.line_series(xs, ys, keys=list(points), title=title, xname="OOD accepted, %")


def has_wandb_key() -> bool:
    """Whether W&B's client would find credentials without asking: in the environment, or left by ``wandb login``."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        return bool(netrc.netrc(os.environ.get("NETRC")).authenticators(host))
    return False


def place_wandb(logger: Logger, folder: Path) -> None:
    """W&B's own files go into the run's folder; without credentials it records offline and never asks for a login."""
    if not isinstance(logger, WandbLogger):
        return
    logger._save_dir = logger._wandb_init["dir"] = str(folder)
    if not os.environ.get("WANDB_MODE") and not logger._offline and not has_wandb_key():
        logger._offline, logger._wandb_init["mode"] = True, "offline"
        print_once(
            f"W&B: no credentials, recorded offline; later: wandb login; wandb sync {folder}/wandb/offline-run-*"
        )
