"""Write checkpoints as whole files."""

from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from ..utils.files import atomic_write, make_folder


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there: the former file stays if the disk is full.

    Lightning's own goes by the folder for temporary files, and copies it from there if that is on another disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a local file atomically; Lightning writes to addresses such as ``s3://…``.

        Raises:
            OSError: the file cannot be written.
        """
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        content = BytesIO()
        torch.save(checkpoint, content)
        make_folder(Path(path).parent)
        with atomic_write(Path(path)) as partial:
            partial.write_bytes(content.getbuffer())
