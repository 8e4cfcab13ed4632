"""Group and tags that a run of Weights & Biases gets if the user gives none: plain functions of its options."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

Options = Mapping[str, Any]

TAG_LENGTH = 60  # characters of a name in a tag, of which W&B allows 64
TRAINING_LENGTH = ("max_epochs", "max_steps", "max_time", "precision")  # options of the Trainer in a group's digest
NOT_A_SETTING = {  # options that differ between seeds, machines or tests of one setting
    "model": ("seed", "feature_budget_mb", "compile", "scores"),
    "data": (
        *("seed", "shots_file", "root", "num_workers", "eval_batch_size", "cache", "validate", "max_pixels"),
        *("unreadable", "ood_sets", "limit_per_set", "ood_resolution"),
    ),
}


def short_name(text: str) -> str:
    """The last part of a path, at most 60 characters.

    Example:
        >>> short_name("folder:photos/birds"), short_name("scenes")
        ('birds', 'scenes')
    """
    return PurePath(text.removeprefix("folder:")).name[:TAG_LENGTH]


def method_name(options: Options, trained: bool) -> str:
    """The objective of a trained detector, or ``zero-shot``."""
    objective = options["model"]["objective"]
    path = objective if isinstance(objective, str) else str(objective.get("class_path", "objective"))
    return path.rpartition(".")[2][:TAG_LENGTH] if trained else "zero-shot"


def shots_name(options: Options) -> str:
    """The number of images per class.

    Example:
        >>> shots_name({"data": {"shots": 4}}), shots_name({"data": {"shots": "all"}})
        ('4-shot', 'all-shots')
    """
    shots = options["data"]["shots"]
    return f"{shots}-shot" if isinstance(shots, int) else f"{shots}-shots"


def default_tags(options: Options, trained: bool) -> list[str]:
    """What a run is filtered by: objective, backbone, ID set and number of images per class.

    Args:
        options: of model, data and trainer, as plain data.
        trained: whether a detector is trained, or was; False: the zero-shot one is tested.

    Example:
        >>> model = {"objective": "unknown", "backbone": "MicroCLIP"}
        >>> default_tags({"model": model, "data": {"id": "scenes-blueprint", "shots": 1}}, True)
        ['objective:unknown', 'MicroCLIP', 'scenes-blueprint', '1-shot']
    """
    backbone, data = short_name(options["model"]["backbone"]), short_name(options["data"]["id"])
    method = method_name(options, trained)
    return [
        f"objective:{method}"[:TAG_LENGTH] if trained else method,
        backbone,
        data,
        *([shots_name(options)] if trained else []),
    ]


def default_group(options: Options, trained: bool) -> str:
    """One name for all seeds of a setting: ID set, objective, images per class, and a digest of all other options.

    Args:
        options: of model, data and trainer, as plain data.
        trained: as in :func:`default_tags`.

    Example:
        >>> model, data = {"objective": "unknown", "backbone": "MicroCLIP"}, {"id": "scenes", "shots": 1}
        >>> runs = [{"model": model | {"seed": s}, "data": data | {"seed": s}, "trainer": {}} for s in (1, 2)]
        >>> default_group(runs[0], True) == default_group(runs[1], True)
        True
        >>> default_group(runs[0], True).rpartition(" ")[0]
        'scenes unknown 1-shot'
    """
    parts = {
        part: {name: value for name, value in options[part].items() if name not in ignored}
        for part, ignored in NOT_A_SETTING.items()
    }
    length = {name: options["trainer"].get(name) for name in TRAINING_LENGTH} if trained else {}
    text = json.dumps([parts, length], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    names = [short_name(options["data"]["id"]), method_name(options, trained)]
    return " ".join([*names, *([shots_name(options)] if trained else []), digest])


def run_defaults(options: Options, trained: bool) -> dict[str, Any]:
    """Group and tags of a run, as arguments of ``wandb.init``; the arguments are those of :func:`default_tags`."""
    return {"group": default_group(options, trained), "tags": default_tags(options, trained)}
