"""Weights & Biases: losses by step, the detector of a fit, and of a test its tables, curves and heat maps."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from numpy.typing import NDArray

from ..evaluation.metrics import OOD_METRICS
from ..evaluation.results import Results
from ..training.module import ClipOS
from ..utils.progress import process_rank
from .charts import precision_recall_points, roc_points
from .heatmaps import Example, enlarge, map_pixels, panel_figure
from .report import paired_scores
from .wandb_artifacts import (
    FIT_FILES,
    Record,
    describe_source,
    fit_record,
    log_detector,
    run_path,
    run_record,
    use_detector,
)
from .wandb_defaults import Options, run_defaults
from .wandb_session import choose_mode, open_run, upload, wandb_settings

STEP = "trainer/global_step"
BEST = {"val/accuracy": "max"} | {  # which value of a validation metric the summary keeps
    f"val/outliers/{name}": "min" if name.startswith("fpr") else "max" for name in OOD_METRICS
}
RESULT_COLUMNS = ["detector", "set", "score", *OOD_METRICS, "n_id", "n_ood"]
MISTAKE_COLUMNS = ["image", "map", "name", "set", "class", "predicted", "score", "probability", "decision"]
MISTAKES = {"rejected": "rejected ID", "confused": "accepted, wrong class", "outside": "accepted OOD"}  # by gallery
MAX_CLASSES = 50  # of a confusion matrix


class Dashboard(Callback):
    """Configure the metrics of W&B at the start of a run, log the detector of a fit, and finish the run.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Plot metrics against the training step; the summary keeps the best validation metrics, otherwise the last.

        W&B keeps the best value only of metrics that are named one by one, without ``*``.
        """
        for run in runs_of(trainer):
            run.define_metric(STEP)
            run.define_metric("train/*", step_metric=STEP)
            for name, best in BEST.items():
                run.define_metric(name, step_metric=STEP, summary=best)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Log the detector that a fit has written, and write everything before the command ends."""
        for run in runs_of(trainer):
            files = [self.folder / name for name in FIT_FILES if (self.folder / name).is_file()]
            if stage == "fit" and isinstance(pl_module, ClipOS) and files:
                upload(partial(log_detector, run, files, detector_metadata(pl_module)), self.folder)
            upload(wandb.finish, self.folder)


