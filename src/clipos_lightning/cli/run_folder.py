"""The folder of a run, the options written into it, and the data root in the commands that come next."""

import os
import shlex
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from ..utils.files import atomic_write, expand_home, new_run_folder
from ..utils.progress import process_rank

RUN_FOLDER = "CLIPOS_RUN_FOLDER"  # environment variable: the run's folder, for the other processes of DDP


class SaveConfig(SaveConfigCallback):
    """Write ``config.yaml`` into the run's folder, and pass the options to the loggers."""

    def __init__(self, parser: Any, config: Namespace, folder: Path, plain: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder, self.plain = folder, plain

    @rank_zero_only
    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Write the file atomically."""
        with atomic_write(self.folder / "config.yaml") as path:
            self.parser.save(self.config, path, skip_none=False, overwrite=True)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(self.plain)


def root_argument(root: Path) -> str:
    """The data root of a run, quoted for a shell, if $CLIPOS_DATA refers to another one; otherwise ""."""
    default = os.environ.get("CLIPOS_DATA")
    differs = default and Path(expand_home(default)).resolve() != root.resolve()
    return shlex.quote(str(root.absolute())) if differs else ""


def run_folder(root: Path, command: str) -> Path:
    """The run's folder: rank 0 creates it, the other processes get it from an environment variable."""
    if process_rank() != 0:
        return Path(os.environ.get(RUN_FOLDER, root / command))
    folder = new_run_folder(root, command)
    os.environ[RUN_FOLDER] = str(folder.absolute())
    return folder
