"""The state of the global random generators, as plain data and tensors for a checkpoint.

Training itself draws from generators of its own; callbacks and user-defined objectives may draw from these.
"""
# ruff: noqa: NPY002 (NumPy's global generator)

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, message_of


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of the generators of torch, NumPy and Python, and of torch's on this device if it is a GPU.

    Returns:
        ``torch``, ``numpy``, ``python`` and, for a GPU, ``cuda``; the words of a state are a uint8 tensor.
    """
    _, words, *numpy_rest = np.random.get_state(legacy=True)
    version, python_words, gauss = random.getstate()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": {"words": as_bytes(words), "rest": [int(numpy_rest[0]), int(numpy_rest[1]), float(numpy_rest[2])]},
        "python": {"words": as_bytes(python_words), "rest": [version, gauss]},
    }
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    """Set the generators to a :func:`random_state`; without one of the GPU, its generator is left alone.

    Raises:
        InputError: the state is broken.

    Example:
        >>> before, cpu = random_state(torch.device("cpu")), torch.device("cpu")
        >>> first = torch.rand(3), np.random.rand(), random.random()
        >>> restore_random_state(before, cpu)
        >>> bool((torch.rand(3) == first[0]).all()), np.random.rand() == first[1], random.random() == first[2]
        (True, True, True)
    """
    try:
        numpy, python = state["numpy"], state["python"]
        version, gauss = python["rest"]
        torch.set_rng_state(state["torch"])
        np.random.set_state(("MT19937", from_bytes(numpy["words"]).reshape(624), *numpy["rest"]))
        random.setstate((version, tuple(from_bytes(python["words"]).tolist()), gauss))
        if device.type == "cuda" and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], device)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        reason = message_of(error, 120)
        raise InputError(
            f"the checkpoint is broken: its random_state cannot be restored ({reason}); train again"
        ) from error


def as_bytes(words: Any) -> Tensor:
    """Words of 32 bits as a uint8 tensor."""
    return torch.from_numpy(np.array(words, dtype="<u4").view(np.uint8))


def from_bytes(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """The inverse of :func:`as_bytes`."""
    return tensor.numpy().view("<u4")
