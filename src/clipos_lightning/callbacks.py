"""What a run leaves behind: the few-shot manifest, the last checkpoint, the report."""

import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.table import Table as RichTable

from . import figures
from .data.datamodule import ID, FewShotOOD
from .data.sets import ImageSet, ModelSizeImages
from .files import whole, write_json, write_text
from .heads import ZERO_SHOT
from .module import ClipOS
from .report import HEADERS, build_report, cell, is_trained, set_tables, summary_lines, title, to_html, to_markdown

PACKAGES = ("clipos-lightning", "torch", "torchvision", "lightning", "open_clip_torch", "torchmetrics", "numpy")


class LastCheckpoint(Checkpoint):
    """Writes ``last.ckpt`` into the run's folder when training ends, or is interrupted."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """All processes take part; the first writes."""
        trainer.save_checkpoint(self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ctrl-C during training: keep what was learned (one process only: others may not come along)."""
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1 and trainer.global_step:
            trainer.save_checkpoint(self.path)


class ShotsManifest(Callback):
    """Writes ``shots.json``: which images the detector learned from, with a digest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @rank_zero_only
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The DataModule has drawn; where training images are not at hand, a test goes without."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, FewShotOOD) and data.drawn:
            write_json(self.folder / "shots.json", data.manifest())


class TestReport(Callback):
    """Writes ``scores.npz``, ``report.json``, ``report.md`` and ``report.html``, and prints the tables.

    Args:
        folder: of the run.
        config: the run's configuration as plain data, recorded in the report.
        command: the command line, recorded too.
    """

    def __init__(self, folder: Path, config: dict[str, Any] | None = None, command: str = "") -> None:
        self.folder, self.config, self.command = folder, config or {}, command

    @rank_zero_only
    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Results are gathered; the first process writes."""
        module, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(module, ClipOS) and isinstance(data, FewShotOOD)
        images, positions = data.tests[ID]
        assert images.labels is not None
        labels = images.labels[sorted(positions)]
        run = self.run_record(module, data)
        args = (data.ood_kinds, module.score, data.id_set.name, module.backbone.grid, run)
        self.folder.mkdir(parents=True, exist_ok=True)
        report = build_report(module.results, labels, *args)
        pictures = draw_pictures(module, data)
        with whole(self.folder / "scores.npz") as path, open(path, "wb") as file:
            np.savez_compressed(file, **score_arrays(module, data))
        write_json(self.folder / "report.json", report)
        write_text(self.folder / "report.md", to_markdown(report))
        uris = {caption: figures.data_uri(figure) for caption, figure in pictures.items()}
        write_text(self.folder / "report.html", to_html(report, uris))
        print_report(report)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                from .dashboard import log_report  # imports wandb, which is slow

                log_report(logger.experiment, report, module.results, pictures)

    def run_record(self, module: ClipOS, data: FewShotOOD) -> dict[str, Any]:
        """Versions, seed, command, fingerprints, configuration."""
        return {
            "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            "seed": module.seed,
            "command": self.command,
            "trained": module.trained,
            "backbone": module.backbone.name,
            "fingerprints": {"backbone": module.backbone.fingerprint},
            "limit_per_set": data.limit_per_set,
            "device": str(module.device),
            "config": self.config,
        }


def score_arrays(module: ClipOS, data: FewShotOOD) -> dict[str, Any]:
    """Every score of every image: ``<set>/paths``, ``<set>/labels``, ``<set>/<score>``, ``zero_shot/<set>/<score>``."""
    arrays: dict[str, Any] = {}
    for name, table in module.results.items():
        images, positions = data.tests[name]
        rows = sorted(positions)
        arrays[f"{name}/paths"] = np.array([images.keys[i] for i in rows])
        if images.labels is not None:
            arrays[f"{name}/labels"] = images.labels[rows]
        for column, values in table.items():
            if column.startswith("map/"):
                continue
            prefix = ZERO_SHOT if column.startswith(ZERO_SHOT) else ""
            kind = np.int64 if column.endswith("predicted") else np.float32
            arrays[f"{prefix}{name}/{column.removeprefix(prefix)}"] = values.astype(kind)
    return arrays


