"""What training leaves behind: the few-shot manifest and the last checkpoint."""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities import rank_zero_only

from ..data.datamodule import FewShotOOD
from ..utils.files import write_json


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
        if isinstance(data, FewShotOOD) and data.shot_positions:
            write_json(self.folder / "shots.json", data.manifest())
