"""Reading a checkpoint: what was trained, as configuration. Never unpickles anything but tensors and plain data."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from ..errors import InputError

NOT_OPTIONS = ("class_names", "class_wordings")  # of the model's hyper-parameters: linked from the data

RENAMED = {  # beginnings of dotted paths in checkpoints of version 0.1.0
    "clipos_lightning.losses.": "clipos_lightning.method.objectives.",
    "clipos_lightning.schedule.WarmupCosine": "clipos_lightning.WarmupCosine",
    "clipos_lightning.scores.": "clipos_lightning.evaluation.scores.",
}


def read_checkpoint(path: str) -> dict[str, Any]:
    """A checkpoint of ours from a local file.

    Raises:
        InputError: no such file (URLs are refused), not a checkpoint, not ours.
    """
    if not Path(path).is_file():
        raise InputError(f"no checkpoint {path!r}: give the last.ckpt of a `clipos fit` run, a local file")
    if not is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint: give the last.ckpt of a `clipos fit` run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken file raises nearly anything
        reason = (str(error).splitlines() or ["it is empty"])[0][:120]
        raise InputError(f"{path} is not a checkpoint that can be read safely: {reason}") from error
    if not isinstance(checkpoint, dict) or not {"clipos", "hyper_parameters", "state_dict"} <= checkpoint.keys():
        raise InputError(f"{path} was not written by clipos: give the last.ckpt of a `clipos fit` run")
    for part in ("clipos", "hyper_parameters"):
        checkpoint[part] = renamed(checkpoint[part])
    return checkpoint


def renamed(value: Any) -> Any:
    """Plain data with the dotted paths of 0.1.0 as they are now."""
    if isinstance(value, dict):
        return {key: renamed(item) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item) for item in value]
    if isinstance(value, str):
        for old, new in RENAMED.items():
            value = new + value.removeprefix(old) if value.startswith(old) else value
    return value


def model_options(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The model's options as they stood in training, with optimizer and schedule where they are recorded."""
    options = {k: v for k, v in checkpoint["hyper_parameters"].items() if k not in NOT_OPTIONS}
    return options | checkpoint["clipos"].get("recipe", {})


def data_options(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The data's options as they stood in training; the root is left to $CLIPOS_DATA where that is set.

    Raises:
        InputError: it was trained on something else than a FewShotOOD.
    """
    if "datamodule_hyper_parameters" not in checkpoint:
        raise InputError("the checkpoint does not say which few-shot images it was trained on")
    data = dict(checkpoint["datamodule_hyper_parameters"])
    if os.environ.get("CLIPOS_DATA"):
        data.pop("root", None)
    return data


@contextmanager
def known_options(path: str | Path) -> Iterator[None]:
    """Options of a file that this version does not know are said in one line."""
    try:
        yield
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} has options that this version does not know: {error}; update clipos-lightning"
        ) from error


def refuse_imports(path: str | Path, names: Iterable[Any]) -> None:
    """A file alone must not decide what is imported.

    Args:
        path: the file.
        names: scores and objectives that it names; those with a dot are imported by it.

    Raises:
        InputError: there is one.
    """
    dotted = [name for name in names if isinstance(name, str) and "." in name]
    if dotted:
        raise InputError(
            f"{path} wants {dotted[0]!r} imported, which runs code: if you trust the file, add --trust (in Python: "
            "trust=True)"
        )


def as_config(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as a configuration that later flags and configs override: model, data, seed."""
    data = data_options(checkpoint) if "datamodule_hyper_parameters" in checkpoint else {}
    seed = checkpoint["hyper_parameters"]["seed"]
    return {"seed_everything": seed, "model": model_options(checkpoint), "data": data}


def check_state(given: dict[str, Any], ours: dict[str, Any]) -> None:
    """The checkpoint holds every learned tensor and nothing else, each in its shape."""
    shapes, wanted = ({k: tuple(v.shape) for k, v in state.items()} for state in (given, ours))
    wrong = sorted(k for k in shapes.keys() | wanted.keys() if shapes.get(k) != wanted.get(k))
    if wrong:
        raise InputError(f"the checkpoint does not fit the model's options: {', '.join(wrong)} differ")
