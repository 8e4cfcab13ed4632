"""The file ``detector.safetensors``: a detector without its frozen backbone, as tensors and JSON; no pickle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ..errors import InputError
from ..utils.files import atomic_write, check_parent

FORMAT = 1
KEY = "clipos"  # metadata key of the JSON
TENSORS = ("text", "class_text")
RECORD: dict[str, tuple[type, ...]] = {
    "format": (int,),
    "backbone": (str,),
    "fingerprint": (str,),
    "activation": (str,),
    "image_size": (int,),
    "pretrained": (str, type(None)),
    "class_names": (list,),
    "score": (str,),
    "surgery": (dict,),
    "mask": (dict,),
    "scoring": (dict,),
    "threshold": (float, int, type(None)),
    "temperature": (float, int),
    "calibration": (dict,),
}


def write_detector(path: str | Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any], overwrite: bool) -> None:
    """Write a detector's file atomically.

    Args:
        path: of the file.
        tensors: those named in :data:`TENSORS`.
        record: plain data, with the keys of :data:`RECORD` but for ``format``.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists and ``overwrite`` is not set, or its folder does not exist or is not writable.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists: give another name, or remove the file")
    check_parent(path)
    plain = {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_write(path) as partial:
        partial.write_bytes(save(plain, {KEY: json.dumps({"format": FORMAT, **record}, ensure_ascii=False)}))


def read_detector(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the record of a detector's file.

    Raises:
        InputError: no such file, not a detector's file, written by a newer version, or broken.
    """
    if not Path(path).is_file():
        raise InputError(
            f"no detector {str(path)!r}: give a file of `clipos calibrate`, or the last.ckpt of a `clipos fit` run"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in TENSORS if name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a safetensors file: {' '.join(str(error).split())[:120]}") from error
    return tensors, check_record(path, metadata.get(KEY), tensors)


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
        record = json.loads(text or "null")
    except ValueError as error:
        raise InputError(f"{path} is broken: its record is not JSON ({error}); write the detector again") from error
    if not isinstance(record, dict) or "format" not in record:
        raise InputError(f"{path} is not a detector of clipos: give a file that `clipos calibrate` wrote")
    if record["format"] != FORMAT:
        raise InputError(f"{path} has format {record['format']}, this version reads {FORMAT}: update clipos-lightning")
    wrong = [key for key, kinds in RECORD.items() if not isinstance(record.get(key), kinds)]
    wrong += [name for name in TENSORS if name not in tensors or tensors[name].ndim != 2]
    if not wrong and len(tensors["class_text"]) != len(record["class_names"]):
        wrong = ["class_names"]
    if not wrong and len(tensors["text"]) - len(record["class_names"]) not in (0, 1):
        wrong = ["text"]
    if wrong:
        raise InputError(f"{path} is broken: {', '.join(wrong)} missing or invalid; write the detector again")
    return record
