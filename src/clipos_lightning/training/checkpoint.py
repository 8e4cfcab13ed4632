"""Read a checkpoint, and its options as a configuration. Only tensors and plain data are unpickled."""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any
from zipfile import is_zipfile

import torch

from ..clip.surgery import SurgeryOptions
from ..data.datamodule import FewShotOOD
from ..errors import InputError
from ..evaluation.scores import ScoreOptions
from ..method.mask import MaskOptions
from ..method.prompts import ContextOptions
from ..method.synthesis import SynthesisOptions
from ..options.class_paths import check_recipe, update_paths
from ..options.schema import PLAIN, Fields, Fraction, Names, NonNegative, Where, check_file, fields_of, find_impurity
from ..utils.quiet import quiet
from .module import ClipOS
from .negatives import RECORDED_NEGATIVES, negatives_name
from .record import GROUPS, RECORD, WORDINGS
from .resuming import RESTORED

NOT_OPTIONS = ("class_names", "class_wordings")  # hyper-parameters of the model that come from the data

OPTION_GROUPS = {
    "surgery": SurgeryOptions,
    "mask": MaskOptions,
    "synthesis": SynthesisOptions,
    "context": ContextOptions,
    "scoring": ScoreOptions,
}
TRAIN_AGAIN = "train again"
DENSE = Annotated[torch.Tensor, Where("a dense tensor", lambda tensor: tensor.layout == torch.strided)]
MODEL = fields_of(
    ClipOS.__init__,
    {
        **GROUPS,
        "synthesis": fields_of(SynthesisOptions),
        "context": fields_of(ContextOptions, added=("class_specific",)),
        **{"class_names": Names, "class_wordings": WORDINGS | None, "optimizer": None, "lr_scheduler": None},
        "negatives": RECORDED_NEGATIVES,
    },
    added=("negatives",),
)
DATA = fields_of(
    FewShotOOD.__init__, {"num_workers": None}, added=("validate", "background", "max_pixels", "unreadable")
)
OPTIMIZER = Fields({"state": dict, "param_groups": list[dict[str, Any]]})
TRAINER = Fields(
    {"max_epochs": int, "max_steps": int, "steps_per_epoch": NonNegative},
    {name: str | int | float | None for name in RESTORED},
    closed=True,
)
LIGHTNING: dict[str, Any] = {  # what a fit needs to resume
    "epoch": NonNegative,
    "global_step": NonNegative,
    "pytorch-lightning_version": str,
    "loops": dict[str, Any],
    "callbacks": dict[str, dict[str, Any]],
    "optimizer_states": Annotated[list[OPTIMIZER], Where("a list of states", bool)],  # type: ignore[valid-type]
    "lr_schedulers": list[dict[str, Any]],
}
IN_ALL_VERSIONS = ("backbone", "fingerprint", "activation", "class_names")  # of the record; 0.1.0 lacked the others
CONTENTS = Fields(
    {
        "clipos": Fields(
            {**{k: RECORD.required[k] for k in IN_ALL_VERSIONS}, "recipe": dict[str, Any], "image_weight": Fraction},
            {**RECORD.required, **RECORD.optional, "shots": str | None, "trainer": TRAINER},
        ),
        "hyper_parameters": MODEL,
        "state_dict": dict[str, DENSE],
    },
    {
        **LIGHTNING,
        "random_state": dict[str, Any],
        "datamodule_hyper_parameters": replace(DATA, closed=False),  # subclasses may have other options
    },
)
WITH_TENSORS = ("state_dict", "optimizer_states", "callbacks", "loops", "lr_schedulers", "random_state")


