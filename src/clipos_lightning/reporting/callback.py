"""TestReport: the callback that writes the files of a test's report and prints its tables."""

from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from ..data.datamodule import ID, FewShotOOD
from ..errors import InputError
from ..evaluation.heads import PART_PREFIXES, ZERO_SHOT
from ..options.trainer_checks import check_whole_test
from ..training.checkpoint import read_checkpoint
from ..training.module import ClipOS
from ..utils.files import atomic_write, make_folder, write_json, write_text
from ..utils.versions import installed_versions
from .gallery import draw_pictures, labels_of
from .html import report_html
from .report import build_report, report_markdown
from .terminal import print_report


class TestReport(Callback):
    """A Lightning callback that reports a test of a :class:`ClipOS` on a :class:`FewShotOOD`.

    It writes ``scores.npz`` (the scores of every image), ``report.json``, ``report.md`` and ``report.html``, prints the
    tables, and logs to Weights & Biases if the Trainer has a WandbLogger.

    Args:
        folder: of the run; created if it does not exist.
        config: the run's configuration as plain data, stored in the report.
        command: the command line, stored in the report.
        verbose: print the tables of every score, not only the headline score.

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

    __test__ = False  # for pytest, which takes classes called Test… for tests

    def __init__(
        self, folder: Path, config: dict[str, Any] | None = None, command: str = "", verbose: bool = False
    ) -> None:
        self.folder, self.config, self.command, self.verbose = folder, config or {}, command, verbose

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the test is one that a report can be about.

        Raises:
            InputError: the Trainer tests a part of the images, or the module is not a :class:`ClipOS`.
        """
        if stage == "test":
            check_whole_test(trainer.fast_dev_run, trainer.limit_test_batches)  # type: ignore[attr-defined]
            if not isinstance(pl_module, ClipOS):
                raise InputError(f"TestReport reports a test of ClipOS, not of {type(pl_module).__name__}")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files and print the tables, on the first process; the results are gathered already."""
        if not trainer.is_global_zero:
            return
        module, data = pl_module, trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(module, ClipOS) and isinstance(data, FewShotOOD)
        make_folder(self.folder)
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
        print_report(report, self.verbose)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                from .wandb_log import ClassLabels, log_report  # imports wandb, which is slow

                predicted = module.results[ID]["predicted"].astype(np.int64)
                classes = ClassLabels(data.class_names, labels, predicted)
                log_report(logger.experiment, report, module.results, pictures, self.folder, classes)

    def run_record(self, module: ClipOS, data: FewShotOOD) -> dict[str, Any]:
        """Plain data about the run: versions, seed, command, weights, configuration."""
        return {
            "versions": installed_versions(),
            "seed": module.seed,
            "command": self.command,
            "trained": module.trained,
            "checkpoint": checkpoint_to_calibrate(module),
            "backbone": module.backbone.name,
            "fingerprints": {"backbone": module.backbone.fingerprint},
            "image_weight": module.image_weight,
            "limit_per_set": data.limit_per_set,
            "ood_resolution": data.ood_resolution,
            "background": data.decoding.background,
            "unreadable": data.left_out,
            "device": str(module.device),
            "config": self.config,
        }


def checkpoint_to_calibrate(module: ClipOS) -> str | None:
    """The tested checkpoint, if its own score is the tested one, so that a threshold of this test applies to it."""
    path = module.trainer.ckpt_path
    if path is None or read_checkpoint(str(path))["hyper_parameters"]["score"] != module.hparams["score"]:
        return None
    return str(path)


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
