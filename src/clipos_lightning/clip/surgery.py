"""Which patches belong to the class: patch-context, v-v attention, similarity maps, the discrepancy mask.

Pure functions. Sources: CLIP-OS, Sun et al. 2024, arXiv:2404.00323 (patch-context, discrepancy); CLIP surgery,
Li et al. 2023, arXiv:2304.05653 (v-v attention). Where the papers leave a constant open it is an option here.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class SurgeryOptions:
    """The second path through the image tower.

    Attributes:
        beta: weight of the neighbourhood in v' = (1 - beta) v + beta mean(v); 0 is CLIP surgery alone.
        kernel_size: side of the neighbourhood in patches, odd.
        kernel: weights inside the neighbourhood.
        context_on: smooth the values v, the patch embeddings x before ln_1, or nothing (off).
        attention: v-v attention, or CLIP's own q-k attention weights (v-v surgery off).
        depth: the last blocks that have the second path; null: half of them; 0: none, it equals CLIP's patches.
    """

    beta: float = 0.5
    kernel_size: int = 3
    kernel: Literal["uniform", "gaussian", "centre_excluded"] = "uniform"
    context_on: Literal["values", "embeddings", "off"] = "values"
    attention: Literal["vv", "qk"] = "vv"
    depth: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise InputError(f"--model.surgery.beta is {self.beta}: it must lie in [0, 1]")


def kernel_weights(size: int, kernel: str) -> Float[Tensor, "size size"]:
    """Unnormalised weights of a size x size neighbourhood; Gaussian: sigma = 0.3 ((size - 1) / 2 - 1) + 0.8."""
    if size < 1 or size % 2 == 0:
        raise InputError(f"--model.surgery.kernel_size is {size}: it must be odd and at least 1")
    weights = torch.ones(size, size)
    if kernel == "gaussian":
        offset = torch.arange(size) - size // 2
        line = torch.exp(-(offset**2) / (2 * (0.3 * ((size - 1) / 2 - 1) + 0.8) ** 2))
        weights = line[:, None] * line[None]
    if kernel == "centre_excluded":
        weights[size // 2, size // 2] = 0
    return weights


def context_matrix(grid: tuple[int, int], options: SurgeryOptions) -> Float[Tensor, "patches patches"]:
    """Patch-context as one matrix A with v' = A v: (1 - beta) I + beta M, M averaging each patch's neighbourhood.

    At the border only the patches that exist are averaged (each row of M sums to 1). CLIP-OS, "patch-context
    incorporating".

    Raises:
        InputError: a patch has no neighbour at all (a centre-excluded kernel that sees nothing), or an even kernel.
    """
    height, width = grid
    weights = kernel_weights(options.kernel_size, options.kernel)
    rows, columns = (i.flatten() for i in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    half = options.kernel_size // 2
    down, right = rows[None] - rows[:, None] + half, columns[None] - columns[:, None] + half  # (P, P) kernel cells
    inside = (down >= 0) & (down < options.kernel_size) & (right >= 0) & (right < options.kernel_size)
    mean = torch.where(inside, weights[down.clamp(0, 2 * half), right.clamp(0, 2 * half)], 0.0)
    total = mean.sum(1, keepdim=True)
    if (total == 0).any():
        raise InputError(
            f"--model.surgery.kernel {options.kernel} of size {options.kernel_size} leaves a patch of the "
            f"{height}x{width} grid without neighbours: take a larger kernel_size"
        )
    return (1 - options.beta) * torch.eye(height * width) + options.beta * mean / total


def patch_context(
    tokens: Float[Tensor, "batch tokens width"], matrix: Float[Tensor, "patches patches"]
) -> Float[Tensor, "batch tokens width"]:
    """Each patch takes in its neighbourhood, v' = A v; the class token (first) stays as it is."""
    return torch.cat([tokens[:, :1], matrix.to(tokens.dtype) @ tokens[:, 1:]], dim=1)


def split_heads(x: Float[Tensor, "batch tokens width"], heads: int) -> Float[Tensor, "batch heads tokens head"]:
    """(B, N, H d) to (B, H, N, d)."""
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def attend(
    q: Float[Tensor, "batch asking width"],
    k: Float[Tensor, "batch tokens width"],
    v: Float[Tensor, "batch tokens width"],
    heads: int,
) -> Float[Tensor, "batch asking width"]:
    """Multi-head softmax(q k^T / sqrt(d)) v, d the head's width, before the output projection.

    ``attend(q, k, v)`` is CLIP's own attention, ``attend(v', v', v')`` is v-v attention (CLIP surgery, eq. 3).
    """
    out = F.scaled_dot_product_attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads))
    return rearrange(out, "b h n d -> b n (h d)")
