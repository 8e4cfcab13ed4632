"""TestReport: the callback that writes the files of a test's report and prints its tables."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table as RichTable

from ..data.datamodule import FewShotOOD
from ..evaluation.heads import PART_PREFIXES, ZERO_SHOT
from ..training.module import ClipOS
from ..utils.files import atomic_write, write_json, write_text
from .gallery import draw_pictures, labels_of
from .html import report_html
from .report import (
    HEADERS,
    ZERO_SHOT_METRICS,
    build_report,
    format_row,
    is_trained,
    report_markdown,
    report_title,
    set_tables,
    summary_lines,
)

PACKAGES = ("clipos-lightning", "torch", "torchvision", "lightning", "open_clip_torch", "torchmetrics", "numpy")


class TestReport(Callback):
    """A Lightning callback that reports a test of a :class:`ClipOS` on a :class:`FewShotOOD`.

    It writes ``scores.npz`` (the scores of every image), ``report.json``, ``report.md`` and ``report.html``, prints the
    tables, and logs to Weights & Biases if the Trainer has a WandbLogger.

    Args:
        folder: of the run; created if it does not exist.
        config: the run's configuration as plain data, stored in the report.
        command: the command line, stored in the report.

    Example:
        >>> import io, tempfile
        >>> from contextlib import redirect_stdout
        >>> from lightning.pytorch import Trainer
        >>> from clipos_lightning import ClipOS, ContextOptions, FewShotOOD, TestReport
        >>> data = FewShotOOD(id="scenes", ood_sets=["noise"], limit_per_set=10, num_workers=0)
        >>> model = ClipOS(data.class_names, "MicroCLIP", context=ContextOptions(words="a photo of a"))
        >>> folder = Path(tempfile.mkdtemp())
        >>> trainer = Trainer(accelerator="cpu", logger=False, callbacks=[TestReport(folder)])
        >>> with redirect_stdout(io.StringIO()):  # without the tables
        ...     _ = trainer.test(model, data, verbose=False)
        >>> sorted(path.name for path in folder.iterdir())
        ['report.html', 'report.json', 'report.md', 'scores.npz']
    """

    def __init__(self, folder: Path, config: dict[str, Any] | None = None, command: str = "") -> None:
        self.folder, self.config, self.command = folder, config or {}, command

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files and print the tables, on the first process; the results are gathered already."""
        module, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(module, ClipOS) and isinstance(data, FewShotOOD)
        self.folder.mkdir(parents=True, exist_ok=True)
        # scores first, so that a failure below does not lose them
        with atomic_write(self.folder / "scores.npz") as path, open(path, "wb") as file:
            np.savez_compressed(file, **score_arrays(module, data))
        labels = labels_of(data)
        run = self.run_record(module, data)
        grid = module.backbone.grid
        report = build_report(module.results, labels, data.ood_kinds, module.score, data.id_set.name, grid, run)
        pictures = draw_pictures(module, data)
        write_json(self.folder / "report.json", report)
        write_text(self.folder / "report.md", report_markdown(report))
        page = report_html(report, module.results, labels, data.class_names, pictures)
        write_text(self.folder / "report.html", page)
        print_report(report)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                from .wandb_log import log_report  # imports wandb, which is slow

                log_report(logger.experiment, report, module.results, pictures)

    def run_record(self, module: ClipOS, data: FewShotOOD) -> dict[str, Any]:
        """Plain data about the run: versions, seed, command, weights, configuration."""
        return {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "seed": module.seed,
            "command": self.command,
            "trained": module.trained,
            "backbone": module.backbone.name,
            "fingerprints": {"backbone": module.backbone.fingerprint},
            "image_weight": module.image_weight,
            "limit_per_set": data.limit_per_set,
            "ood_resolution": data.ood_resolution,
            "device": str(module.device),
            "config": self.config,
        }


def score_arrays(module: ClipOS, data: FewShotOOD) -> dict[str, Any]:
    """The arrays of ``scores.npz``, a row per image.

    They are ``<set>/paths``, ``<set>/labels`` (ID), ``<set>/predicted`` and ``<set>/<score>``. The other detectors of
    the test have a prefix: ``zero_shot/``, and with an image weight ``text/`` and ``images/``.
    """
    arrays: dict[str, Any] = {}
    for name, table in module.results.items():
        images, positions = data.test_sets[name]
        rows = sorted(positions)
        arrays[f"{name}/paths"] = np.array([images.keys[i] for i in rows])
        if images.labels is not None:
            arrays[f"{name}/labels"] = images.labels[rows]
        for column, values in table.items():
            if column.startswith("map/"):
                continue
            prefix = next((p for p in (ZERO_SHOT, *PART_PREFIXES.values()) if column.startswith(p)), "")
            kind = np.int64 if column.endswith("predicted") else np.float32
            arrays[f"{prefix}{name}/{column.removeprefix(prefix)}"] = values.astype(kind)
    return arrays


def print_report(report: dict[str, Any]) -> None:
    """Print the tables and the summary."""
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 124)
    trained = is_trained(report)
    for table in set_tables(report):
        view = RichTable(title=table["heading"], title_justify="left", title_style="bold")
        view.add_column("score", no_wrap=True)
        zero_shot_headers = [f"zero-shot\n{HEADERS[m]}" for m in ZERO_SHOT_METRICS if trained]
        for header in (*HEADERS.values(), *zero_shot_headers):
            view.add_column(header, justify="right", vertical="bottom")
        for score, metrics, zero_shot in table["rows"]:
            cells = format_row(metrics, zero_shot, trained)
            view.add_row(score, *cells, style="bold" if score == report["headline"] else None)
        console.print(view)
    console.print(report_title(report), style="bold")
    for line in summary_lines(report):
        console.print(f"  {line}", highlight=False, markup=False)
