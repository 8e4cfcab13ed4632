"""Row-wise functions in chunks, so that (images, patches, classes) tensors stay within a memory budget."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 64 * 2**20  # the budget for one intermediate tensor; a single row may exceed it


def by_chunks(function: Callable[..., Tensor], tensors: tuple[Tensor, ...], row_bytes: int) -> Tensor:
    """Compute ``function(*tensors)`` in chunks of rows.

    With gradients enabled, each chunk is checkpointed: its intermediate tensors are recomputed in the backward pass, so
    that only one chunk's are in memory at a time.

    Args:
        function: row-wise: output row i depends only on row i of each input.
        tensors: inputs with N rows each.
        row_bytes: bytes of the largest intermediate tensor per row; a chunk has ``CHUNK_BYTES // row_bytes`` rows.

    Returns:
        The outputs of all chunks, concatenated along the first axis: N rows.

    >>> by_chunks(torch.add, (torch.arange(3), torch.ones(3)), row_bytes=CHUNK_BYTES)  # one row per chunk
    tensor([1., 2., 3.])
    """
    rows = max(1, CHUNK_BYTES // row_bytes)
    if torch.compiler.is_compiling() or len(tensors[0]) <= rows:  # a compiled graph must not depend on the batch size
        return function(*tensors)
    outputs = []
    for chunk in zip(*(tensor.split(rows) for tensor in tensors), strict=True):
        recompute = torch.is_grad_enabled()
        outputs.append(checkpoint(function, *chunk, use_reentrant=False) if recompute else function(*chunk))
    return torch.cat(outputs)
