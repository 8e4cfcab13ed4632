"""``torch.compile`` at fixed shapes: batches that are smaller than the largest so far are filled up to it."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = tuple[Tensor | None, ...]


class FixedShapes:
    """A function of a batch and options, compiled once for each options and each batch larger than all before.

    A test pass compiles once: its first batch is a full one, and the last one of each set is filled up with zeros.

    Args:
        function: images (B, ...) and options that are hashable, by keyword, to tensors (B, ...).
    """

    def __init__(self, function: Callable[..., Tensors]) -> None:
        self.function = function
        self.sizes: dict[Hashable, int] = {}
        self.compiled: dict[Hashable, Callable[[Tensor], Tensors]] = {}

    def __call__(self, images: Tensor, **options: Any) -> Tensors:
        """The function's tensors, cut to the batch."""
        key, count = tuple(options.items()), len(images)
        if key not in self.compiled:
            self.compiled[key] = torch.compile(partial(self.function, **options), dynamic=False)
        self.sizes[key] = max(count, self.sizes.get(key, 1))
        filled = F.pad(images, (0, 0) * (images.dim() - 1) + (0, self.sizes[key] - count))
        return tuple(None if found is None else found[:count] for found in self.compiled[key](filled))
