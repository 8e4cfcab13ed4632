"""Weights & Biases: losses by step, and of a test the results table, ROC curves, score histograms and heat maps."""

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
    """Configure the metrics of W&B at the start of a fit, and finish the run at its end."""

    @rank_zero_only
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plot metrics against the training step; the summary keeps the last loss and the best validation metrics."""
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.define_metric("trainer/global_step")
                logger.experiment.define_metric("train/*", step_metric="trainer/global_step", summary="last")
                logger.experiment.define_metric("val/*", step_metric="trainer/global_step", summary="max")

    @rank_zero_only
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write everything before the command ends."""
        if any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            wandb.finish()


def log_report(
    run: Any, report: Mapping[str, Any], results: Results, galleries: Mapping[str, Sequence[Example]]
) -> None:
    """Log a test: results table, summary, ROC curves, score histograms, and images with their heat maps.

    Args:
        run: the run of W&B.
        report: as in report.json.
        results: test set to column to values; the ID test set is called ``id``.
        galleries: from :func:`~.gallery.draw_pictures`; missing ones are left out.
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
    captions = {
        "classes": "The first ID test image of each class, with its maps for the predicted class",
        "outside": f"OOD images with the highest {headline}, with their maps for the predicted class",
    }
    for kind, caption in captions.items():
        rows = [(example.caption, example.panels) for example in galleries.get(kind, [])]
        if rows:
            run.log({f"pictures/{kind}": wandb.Image(panel_figure(rows), caption=caption)})


def table_rows(report: Mapping[str, Any], trained: bool) -> list[list[Any]]:
    """The results table: a row for each detector, OOD set and score, with the columns RESULT_COLUMNS."""
    detectors = {"trained": report, "zero-shot": report["zero_shot"]} if trained else {"zero-shot": report}
    return [
        [detector, name, score, *(metrics[m] for m in OOD_METRICS), part["id"]["n"], metrics["n"]]
        for detector, part in detectors.items()
        for name, scores in part["ood"].items()
        for score, metrics in scores.items()
    ]


def roc_plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str) -> Any:
    """ROC curves with ID as the positive class.

    Args:
        curves: detector to (ID scores, OOD scores).
        title: of the plot.
    """
    points = {name: roc_points(inside, outside) for name, (inside, outside) in curves.items()}
    xs, ys = ([curve[:, axis].tolist() for curve in points.values()] for axis in (0, 1))
    return wandb.plot.line_series(xs, ys, keys=list(points), title=title, xname="OOD accepted, %")


def has_wandb_key() -> bool:
    """Whether W&B's client finds credentials without asking: in the environment, or from ``wandb login``."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    if os.environ.get("WANDB_API_KEY"):
        return True
    with suppress(OSError, netrc.NetrcParseError):
        return bool(netrc.netrc(os.environ.get("NETRC")).authenticators(host))
    return False


def configure_wandb(logger: Logger, folder: Path) -> None:
    """Let W&B write into the run's folder, and record offline instead of asking for a login if it has no credentials.

    Args:
        logger: nothing is done if it is not a WandbLogger.
        folder: of the run.
    """
    if not isinstance(logger, WandbLogger):
        return
    logger._save_dir = logger._wandb_init["dir"] = str(folder)
    if not os.environ.get("WANDB_MODE") and not logger._offline and not has_wandb_key():
        logger._offline, logger._wandb_init["mode"] = True, "offline"
        print_once(
            "W&B: no credentials found, so the run is recorded offline; to upload it: wandb login; "
            f"wandb sync {folder}/wandb/offline-run-*"
        )
