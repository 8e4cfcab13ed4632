"""The file ``detector.safetensors``: a detector without its frozen backbone, as tensors and JSON; no pickle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..evaluation.memory import invalid_tensors, is_matrix
from ..options.text_files import parse_json
from ..training.checkpoint import update_paths
from ..training.record import DetectorRecord
from ..utils.files import atomic_write, check_parent

FORMAT = 1
KEY = "clipos"  # metadata key of the JSON
TENSORS = ("text", "class_text")
MEMORY_TENSORS = ("memory.features", "memory.regions", "memory.labels", "memory.patches")  # all, or none
CONTEXT = "context"  # tensor of detectors whose class prompts are learned
ATTRIBUTES: dict[str, Any] = {  # key of the JSON, which is the name of an attribute of the detector, to its type
    "threshold": float | None,
    "class_thresholds": list[float] | None,
    "temperature": float,
    "calibration": dict,
    "background": str,
}
FIELD_TYPES: dict[str, Any] = {**get_type_hints(DetectorRecord), **ATTRIBUTES}
OPTIONAL = ("class_wordings", "class_thresholds", "background")  # files of version 0.1.0 lack them


def write_detector(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], overwrite: bool) -> None:
    """Write a detector's file atomically.

    Args:
        path: of the file.
        tensors: those named in :data:`TENSORS`, and in :data:`MEMORY_TENSORS` and :data:`CONTEXT` if it has them.
        record: plain data, with the keys of :data:`FIELD_TYPES`, and ``prompting`` if it can be extended.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and ``overwrite`` is not set, its folder does not exist or is not writable, or a
            tensor is not finite.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: give another name, or remove the file")
    check_parent(path)
    wrong = [name for name, tensor in tensors.items() if not tensor.isfinite().all()]
    if wrong:
        raise InputError(
            f"{path} is not written: {', '.join(wrong)} not finite, since training diverged: lower the learning rate "
            "(--model.optimizer.lr), and fit again"
        )
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_write(path) as partial:
        partial.write_bytes(save(plain, {KEY: json.dumps({"format": FORMAT, **record}, ensure_ascii=False)}))


def read_detector(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the record of a detector's file.

    Raises:
        InputError: no such file, not a detector's file, written by another version, or broken.
    """
    if not Path(path).is_file():
        raise InputError(
            f"no detector {str(path)!r}: give a file of `clipos calibrate`, or the last.ckpt of a `clipos fit` run"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            wanted = {*TENSORS, *MEMORY_TENSORS, CONTEXT}
            tensors = {name: file.get_tensor(name) for name in file.keys() if name in wanted}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {' '.join(str(error).split())[:120]}") from error
    return tensors, update_paths(check_record(path, metadata.get(KEY), tensors))


@contextmanager
def name_pretrained(path: str | Path) -> Iterator[None]:
    """Name the detector's file and ``--pretrained``, the option of its commands, in errors about the weights."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("--model.pretrained", "--pretrained")
        if text == str(error):
            raise
        raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from error


def check_record(path: str | Path, text: str | None, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parse the record of a detector's file, and check that it is complete and fits the tensors.

    Args:
        path: of the file, for messages.
        text: the record as JSON; None: the file has none.
        tensors: of the file.

    Raises:
        InputError: it is not a record, is of another format, or lacks something.
    """
    try:
        record = parse_json(text or "null")
    except ValueError as error:
        raise InputError(f"{path} is broken: its record is not JSON ({error}); write the detector again") from error
    if not isinstance(record, dict) or "format" not in record:
        raise InputError(f"{path} is not a detector of clipos: give a file that `clipos calibrate` wrote")
    if record["format"] != FORMAT:
        raise InputError(
            f"{path} was written by another version (format {record['format']}, this one reads {FORMAT}): update "
            "clipos-lightning, or write the detector again with this version"
        )
    given = {key: kind for key, kind in FIELD_TYPES.items() if key in record or key not in OPTIONAL}
    wrong = [key for key, kind in given.items() if not has_kind(record.get(key, ...), kind)]
    wrong = wrong or wrong_parts(record, tensors)
    if wrong:
        raise InputError(f"{path} is broken: {', '.join(wrong)} missing or invalid; write the detector again")
    return record


def wrong_parts(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of keys and tensors that are missing or do not fit the others.

    Args:
        record: of the file, with values of the types in :data:`FIELD_TYPES`.
        tensors: of the file.
    """
    count, text = len(record["class_names"]), tensors.get("text", torch.empty(0))
    dim = text.shape[1] if text.ndim == 2 else 0
    wrong = [] if is_matrix(tensors.get("class_text"), count, dim) else ["class_names or class_text"]
    wrong += [] if is_matrix(text, count, dim) or is_matrix(text, count + 1, dim) else ["text"]
    wrong += [
        k for k in ("class_wordings", "class_thresholds") if record.get(k) is not None and len(record[k]) != count
    ]
    wrong += [] if 0 < record["temperature"] < float("inf") else ["temperature"]
    memory = {name.removeprefix("memory."): tensors[name] for name in MEMORY_TENSORS if name in tensors}
    wrong += [f"memory.{name}" for name in invalid_tensors(memory, count, dim)] if memory else []
    wrong += [CONTEXT] if CONTEXT in tensors and not is_matrix(tensors[CONTEXT]) else []
    return wrong + ([] if is_prompting(record.get("prompting")) else ["prompting"])


def is_prompting(value: Any) -> bool:
    """Whether a JSON value is the ``plain`` data of a :class:`~.extension.Prompting`, or None."""
    if value is None:
        return True
    kinds = {"image_weight": float, "template": str | list[str], "unknown_word": str}
    return isinstance(value, dict) and all(has_kind(value.get(key, ...), kind) for key, kind in kinds.items())


def has_kind(value: Any, kind: Any) -> bool:
    """Whether a JSON value has a type, items of a list included; whole numbers are floats, too.

    Example:
        >>> has_kind(3, float | None), has_kind(None, float | None), has_kind(["a", 1], list[str])
        (True, True, False)
    """
    if isinstance(kind, UnionType):
        return any(has_kind(value, one) for one in get_args(kind))
    if get_origin(kind) is list:
        return isinstance(value, list) and all(has_kind(item, get_args(kind)[0]) for item in value)
    plain = get_origin(kind) or kind
    return isinstance(value, (int, float) if plain is float else plain)


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint and not a detector's file, by the suffix of its name."""
    return Path(path).suffix != ".safetensors"
