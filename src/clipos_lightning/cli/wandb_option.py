"""``--wandb PROJECT`` of the commands on a detector."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..detector.detector import Detector
from ..options.messages import CommandParser


def add_wandb_option(parser: CommandParser, what: str) -> None:
    """Add ``--wandb``.

    Args:
        parser: of the command.
        what: the command logs.
    """
    parser.add_argument("--wandb", metavar="PROJECT", help=f"log {what} to this W&B project (docs/wandb.md)")


@contextmanager
def log_to_wandb(
    given: argparse.Namespace, command: str, detector: Detector, makes: bool = False
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Log a command to W&B if ``--wandb`` is given.

    Args:
        given: the options ``wandb``, ``file`` and ``out``.
        command: its name.
        detector: that it uses.
        makes: whether ``out`` is a new version of the detector.

    Yields:
        A function that takes figures for the summary of the run.
    """
    if given.wandb is None:
        yield lambda figures: None
        return
    from ..reporting.wandb_command import command_run  # imports wandb, which is slow

    out = None if given.out is None else Path(given.out)
    backbone, classes = detector.backbone, list(detector.class_names)
    metadata: dict[str, Any] = {"backbone": backbone.name, "fingerprint": backbone.fingerprint, "classes": classes}
    folder = Path() if out is None else out.parent
    metadata["score"] = detector.score
    with command_run(given.wandb, command, given.file, folder, metadata, out if makes else None) as log:
        yield log
