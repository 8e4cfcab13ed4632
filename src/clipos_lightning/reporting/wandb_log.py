"""Weights & Biases: losses by step, and of a test the results table, ROC curves, score histograms and heat maps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger

from ..evaluation.metrics import OOD_METRICS
from ..evaluation.results import Results
from ..utils.progress import process_rank
from .charts import roc_points
from .heatmaps import Example, panel_figure
from .report import paired_scores
from .wandb_session import choose_mode, open_run, upload, wandb_settings

RESULT_COLUMNS = ["detector", "set", "score", *OOD_METRICS, "n_id", "n_ood"]


class Dashboard(Callback):
    """Configure the metrics of W&B at the start of a run, and finish it at its end.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plot metrics against the training step; the summary keeps the last loss and the best validation metrics."""
        for logger in trainer.loggers:
            if trainer.is_global_zero and isinstance(logger, WandbLogger):
                logger.experiment.define_metric("trainer/global_step")
                logger.experiment.define_metric("train/*", step_metric="trainer/global_step", summary="last")
                logger.experiment.define_metric("val/*", step_metric="trainer/global_step", summary="max")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write everything before the command ends."""
        if trainer.is_global_zero and any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
            upload(wandb.finish, self.folder)


def log_report(
    run: Any, report: Mapping[str, Any], results: Results, galleries: Mapping[str, Sequence[Example]], folder: Path
) -> None:
    """Log a test: results table, summary, ROC curves, score histograms, and images with their heat maps.

    Args:
        run: the run of W&B.
        report: as in report.json.
        results: test set to column to values; the ID test set is called ``id``.
        galleries: from :func:`~.gallery.draw_pictures`; missing ones are left out.
        folder: of the run.
    """
    summary = {"id/accuracy": report["id"]["accuracy"]} | {
        f"average/{score}/{name}": value
        for score, metrics in report["average"].items()
        for name, value in metrics.items()
    }
    media = report_media(report, results, galleries)

    def send() -> None:
        run.summary.update(summary)
        for name, item in media.items():
            run.log({name: item})

    upload(send, folder)


def report_media(
    report: Mapping[str, Any], results: Results, galleries: Mapping[str, Sequence[Example]]
) -> dict[str, Any]:
    """What a test shows in W&B: name to table, plot, histogram or image; the arguments are those of log_report."""
    headline, trained = report["headline"], bool(report["run"]["trained"])
    media: dict[str, Any] = {"results": wandb.Table(columns=RESULT_COLUMNS, data=table_rows(report, trained))}
    for name, curves in paired_scores(results, headline, trained).items():
        media[f"roc/{name}"] = roc_plot(curves, f"{name}: {headline}")
    for name, columns in results.items():
        if headline in columns:
            media[f"scores/{name}"] = wandb.Histogram(columns[headline].tolist())
    captions = {
        "classes": "The first ID test image of each class, with its maps for the predicted class",
        "outside": f"OOD images with the highest {headline}, with their maps for the predicted class",
    }
    for kind, caption in captions.items():
        rows = [(example.caption, example.panels) for example in galleries.get(kind, [])]
        if rows:
            media[f"pictures/{kind}"] = wandb.Image(panel_figure(rows), caption=caption)
    return media


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


def start_wandb(logger: Logger, folder: Path, command: str) -> None:
    """Let W&B write into the run's folder, and start its run on rank 0: offline, if it cannot upload.

    Args:
        logger: of the Trainer; nothing is done if it is not a WandbLogger.
        folder: of the run.
        command: the kind of the run in W&B, unless the logger has one.

    Raises:
        InputError: W&B refuses its settings or the logger's options.
    """
    if not isinstance(logger, WandbLogger):
        return
    options = logger._wandb_init
    logger._save_dir = options["dir"] = str(folder)
    if options.get("anonymous") is None:
        options.pop("anonymous", None)  # recent versions of W&B warn about it
    if process_rank() == 0:
        options["job_type"] = options.get("job_type") or wandb_settings().run_job_type or command
        if logger._offline:
            options["mode"] = "offline"  # Lightning sets a variable, which comes after W&B has read its settings
        choose_mode(options, folder)
        open_run(lambda: logger.experiment, options, folder)