def runs_of(trainer: Trainer) -> list[Any]:
    """The W&B runs of a Trainer, on the first process."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]


def wandb_records(loggers: Sequence[Logger]) -> dict[str, Any]:
    """``{"wandb": record}`` of the run of the first WandbLogger, from which later runs find it; {} without one."""
    runs = [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]
    return {"wandb": run_record(runs[0])} if runs else {}


def detector_metadata(module: ClipOS) -> dict[str, Any]:
    """What the artifact of a detector says about it."""
    return {
        "backbone": module.backbone.name,
        "fingerprint": module.backbone.fingerprint,
        "classes": list(module.class_names),
        "score": module.score,
        "image_weight": module.image_weight,
        "seed": module.seed,
    }


@dataclass(frozen=True)
class ClassLabels:
    """True and predicted classes of the ID test images.

    Attributes:
        names: of the C classes.
        true: index of each image's class, (N,).
        predicted: index of the class that the detector chose, (N,).
    """

    names: Sequence[str]
    true: NDArray[np.integer]
    predicted: NDArray[np.integer]


def log_report(
    run: Any,
    report: Mapping[str, Any],
    results: Results,
    galleries: Mapping[str, Sequence[Example]],
    folder: Path,
    classes: ClassLabels,
) -> None:
    """Log a test: tables, summary, curves, score histograms, and images with their heat maps.

    Args:
        run: the run of W&B.
        report: as in report.json.
        results: test set to column to values; the ID test set is called ``id``.
        galleries: from :func:`~.gallery.draw_pictures`; missing ones are left out.
        folder: of the run.
        classes: of the ID test images.
    """
    summary = {"id/accuracy": report["id"]["accuracy"]} | {
        f"average/{score}/{name}": value
        for score, metrics in report["average"].items()
        for name, value in metrics.items()
    }
    media = curves_of(report, results) | pictures_of(report, galleries) | confusion_of(classes)

    def send() -> None:
        run.summary.update(summary)
        for name, item in media.items():
            run.log({name: item})

    upload(send, folder)


def curves_of(report: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """The results table, ROC and precision-recall curves, and score histograms of a test, by name."""
    headline, trained = report["headline"], bool(report["run"]["trained"])
    media: dict[str, Any] = {"results": wandb.Table(columns=RESULT_COLUMNS, data=table_rows(report, trained))}
    for name, curves in paired_scores(results, headline, trained).items():
        media[f"roc/{name}"] = curve_plot(curves, roc_points, f"{name}: {headline}", "OOD accepted, %")
        media[f"pr/{name}"] = curve_plot(curves, precision_recall_points, f"{name}: {headline}, precision", "recall, %")
    for name, columns in results.items():
        if headline in columns:
            media[f"scores/{name}"] = wandb.Histogram(columns[headline].tolist())
    return media


def pictures_of(report: Mapping[str, Any], galleries: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """The heat maps and the table of mistakes of a test, by name; what there are no images for is left out."""
    captions = {
        "classes": "The first ID test image of each class, with its maps for the predicted class",
        "outside": f"OOD images with the highest {report['headline']}, with their maps for the predicted class",
    }
    media: dict[str, Any] = {}
    for kind, caption in captions.items():
        rows = [(example.caption, example.panels) for example in galleries.get(kind, [])]
        if rows:
            media[f"pictures/{kind}"] = wandb.Image(panel_figure(rows), caption=caption)
    mistakes = mistake_rows(galleries, report["operating"]["threshold"])
    if mistakes:
        data = [
            [wandb.Image(example.image), wandb.Image(enlarge(map_pixels(example.surgery))), *cells]
            for example, cells in mistakes
        ]
        media["mistakes"] = wandb.Table(columns=MISTAKE_COLUMNS, data=data)
    return media


def mistake_rows(
    galleries: Mapping[str, Sequence[Example]], threshold: float
) -> list[tuple[Example, list[str | float | None]]]:
    """The report's worst mistakes at a threshold: each image with the cells after its picture and map.

    Args:
        galleries: from :func:`~.gallery.draw_pictures`, with at most a dozen images each.
        threshold: images with at least this score are accepted.
    """
    rows: list[tuple[Example, list[str | float | None]]] = []
    for kind, decision in MISTAKES.items():
        for example in galleries.get(kind, []):
            if kind == "outside" and example.score < threshold:
                continue  # an OOD image that is rejected is no mistake
            data, true = (example.origin, None) if kind == "outside" else ("id", example.origin)
            cells = [example.key, data, true, example.predicted, example.score, example.probability, decision]
            rows.append((example, cells))
    return rows


def confusion_of(classes: ClassLabels) -> dict[str, Any]:
    """The confusion matrix of the ID test images, as a plot by name; none with more than 50 classes.

    W&B's plot holds a row for each pair of classes.
    """
    if not 1 < len(classes.names) <= MAX_CLASSES:
        return {}
    true, predicted, names = classes.true.tolist(), classes.predicted.tolist(), list(classes.names)
    title = "ID test images by class"
    return {"confusion": wandb.plot.confusion_matrix(y_true=true, preds=predicted, class_names=names, title=title)}


def table_rows(report: Mapping[str, Any], trained: bool) -> list[list[Any]]:
    """The results table: a row for each detector, OOD set and score, with the columns RESULT_COLUMNS."""
    detectors = {"trained": report, "zero-shot": report["zero_shot"]} if trained else {"zero-shot": report}
    return [
        [detector, name, score, *(metrics[m] for m in OOD_METRICS), part["id"]["n"], metrics["n"]]
        for detector, part in detectors.items()
        for name, scores in part["ood"].items()
        for score, metrics in scores.items()
    ]


def curve_plot(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    points_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    title: str,
    x_name: str,
) -> Any:
    """ROC or precision-recall curves with ID as the positive class.

    Args:
        curves: detector to (ID scores, OOD scores).
        points_of: from such scores to points (x, y), (K, 2).
        title: of the plot.
        x_name: of the x axis.
    """
    points = {name: points_of(inside, outside) for name, (inside, outside) in curves.items()}
    xs, ys = ([curve[:, axis].tolist() for curve in points.values()] for axis in (0, 1))
    return wandb.plot.line_series(xs, ys, keys=list(points), title=title, xname=x_name)


def start_wandb(
    logger: Logger, folder: Path, command: str, options: Options | None = None, checkpoint: Path | None = None
) -> None:
    """Let W&B write into the run's folder, and start its run on rank 0: offline, if it cannot upload.

    What the user gives, as an option of the logger or in W&B's settings, is kept.

    Args:
        logger: of the Trainer; nothing is done if it is not a WandbLogger.
        folder: of the run.
        command: the kind of the run in W&B.
        options: of model, data and trainer, as plain data, for the run's group and tags; None: it gets none.
        checkpoint: whose detector is validated or tested.

    Raises:
        InputError: W&B refuses its settings or the logger's options.
    """
    if not isinstance(logger, WandbLogger):
        return
    given = logger._wandb_init
    logger._save_dir = given["dir"] = str(folder)
    if given.get("anonymous") is None:
        given.pop("anonymous", None)  # recent versions of W&B warn about it
    if process_rank() != 0:
        return
    trained = command == "fit" or checkpoint is not None
    record = None if checkpoint is None else fit_record(checkpoint)
    defaults = {"job_type": command} | (run_defaults(options, trained) if options else {})
    add_defaults(given, defaults | inherited(record, command))
    if logger._offline:
        given["mode"] = "offline"  # Lightning sets a variable, which comes after W&B has read its settings
    choose_mode(given, folder)
    run = open_run(lambda: logger.experiment, given, folder)
    if checkpoint is not None:
        run.config.update(describe_source(checkpoint, record), allow_val_change=True)
        use_detector(run, None, record)


def add_defaults(given: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Add arguments for ``wandb.init`` that neither the user's options nor W&B's settings have."""
    settings = wandb_settings()
    for name, value in defaults.items():
        given[name] = given.get(name) or getattr(settings, f"run_{name}", None) or value


def inherited(record: Record | None, command: str) -> dict[str, Any]:
    """Group and notes of a run that uses the detector of a fit's run."""
    if record is None:
        return {}
    notes = {"notes": f"{command} of the detector of {record.get('url') or run_path(record)}"}
    return notes | ({"group": record["group"]} if record.get("group") else {})
