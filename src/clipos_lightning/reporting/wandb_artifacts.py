"""Detectors as artifacts of Weights & Biases, and the link from a run to the fit that made its detector."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import wandb

from ..errors import InputError
from ..options.schema import Fields, find_problem
from ..options.text_files import read_json
from ..utils.progress import print_once
from ..utils.versions import PROVENANCE
from .wandb_session import NO_UPLOAD, one_line, within

ARTIFACT = "detector"  # name and type
FIT_FILES = ("last.ckpt", "shots.json", "config.yaml")  # of a run's folder
LINK_SECONDS = 30.0  # for finding an artifact on the server
RUN_RECORD = Fields({"project": str, "run": str}, {name: str | None for name in ("entity", "group", "url")})

Record = Mapping[str, Any]  # of a run: project, run (its ID), entity, group, url; "wandb" in its provenance.json


def run_record(run: Any) -> dict[str, Any]:
    """What other runs need to refer to a run: entity and URL are None if it is recorded offline."""
    record = {"project": run.project, "run": run.id, "group": run.group, "entity": run.entity, "url": run.url}
    return {name: value or None for name, value in record.items()}


def fit_record(checkpoint: Path) -> dict[str, Any] | None:
    """The record of the run that wrote a checkpoint; None: it was not logged to W&B, or its folder has no valid record.

    Args:
        checkpoint: in the folder of its run.
    """
    try:
        provenance = read_json(checkpoint.parent / PROVENANCE, "cannot read")
    except InputError:
        return None
    record = provenance.get("wandb") if isinstance(provenance, dict) else None
    return None if record is None or find_problem(record, RUN_RECORD) else record


def run_path(record: Record) -> str:
    """The path of a run in W&B's API.

    Example:
        >>> run_path({"entity": None, "project": "clipos", "run": "x1"})
        'clipos/x1'
    """
    return "/".join(filter(None, (record.get("entity"), record["project"], record["run"])))


def artifact_of(record: Record) -> str:
    """The artifact that a fit logged: an alias names its run, so that no answer of the server is needed for it.

    Example:
        >>> artifact_of({"entity": "me", "project": "clipos", "run": "x1"})
        'me/clipos/detector:run-x1'
    """
    project = run_path(record).rpartition("/")[0]
    return f"{project}/{ARTIFACT}:run-{record['run']}"


def detector_artifact(files: Sequence[Path], metadata: Mapping[str, Any]) -> Any:
    """An artifact of files, which are uploaded from where they are, without a copy.

    Args:
        files: of one detector.
        metadata: plain data about it.
    """
    artifact = wandb.Artifact(ARTIFACT, type=ARTIFACT, metadata=dict(metadata))
    for file in files:
        artifact.add_file(str(file.absolute()), policy="immutable")
    return artifact


def log_detector(run: Any, files: Sequence[Path], metadata: Mapping[str, Any]) -> None:
    """Log the files of a detector as the next version of the artifact ``detector``, with the alias ``run-<ID>``."""
    run.log_artifact(detector_artifact(files, metadata), aliases=["latest", f"run-{run.id}"])


def sha256_of(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_source(file: Path | None, record: Record | None) -> dict[str, Any]:
    """The lineage of a detector as configuration, which offline runs have, too.

    Args:
        file: of the detector; None: it is not on this machine.
        record: of the fit's run; None: unknown.
    """
    found = {} if file is None else {"detector_sha256": sha256_of(file)}
    return found if record is None else {**found, "fit_run": record.get("url") or run_path(record)}


def use_detector(run: Any, file: Path | None, record: Record | None) -> None:
    """Record that a run uses a detector: the version that its fit logged, or else the one with the file's content.

    An offline run cannot refer to artifacts of the server; see :func:`describe_source`.

    Args:
        run: that uses it.
        file: of the detector; None: it is not on this machine.
        record: of the fit's run; None: unknown.
    """
    if run.settings.mode in NO_UPLOAD or (record is None and file is None):
        return
    artifact = artifact_of(record) if record is not None else detector_artifact([Path(str(file))], {})
    try:
        within(LINK_SECONDS, lambda: run.use_artifact(artifact))
    except Exception as error:  # of W&B's client, which raises those of its parts too
        what = artifact if isinstance(artifact, str) else file
        problem = f"no answer within {LINK_SECONDS:.0f} s" if isinstance(error, TimeoutError) else one_line(error)
        print_once(f"W&B: the run does not use the artifact {what}: {problem}")
