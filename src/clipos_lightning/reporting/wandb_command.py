"""A run of Weights & Biases for a command on a detector: what it used, what it made, and its figures."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import wandb

from .wandb_artifacts import describe_source, fit_record, log_detector, sha256_of, use_detector
from .wandb_log import add_defaults, inherited
from .wandb_session import choose_mode, open_run, upload

Log = Callable[[Mapping[str, Any]], None]


def start_command(project: str, command: str, source: str, folder: Path, defaults: Mapping[str, Any]) -> Any:
    """Start the run of a command that uses a detector, offline if it cannot be uploaded.

    Args:
        project: of W&B.
        command: the kind of the run.
        source: the detector: a file, or ``hf:owner/name``.
        folder: in which W&B writes.
        defaults: arguments for ``wandb.init`` that W&B's settings may override.

    Raises:
        InputError: W&B refuses its settings.
    """
    file = Path(source) if Path(source).is_file() else None
    record = None if file is None else fit_record(file) if file.suffix == ".ckpt" else None
    options: dict[str, Any] = {"project": project, "dir": str(folder)}
    options["settings"] = wandb.Settings(silent=True, console="off")  # rows on stdout are not for W&B
    add_defaults(options, {**defaults, "job_type": command} | inherited(record, command))
    choose_mode(options, folder)
    run = open_run(lambda: wandb.init(**options), options, folder)
    run.config.update({"detector": source, **describe_source(file, record)})
    use_detector(run, file, record)
    return run


@contextmanager
def command_run(
    project: str, command: str, source: str, folder: Path, metadata: Mapping[str, Any], made: Path | None = None
) -> Iterator[Log]:
    """Log a command to W&B; its messages go to stderr.

    Args:
        project: of W&B.
        command: the kind of the run.
        source: the detector that the command uses: a file, or ``hf:owner/name``.
        folder: in which W&B writes.
        metadata: plain data about the detector, with its ``backbone``.
        made: the detector that the command writes; None: it writes none.

    Yields:
        A function that takes figures for the run's summary.
    """
    with redirect_stdout(sys.stderr):
        run = start_command(project, command, source, folder, {"tags": [metadata["backbone"]]})
    code = 1
    try:
        yield run.summary.update
        code = 0
    finally:
        with redirect_stdout(sys.stderr):
            if code == 0 and made is not None:
                run.config.update({"made_sha256": sha256_of(made)})
                upload(partial(log_detector, run, [made], metadata), folder)
            upload(partial(run.finish, exit_code=code), folder)
            if run.url:
                print(f"W&B: {run.url}")
