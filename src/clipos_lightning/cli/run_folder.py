"""The folder of a run, the options written into it, and the data root in the commands that come next."""

import os
import shlex
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger

from ..utils.files import atomic_write, expand_home, new_run_folder, write_json
from ..utils.peers import Peers
from ..utils.versions import PROVENANCE, installed_versions


class SaveConfig(SaveConfigCallback):
    """Write ``config.yaml`` and ``provenance.json`` into the run's folder, and pass the options to the loggers."""

    def __init__(
        self, parser: Any, config: Namespace, folder: Path, plain: dict[str, Any], command: str, **kwargs: Any
    ) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder, self.plain, self.command = folder, plain, command

    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Write the files atomically; Lightning calls this on the first process only."""
        with atomic_write(self.folder / "config.yaml") as path:
            self.parser.save(self.config, path, skip_none=False, overwrite=True)
        provenance: dict[str, Any] = {"command": self.command, "versions": installed_versions()}
        provenance["fingerprint"] = pl_module.backbone.fingerprint
        provenance["device"] = str(trainer.strategy.root_device)
        if len(trainer.loggers) > 1:
            from ..reporting.wandb_log import wandb_records  # imports wandb, which is slow

            provenance |= wandb_records(trainer.loggers)
        write_json(self.folder / PROVENANCE, provenance)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(self.plain)


def root_argument(root: Path) -> str:
    """The data root of a run, quoted for a shell, if $CLIPOS_DATA refers to another one; otherwise ""."""
    default = os.environ.get("CLIPOS_DATA")
    differs = default and Path(expand_home(default)).resolve() != root.resolve()
    return shlex.quote(str(root.absolute())) if differs else ""


def run_folder(root: Path, command: str, peers: Peers | None) -> Path:
    """The run's folder: process 0 creates it, and the others get its path."""
    if peers is None:
        return new_run_folder(root, command)
    return Path(peers.share("folder", lambda: str(new_run_folder(root, command))))
