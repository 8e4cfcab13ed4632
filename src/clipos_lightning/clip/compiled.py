"""``torch.compile`` at fixed shapes: smaller batches are zero-padded to the largest batch so far."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = tuple[Tensor | None, ...]


class FixedShapes:
    """A function of a batch and options, compiled once per set of options and again for each larger batch.

    A test pass compiles once: its first batch is full, and the last batch of each set is padded.

    Args:
        function: maps images (B, ...) and hashable keyword options to tensors (B, ...); row-wise.
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self.function = function
        self.sizes: dict[Hashable, int] = {}
        self.compiled: dict[Hashable, Callable[[Tensor], Tensors]] = {}

    def __call__(self, images: Tensor, **options: Any) -> Tensors:
        """Pad the images, run the compiled function and cut its tensors to the batch."""
        key, count = tuple(options.items()), len(images)
        if key not in self.compiled:
            self.compiled[key] = torch.compile(partial(self.function, **options), dynamic=False)
        self.sizes[key] = max(count, self.sizes.get(key, 1))
        padded = F.pad(images, (0, 0) * (images.dim() - 1) + (0, self.sizes[key] - count))
        return tuple(None if tensor is None else tensor[:count] for tensor in self.compiled[key](padded))
