"""The file ``detector.safetensors``: a detector without its frozen backbone, as tensors and JSON; no pickle."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..clip.surgery import SurgeryOptions
from ..errors import InputError, message_of, printable
from ..evaluation.heads import Head
from ..evaluation.memory import Memory, invalid_tensors, is_matrix
from ..evaluation.scores import ScoreOptions
from ..method.logits import ExtraTexts
from ..method.mask import MaskOptions
from ..options.class_paths import update_paths
from ..options.schema import Fields, Fraction, PositiveNumber, check_file
from ..options.text_files import parse_json
from ..training.record import RECORD
from ..utils.files import atomic_write, check_parent

FORMAT = 1
KEY = "clipos"  # metadata key of the JSON
TENSORS = ("text", "class_text")
MEMORY_TENSORS = ("memory.features", "memory.regions", "memory.labels", "memory.patches")  # all, or none
CONTEXT = "context"  # tensor of detectors whose class prompts are learned
EXTRA_TENSORS = ("negatives", "further", "local_map")  # of detectors that compare images with further texts
ATTRIBUTES: dict[str, Any] = {  # key of the JSON, which is the name of an attribute of the detector, to its type
    "threshold": float | None,
    "class_thresholds": list[float] | None,
    "temperature": PositiveNumber,
    "calibration": dict[str, Any],
    "background": str,
}
PROMPTING = Fields({"image_weight": Fraction, "template": str | list[str], "unknown_word": str})
OPTIONAL = ("class_thresholds", "background")  # files of version 0.1.0 lack them
FIELDS = Fields(
    {**RECORD.required, **{key: kind for key, kind in ATTRIBUTES.items() if key not in OPTIONAL}},
    optional={**RECORD.optional, **{key: ATTRIBUTES[key] for key in OPTIONAL}, "prompting": PROMPTING},
)
WRITE_AGAIN = "write the detector again"


def write_detector(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], overwrite: bool) -> None:
    """Write a detector's file atomically.

    Args:
        path: of the file.
        tensors: those named in :data:`TENSORS`, and in :data:`MEMORY_TENSORS`, :data:`CONTEXT` and
            :data:`EXTRA_TENSORS` if it has them.
        record: plain data, with the keys of :data:`FIELDS`, and ``prompting`` if it can be extended.
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
            wanted = {*TENSORS, *MEMORY_TENSORS, *EXTRA_TENSORS, CONTEXT}
            tensors = {name: file.get_tensor(name) for name in file.keys() if name in wanted}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {message_of(error, 120)}") from error
    return tensors, update_paths(check_record(path, metadata.get(KEY), tensors))


def head_tensors(head: Head) -> dict[str, Tensor]:
    """The tensors of a head, by their names in the file."""
    tensors = {"text": head.text, "class_text": head.class_text, **head.extra.tensors}
    memory = {} if head.memory is None else head.memory.tensors
    return tensors | {f"memory.{name}": tensor for name, tensor in memory.items()}


def as_head(tensors: Mapping[str, Tensor], record: Mapping[str, Any], scale: float) -> Head:
    """The head in a detector's file.

    Args:
        tensors: of the file.
        record: of the file.
        scale: s of its backbone.

    Raises:
        InputError: an option is outside its range.
    """
    options = SurgeryOptions(**record["surgery"]), MaskOptions(**record["mask"]), ScoreOptions(**record["scoring"])
    kept = [tensors[name] for name in MEMORY_TENSORS if name in tensors]
    extra = ExtraTexts(**{name: tensors[name] for name in EXTRA_TENSORS if name in tensors})
    prompts = tensors["text"], tensors["class_text"], scale
    return Head("", *prompts, [record["score"]], *options, Memory(*kept) if kept else None, extra)


@contextmanager
def name_file(path: str | Path) -> Iterator[None]:
    """Name the detector's file in errors, and ``--pretrained``, the option of its commands for the weights."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("--model.pretrained", "--pretrained")
        raise InputError(text if printable(str(path)) in text else f"{path}: {text}") from error


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
    check_file(path, record, FIELDS, WRITE_AGAIN)
    wrong = wrong_parts(record, tensors)
    if wrong:
        raise InputError(f"{path} is broken: {', '.join(wrong)} missing or invalid; {WRITE_AGAIN}")
    return record


def wrong_parts(record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of keys and tensors that are missing or do not fit the others.

    Args:
        record: of the file, with values of the types in :data:`FIELDS`.
        tensors: of the file.
    """
    count, text = len(record["class_names"]), tensors.get("text", torch.empty(0))
    dim = text.shape[1] if text.ndim == 2 else 0
    wrong = [] if is_matrix(tensors.get("class_text"), count, dim) else ["class_names or class_text"]
    wrong += [] if is_matrix(text, count, dim) or is_matrix(text, count + 1, dim) else ["text"]
    wrong += [
        k for k in ("class_wordings", "class_thresholds") if record.get(k) is not None and len(record[k]) != count
    ]
    memory = {name.removeprefix("memory."): tensors[name] for name in MEMORY_TENSORS if name in tensors}
    wrong += [f"memory.{name}" for name in invalid_tensors(memory, count, dim)] if memory else []
    wrong += [CONTEXT] if CONTEXT in tensors and not is_matrix(tensors[CONTEXT]) else []
    return wrong + [name for name in EXTRA_TENSORS if name in tensors and not is_extra(name, tensors[name], count, dim)]


def is_extra(name: str, tensor: Tensor, classes: int, dim: int) -> bool:
    """Whether a tensor of :data:`EXTRA_TENSORS` has one of the sizes that it may have."""
    if not is_matrix(tensor, columns=dim) or not len(tensor):
        return False
    return {"negatives": True, "further": len(tensor) % classes == 0, "local_map": len(tensor) == dim}[name]


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint and not a detector's file, by the suffix of its name."""
    return Path(path).suffix != ".safetensors"
