"""Read a checkpoint, and its options as a configuration. Only tensors and plain data are unpickled."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch

from ..clip.surgery import SurgeryOptions
from ..errors import InputError
from ..evaluation.memory import invalid_tensors
from ..evaluation.scores import ScoreOptions
from ..method.mask import MaskOptions
from ..method.prompts import ContextOptions
from ..method.synthesis import SynthesisOptions
from ..options.class_paths import check_recipe

NOT_OPTIONS = ("class_names", "class_wordings")  # hyper-parameters of the model that come from the data

OPTION_GROUPS = {
    "surgery": SurgeryOptions,
    "mask": MaskOptions,
    "synthesis": SynthesisOptions,
    "context": ContextOptions,
    "scoring": ScoreOptions,
}

RENAMED = {  # prefixes of dotted paths in checkpoints of version 0.1.0: old to new
    "clipos_lightning.losses.": "clipos_lightning.method.objectives.",
    "clipos_lightning.schedule.WarmupCosine": "clipos_lightning.WarmupCosine",
    "clipos_lightning.scores.": "clipos_lightning.evaluation.scores.",
}


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a checkpoint that clipos wrote from a local file.

    Raises:
        InputError: no such file, not a checkpoint, or not written by clipos.
    """
    if not Path(path).is_file():
        raise InputError(f"no checkpoint {path!r}: give a local file, the last.ckpt of a `clipos fit` run")
    if not is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint: give the last.ckpt of a `clipos fit` run")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on how the file is broken
        reason = (str(error).splitlines() or ["it is empty"])[0][:120]
        raise InputError(f"{path} is not a checkpoint that can be read safely: {reason}") from error
    if not isinstance(checkpoint, dict) or not {"clipos", "hyper_parameters", "state_dict"} <= checkpoint.keys():
        raise InputError(f"{path} was not written by clipos: give the last.ckpt of a `clipos fit` run")
    for part in ("clipos", "hyper_parameters"):
        checkpoint[part] = update_paths(checkpoint[part])
    return checkpoint


def update_paths(value: Any) -> Any:
    """Plain data in which dotted paths of version 0.1.0 are replaced by the current ones.

    Example:
        >>> update_paths({"class_path": "clipos_lightning.schedule.WarmupCosine"})
        {'class_path': 'clipos_lightning.WarmupCosine'}
    """
    if isinstance(value, dict):
        return {key: update_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [update_paths(item) for item in value]
    if isinstance(value, str):
        for old, new in RENAMED.items():
            value = new + value.removeprefix(old) if value.startswith(old) else value
    return value


def model_options(checkpoint: dict[str, Any], recipe: bool) -> dict[str, Any]:
    """The model's options in training; those that its version did not have, with their defaults.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        recipe: whether to add the optimizer and the scheduler, which only a fit needs.

    Raises:
        InputError: the optimizer or the scheduler is not of torch, Lightning or this package.
    """
    options = {k: v for k, v in checkpoint["hyper_parameters"].items() if k not in NOT_OPTIONS}
    options |= {name: asdict(kind()) | options.get(name, {}) for name, kind in OPTION_GROUPS.items()}
    if not recipe:
        return options
    found = checkpoint["clipos"].get("recipe", {})
    check_recipe(found, "the checkpoint")
    return options | found


def data_options(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The data's options in training; without the root if $CLIPOS_DATA is set.

    Raises:
        InputError: the checkpoint has none, since it was not trained on a FewShotOOD.
    """
    if "datamodule_hyper_parameters" not in checkpoint:
        raise InputError(
            "the checkpoint does not say which few-shot images it was trained on: give one of `clipos fit`"
        )
    data = dict(checkpoint["datamodule_hyper_parameters"])
    if os.environ.get("CLIPOS_DATA"):
        data.pop("root", None)
    return data


@contextmanager
def known_options(path: str | Path) -> Iterator[None]:
    """Turn unknown options in a file into an InputError of one line."""
    try:
        yield
    except (TypeError, KeyError) as error:
        raise InputError(
            f"{path} was written by another version, with options that this one does not know: {error}; "
            "update clipos-lightning, or train again with this version"
        ) from error


def refuse_imports(path: str | Path, names: Iterable[Any]) -> None:
    """Refuse a file that names user-defined scores or objectives: importing them runs code.

    Args:
        path: the file.
        names: the scores and objectives that it names; those with a dot are user-defined.

    Raises:
        InputError: a name has a dot.
    """
    dotted = [name for name in names if isinstance(name, str) and "." in name]
    if dotted:
        raise InputError(
            f"{path} imports {dotted[0]!r}, which runs code: if you trust the file, add --trust (in Python: trust=True)"
        )


def as_config(checkpoint: dict[str, Any], recipe: bool) -> dict[str, Any]:
    """A checkpoint as a configuration: seed, model and data. Later configs and flags override it.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        recipe: as for :func:`model_options`.
    """
    data = data_options(checkpoint) if "datamodule_hyper_parameters" in checkpoint else {}
    seed = checkpoint["hyper_parameters"]["seed"]
    return {"seed_everything": seed, "model": model_options(checkpoint, recipe), "data": data}


def check_state(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that a checkpoint has exactly the expected tensors, with their shapes.

    Args:
        given: name to tensor in the checkpoint.
        expected: name to tensor in the module.

    Raises:
        InputError: a tensor is missing, not expected, or of another shape.
    """
    shapes, expected_shapes = ({k: tuple(v.shape) for k, v in state.items()} for state in (given, expected))
    names = shapes.keys() | expected_shapes.keys()
    different = sorted(name for name in names if shapes.get(name) != expected_shapes.get(name))
    if different:
        raise InputError(
            f"the checkpoint does not fit the model's options: {', '.join(different)} differ; use the options that it "
            "was trained with"
        )


def check_memory(given: dict[str, Any], classes: int, dim: int) -> None:
    """Check that a checkpoint has a complete memory of the few-shot images, or none.

    Args:
        given: name to tensor in the checkpoint.
        classes: C.
        dim: D.

    Raises:
        InputError: a tensor of the memory is missing, or does not fit the others.
    """
    memory = {name.removeprefix("memory_"): t for name, t in given.items() if name.startswith("memory_")}
    wrong = invalid_tensors(memory, classes, dim) if memory else []
    if wrong:
        raise InputError(f"the checkpoint is broken: memory_{wrong[0]} is missing or invalid; train again")
