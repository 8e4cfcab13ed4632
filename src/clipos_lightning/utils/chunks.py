"""Patches against many classes, a part of them at a time: no (images, patches, classes) tensor beyond a budget."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 64 * 2**20  # bytes of one such tensor; one row alone may be larger


def by_chunks(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], row_bytes: int) -> Tensor:
    """``function(*tensors)``, some rows at a time.

    Where gradients are taken, a part's tensors are computed anew for them, so that they are never there all at once.

    Args:
        function: each row of its result depends on the same row of the tensors alone.
        tensors: of N rows each.
        row_bytes: what one row takes inside the function.
    """
    rows = max(1, CHUNK_BYTES // row_bytes)
    if torch.compiler.is_compiling() or len(tensors[0]) <= rows:  # an exported graph takes any batch
        return function(*tensors)
    found = []
    for part in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
        again = torch.is_grad_enabled()
        found.append(checkpoint(function, *part, use_reentrant=False) if again else function(*part))
    return torch.cat(found)
