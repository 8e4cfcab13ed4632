"""Callbacks that write the last checkpoint and the list of few-shot images."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from ..data.datamodule import FewShotOOD
from ..utils.files import write_json


class LastCheckpoint(Checkpoint):
    """Write ``last.ckpt`` when training ends or is interrupted.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "last.ckpt"

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the checkpoint; every process must call this, the first one writes."""
        trainer.save_checkpoint(self.path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the checkpoint after Ctrl-C; not with several processes, which would have to stop together."""
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1 and trainer.global_step:
            trainer.save_checkpoint(self.path)


class ShotsManifest(Callback):
    """Write ``shots.json``: the few-shot images of each class, and a digest of the list.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @rank_zero_only
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file; a test whose training images are missing has none."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, FewShotOOD) and data.shot_positions:
            write_json(self.folder / "shots.json", data.manifest())
