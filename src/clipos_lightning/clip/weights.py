"""Read a file of CLIP weights as a state dict. No code in it is executed, and nothing but tensors is unpickled."""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..errors import InputError
from ..utils.quiet import quiet

ANCHOR = "visual.conv1.weight"  # in every CLIP with a ViT; what stands before it is a prefix of all names
OPENAI_BUFFERS = ("input_resolution", "context_length", "vocab_size")  # sizes, which OpenAI's files hold as tensors
NOT_LEARNED = (*OPENAI_BUFFERS, "attn_mask")
NESTED = ("state_dict", "model", "model_state_dict")  # where training scripts put the weights
STORAGES = {
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "ByteStorage": torch.uint8,
    "CharStorage": torch.int8,
    "ShortStorage": torch.int16,
    "IntStorage": torch.int32,
    "LongStorage": torch.int64,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Weights:
    """The weights in a file.

    Attributes:
        state: names as in open_clip to tensors; floating-point ones are fp32.
        openai: whether the file has the buffers of OpenAI's own files, so that it was trained with QuickGELU.
    """

    state: dict[str, Tensor]
    openai: bool


def read_weights(path: str | Path) -> Weights:
    """Read a state dict (``.pt``, ``.pth``, ``.bin``), a ``.safetensors`` file, or OpenAI's TorchScript archive.

    The format is recognised by the content. A nested ``state_dict`` and a prefix such as ``module.`` are removed.

    Raises:
        InputError: the file is damaged, is something else, or holds Python objects besides tensors.
    """
    try:
        content = read_content(Path(path))
        nested = [content[key] for key in NESTED if isinstance(content.get(key), Mapping)]
        state = nested[0] if nested else content
        if not state or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("it is not a state dict, which maps names to tensors")
        learned = {name: tensor for name, tensor in state.items() if not str(name).endswith(NOT_LEARNED)}
        broken = next((name for name, tensor in learned.items() if not is_plain_tensor(tensor)), None)
        if broken is not None:
            raise ValueError(f"it is broken: {broken} is sparse, complex or not finite")
    except Exception as error:  # the type depends on how the file is broken
        raise InputError(
            f"cannot read the weights in {path}: {reason_of(error)}, or give another with --model.pretrained FILE"
        ) from error
    prefix = next((name.removesuffix(ANCHOR) for name in state if name.endswith(ANCHOR)), "")
    named = {str(name).removeprefix(prefix): tensor for name, tensor in state.items()}
    plain = {name: t.float() if t.is_floating_point() else t for name, t in named.items() if name not in NOT_LEARNED}
    if "logit_scale" in plain:
        plain["logit_scale"] = plain["logit_scale"].squeeze()  # some training scripts write (1,)
    return Weights(plain, all(name in named for name in OPENAI_BUFFERS))


def is_plain_tensor(tensor: Tensor) -> bool:
    """Whether a tensor is dense, and holds finite real numbers."""
    return tensor.layout == torch.strided and not tensor.is_complex() and bool(tensor.isfinite().all())


def read_content(path: Path) -> Mapping[str, Any]:
    """Read what a file holds, by the format that its first bytes show.

    Raises:
        ValueError: it is a web page, a Git LFS pointer, empty, cut off, or does not hold a mapping.
        Exception: it is damaged, or not a file of weights.
    """
    with open(path, "rb") as file:
        start = file.read(512)
    if not start:
        raise ValueError("it is empty")
    if re.match(rb"(\xef\xbb\xbf)?\s*<(!doctype|html|\?xml|head)", start, re.IGNORECASE):
        raise ValueError("it is a web page, not the file behind a download link")
    if start.startswith(b"version https://git-lfs"):
        raise ValueError("it is a Git LFS pointer, not the file itself")
    if start[8:9] == b"{":
        return load_file(path)
    if start.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise ValueError("it is damaged: the end of the file is missing")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return read_torchscript(archive)
    with quiet():
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not a state dict")
    return content


def reason_of(error: Exception) -> str:
    """The reason in an exception of a file's reader, and the remedy, as one line.

    Example:
        >>> reason_of(ValueError("it is empty"))
        'it is empty; fetch the file again'
    """
    text = " ".join(str(error).split())
    code = re.search(r"GLOBAL (\S+)", text)
    if code:
        return (
            f"it holds Python objects besides tensors ({code[1]}), which could run code and are not loaded; write a "
            "file of its state dict alone, with safetensors or torch.save"
        )
    if isinstance(error, ValueError) and text.startswith("it "):
        return f"{text}; fetch the file again"
    text = re.sub(r"^.*WeightsUnpickler error: (.*?)( Check the documentation.*)?$", r"\1", text)  # PyTorch's advice
    return f"it is damaged, incomplete or not a file of weights ({type(error).__name__}: {text}); fetch the file again"


class Shell:
    """Stands for an object of any class in a TorchScript archive: it has attributes and no code."""

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module's attributes are not a dict")
        self.attributes = state


class TensorUnpickler(pickle.Unpickler):
    """Unpickle the modules of a TorchScript archive as shells, and its tensors from the archive's storages."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f"{root}data.pkl"))
        self.archive, self.root = archive, root
        self.storages: dict[str, Tensor] = {}
        self.shell = type("Module", (Shell,), {})  # a pickle can change the class's attributes: one for each file

    def find_class(self, module: str, name: str) -> Any:
        """Return harmless stand-ins; raise ``UnpicklingError`` for everything that a CLIP does not need."""
        if module == "__torch__" or module.startswith("__torch__."):
            return self.shell
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda *arguments: strided(*arguments[:4])
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":  # typed lists and dicts of plain values
            return lambda items, *_: items
        raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return a storage as a flat tensor."""
        _, dtype, key = pid[:3]
        if key not in self.storages:
            entry = self.archive.getinfo(f"{self.root}data/{key}")
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError("it has compressed tensors, which PyTorch does not write")
            data = bytearray(self.archive.read(entry))
            self.storages[key] = torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)
        return self.storages[key]


def strided(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int]) -> Tensor:
    """A contiguous copy of a tensor in a storage, or the storage's own memory if it is contiguous there.

    Raises:
        ValueError: the tensor is larger than its storage.
    """
    if torch.Size(size).numel() > storage.numel():
        raise ValueError("it has a tensor that is larger than its data")
    return storage.as_strided(tuple(size), tuple(stride), offset).contiguous()


def read_torchscript(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    """Read the parameters and buffers of a TorchScript archive without its code, named as in a state dict.

    Raises:
        Exception: it is damaged, or needs more than modules and tensors.
    """
    root = next(name for name in archive.namelist() if name.endswith("data.pkl")).removesuffix("data.pkl")
    modules: list[tuple[str, Any]] = [("", TensorUnpickler(archive, root).load())]
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    while modules:
        prefix, module = modules.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        for name, value in getattr(module, "attributes", {}).items():
            if isinstance(value, Tensor):
                state[f"{prefix}{name}"] = value
            elif isinstance(value, Shell):
                modules.append((f"{prefix}{name}.", value))
    return state