def draw_pictures(module: ClipOS, data: FewShotOOD) -> dict[str, Any]:
    """Caption to figure: ROC curves, histograms, the gallery, the most convincing mistakes."""
    pictures: dict[str, Any] = {}
    results, score = module.results, module.score
    ood = [name for name in results if name != ID]
    if score in results[ID] and ood:
        detectors = {"trained": "", "zero-shot": ZERO_SHOT} if module.trained else {"zero-shot": ""}
        curves = {
            name: {
                label: (results[ID][p + score], results[name][p + score])
                for label, p in detectors.items()
                if p + score in results[ID]
            }
            for name in ood
        }
        pictures[f"ROC curves of {score}, ID positive"] = figures.roc_curves(curves)
        outside = {name: results[name][score] for name in ood}
        pictures[f"{score} on ID and OOD images (higher = more ID)"] = figures.histograms(
            results[ID][score], outside, score
        )
    pictures["ID test images: what the method thought belonged to the predicted class"] = figures.gallery(
        id_examples(module, data)
    )
    if score in results[ID] and ood:
        caption = f"OOD images with the highest {score}: the most convincing mistakes, and their ID-relevant patches"
        pictures[caption] = figures.strip(worst_mistakes(module, data, ood))
    return pictures


def id_examples(module: ClipOS, data: FewShotOOD) -> list[figures.Example]:
    """The first test image of each class, at most ten."""
    images, positions = data.tests[ID]
    assert images.labels is not None
    first: dict[int, int] = {}
    for position in positions:
        first.setdefault(int(images.labels[position]), position)
    chosen = [first[label] for label in sorted(first)][:10]
    return examples(module, data, images, chosen, [data.class_names[int(images.labels[p])] for p in chosen])


def worst_mistakes(module: ClipOS, data: FewShotOOD, ood: list[str], each: int = 2) -> list[figures.Example]:
    """The OOD images with the highest scores, ``each`` from every set."""
    found = []
    for name in ood[:5]:
        images, positions = data.tests[name]
        best = np.argsort(-module.results[name][module.score], kind="stable")[:each]
        rows = sorted(positions)
        found += examples(module, data, images, [rows[i] for i in best], [name] * len(best))
    return found


def examples(
    module: ClipOS, data: FewShotOOD, images: ImageSet, positions: list[int], captions: list[str]
) -> list[figures.Example]:
    """Images of a set with their maps for the predicted class."""
    sized = ModelSizeImages(images, positions, data.image_size)
    items = [sized[i] for i in range(len(positions))]
    seen = module.explain(torch.stack([item["image"] for item in items]).to(module.device))
    grid = module.backbone.grid
    found = []
    for i, (item, caption) in enumerate(zip(items, captions, strict=True)):
        s, clip, mask = (t[i].reshape(grid).cpu().numpy() for t in (seen.surgery, seen.clip, seen.mask))
        predicted = data.class_names[int(seen.predicted[i])]
        text = f"{caption}\n→ {predicted} {100 * float(seen.probability[i]):.0f} %"
        truth = item["mask"].numpy() if "mask" in item else None
        found.append(figures.Example(item["image"].permute(1, 2, 0).numpy(), s, clip, mask, text, truth))
    return found


def print_report(report: dict[str, Any]) -> None:
    """The tables on the terminal."""
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 124)
    trained = is_trained(report)
    for table in set_tables(report):
        view = RichTable(title=table["heading"], title_justify="left", title_style="bold")
        view.add_column("score", no_wrap=True)
        for header in [*HEADERS.values(), *(["zero-shot AUROC ↑", "FPR95 ↓", "AUPR-in ↑"] if trained else [])]:
            view.add_column(header, justify="right")
        for score, ours, theirs in table["rows"]:
            cells = [cell(ours, m) for m in HEADERS]
            cells += [cell(theirs, m) for m in ("auroc", "fpr95", "aupr_in")] if trained else []
            view.add_row(score, *cells, style="bold" if score == report["headline"] else None)
        console.print(view)
    console.print(title(report), style="bold")
    for line in summary_lines(report):
        console.print(f"  {line}", highlight=False)
