"""Attention of the surgery path: patch-context and v-v attention. Pure functions.

Sources: CLIP-OS, Sun et al. 2024, arXiv:2404.00323, section 3, "patch-context incorporating"; CLIP surgery, Li et al.
2023, arXiv:2304.05653 (v-v attention). Constants that the papers leave open are options.
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
    """The surgery path: a second path through the last blocks of the image tower.

    Attributes:
        beta: weight of the neighbourhood in v' = (1 - beta) v + beta mean(v), in [0, 1]; 0: no patch-context.
        kernel_size: side of the neighbourhood in patches, odd; 3 as in the paper.
        kernel: weights in the neighbourhood: uniform (the paper's), gaussian, or uniform without the patch itself.
        context_on: what patch-context averages: the values v, the patch embeddings before ln_1, or nothing (off).
        attention: vv: v-v attention; qk: CLIP's own attention weights on the averaged values.
        depth: how many of the last blocks have the surgery path; null: half of them; 0: none (plain CLIP's patches).

    Raises:
        InputError: beta is outside [0, 1].

    Example:
        >>> from clipos_lightning import SurgeryOptions
        >>> SurgeryOptions(beta=0.3, depth=6).kernel
        'uniform'
    """

    beta: float = 0.5
    kernel_size: int = 3
    kernel: Literal["uniform", "gaussian", "centre_excluded"] = "uniform"
    context_on: Literal["values", "embeddings", "off"] = "values"
    attention: Literal["vv", "qk"] = "vv"
    depth: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise InputError(f"--model.surgery.beta is {self.beta}: take a number in [0, 1]")


def kernel_weights(size: int, kernel: str) -> Float[Tensor, "size size"]:
    """Weights of a size x size neighbourhood, not normalised.

    ``uniform``: 1. ``gaussian``: exp(-(dx^2 + dy^2) / (2 sigma^2)), sigma = 0.3 ((size - 1) / 2 - 1) + 0.8.
    ``centre_excluded``: 1, and 0 in the centre.

    Raises:
        InputError: the size is even or below 1.

    Example:
        >>> kernel_weights(3, "centre_excluded")
        tensor([[1., 1., 1.],
                [1., 0., 1.],
                [1., 1., 1.]])
    """
    if size < 1 or size % 2 == 0:
        raise InputError(f"--model.surgery.kernel_size is {size}: take an odd number, at least 1")
    weights = torch.ones(size, size)
    if kernel == "gaussian":
        offset = torch.arange(size) - size // 2
        line = torch.exp(-(offset**2) / (2 * (0.3 * ((size - 1) / 2 - 1) + 0.8) ** 2))
        weights = line[:, None] * line[None]
    if kernel == "centre_excluded":
        weights[size // 2, size // 2] = 0
    return weights


def context_matrix(grid: tuple[int, int], options: SurgeryOptions) -> Float[Tensor, "patches patches"]:
    """Patch-context as one (P, P) matrix A: v' = A v with A = (1 - beta) I + beta M (CLIP-OS, section 3).

    Row i of M averages the neighbourhood of patch i. At the border only existing patches are averaged:
    every row of M, and so of A, sums to 1.

    Args:
        grid: rows and columns of patches.
        options: beta, kernel and kernel_size.

    Raises:
        InputError: a patch has no neighbour (a centre-excluded kernel of size 1), or the kernel size is even.

    Example:
        >>> context_matrix((1, 2), SurgeryOptions(beta=0.5))
        tensor([[0.7500, 0.2500],
                [0.2500, 0.7500]])
    """
    height, width = grid
    weights = kernel_weights(options.kernel_size, options.kernel)
    rows, columns = (i.flatten() for i in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    half = options.kernel_size // 2
    down, right = (
        rows[None] - rows[:, None] + half,
        columns[None] - columns[:, None] + half,
    )  # (P, P) in the kernel
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
    """Patch-context, v' = A v, on the patch tokens; the class token (first) is unchanged.

    Args:
        tokens: values or embeddings, (B, 1 + P, W).
        matrix: A of :func:`context_matrix`, (P, P).

    Example:
        >>> tokens = torch.tensor([9.0, 0.0, 4.0]).view(1, 3, 1)  # the class token and two patches
        >>> patch_context(tokens, torch.tensor([[0.75, 0.25], [0.25, 0.75]])).flatten()
        tensor([9., 1., 3.])
    """
    return torch.cat([tokens[:, :1], matrix.to(tokens.dtype) @ tokens[:, 1:]], dim=1)


def split_heads(x: Float[Tensor, "batch tokens width"], heads: int) -> Float[Tensor, "batch heads tokens head"]:
    """Split the width into heads: (B, N, H d) to (B, H, N, d).

    Example:
        >>> split_heads(torch.arange(4.0).view(1, 1, 4), heads=2).tolist()
        [[[[0.0, 1.0]], [[2.0, 3.0]]]]
    """
    return rearrange(x, "b n (h d) -> b h n d", h=heads)


def attend(
    q: Float[Tensor, "batch asking width"],
    k: Float[Tensor, "batch tokens width"],
    v: Float[Tensor, "batch tokens width"],
    heads: int,
) -> Float[Tensor, "batch asking width"]:
    """Multi-head attention softmax(q k^T / sqrt(d)) v before the output projection; d is a head's width.

    ``attend(q, k, v)`` is CLIP's own attention, ``attend(v', v', v')`` is v-v attention (CLIP surgery).

    Args:
        q: queries, (B, M, H d).
        k: keys, (B, N, H d).
        v: values, (B, N, H d).
        heads: H.

    Example:
        >>> v = torch.tensor([1.0, 3.0]).view(1, 2, 1)
        >>> attend(torch.zeros(1, 2, 1), v, v, heads=1).flatten()  # equal attention weights: the mean of v
        tensor([2., 2.])
    """
    out = F.scaled_dot_product_attention(split_heads(q, heads), split_heads(k, heads), split_heads(v, heads))
    return rearrange(out, "b h n d -> b n (h d)")