def read_checkpoint(path: str, resume: bool = False) -> dict[str, Any]:
    """Read a checkpoint that clipos wrote from a local file.

    Args:
        path: of the file.
        resume: whether a fit is to continue from it, which needs the state of Lightning and the optimizer.

    Raises:
        InputError: no such file, not a checkpoint, not written by clipos, of another version, or broken.
    """
    if not Path(path).is_file():
        raise InputError(f"no checkpoint {path!r}: give a local file, the last.ckpt of a `clipos fit` run")
    if not is_zipfile(path):
        raise InputError(f"{path} is not a checkpoint: give the last.ckpt of a `clipos fit` run")
    try:
        with quiet():
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on how the file is broken
        reason = (str(error).splitlines() or ["it is empty"])[0][:120]
        raise InputError(f"{path} is not a checkpoint that can be read safely: {reason}") from error
    if not isinstance(checkpoint, dict) or not {"clipos", "hyper_parameters", "state_dict"} <= checkpoint.keys():
        raise InputError(f"{path} was not written by clipos: give the last.ckpt of a `clipos fit` run")
    for part in CONTENTS.required.keys() | CONTENTS.optional.keys():
        problem = find_impurity(checkpoint.get(part), part, (*PLAIN, torch.Tensor) if part in WITH_TENSORS else PLAIN)
        if problem is not None:
            raise InputError(f"{path} is broken: {problem}; {TRAIN_AGAIN}")
    for part in ("clipos", "hyper_parameters"):
        checkpoint[part] = update_paths(checkpoint[part])
    check_file(path, checkpoint, CONTENTS, TRAIN_AGAIN)
    check_file(path, checkpoint, Fields(LIGHTNING if resume else {}), TRAIN_AGAIN)
    check_ranges(path, checkpoint["hyper_parameters"])
    return checkpoint


def check_ranges(path: str, options: dict[str, Any]) -> None:
    """Check the ranges of a checkpoint's options of mask, prompts and scores.

    Raises:
        InputError: one is outside its range.
    """
    for name, kind in OPTION_GROUPS.items():
        try:
            kind(**options[name])
        except InputError as error:
            raise InputError(f"{path} is broken: {error}; {TRAIN_AGAIN}") from error


def model_options(checkpoint: dict[str, Any], recipe: bool) -> dict[str, Any]:
    """The model's options in training; those that its version did not have, with their defaults.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        recipe: whether to add the optimizer and the scheduler, which only a fit needs.

    Raises:
        InputError: the optimizer or the scheduler is not of torch, Lightning or this package.
    """
    options = {k: v for k, v in checkpoint["hyper_parameters"].items() if k not in NOT_OPTIONS}
    options = {"negatives": None} | options
    options |= {name: asdict(kind()) | options.get(name, {}) for name, kind in OPTION_GROUPS.items()}
    if not recipe:
        return options
    found = checkpoint["clipos"].get("recipe", {})
    check_recipe(found, "the checkpoint")
    return options | found


def data_options(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The data's options in training; without the root if $CLIPOS_DATA is set.

    Raises:
        InputError: the checkpoint has none, since it was not trained on a FewShotOOD, or has options of another class.
    """
    if "datamodule_hyper_parameters" not in checkpoint:
        raise InputError(
            "the checkpoint does not say which few-shot images it was trained on: give one of `clipos fit`"
        )
    data = dict(checkpoint["datamodule_hyper_parameters"])
    check_file("the checkpoint", data, DATA, TRAIN_AGAIN, "data")
    if os.environ.get("CLIPOS_DATA"):
        data.pop("root", None)
    return data


def as_config(checkpoint: dict[str, Any], recipe: bool) -> dict[str, Any]:
    """A checkpoint as a configuration: seed, model, data and, for a fit, options of the Trainer but its length.

    Later configs and flags override it.

    Args:
        checkpoint: of :func:`read_checkpoint`.
        recipe: as for :func:`model_options`.
    """
    data = data_options(checkpoint) if "datamodule_hyper_parameters" in checkpoint else {}
    seed = checkpoint["hyper_parameters"]["seed"]
    model = model_options(checkpoint, recipe)
    model["negatives"] = negatives_name(model["negatives"])  # mined words are too many for a configuration
    config = {"seed_everything": seed, "model": model, "data": data}
    recorded = checkpoint["clipos"].get("trainer", {})
    trainer = {name: value for name, value in recorded.items() if name in RESTORED}
    return config | ({"trainer": trainer} if recipe and trainer else {})
