"""Parts of open_clip's transformer blocks, shared by both frozen towers, with fewer memory passes than open_clip's."""

import math
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .surgery import split_heads

QUICK = 1.702  # QuickGELU(x) = x sigmoid(1.702 x)

TokenRows = Float[Tensor, "*rows width"]


def mlp(block: Any, x: TokenRows) -> TokenRows:
    """The block's MLP, (..., W) to (..., W).

    QuickGELU(x) = x sigmoid(a x) is computed as silu(a x) / a, in one pass over the wide hidden layer instead of three:
    the factors a and 1 / a are applied to the narrow input and output.
    """
    if type(block.mlp.gelu).__name__ != "QuickGELU":
        return block.mlp(x)
    first, last = block.mlp.c_fc, block.mlp.c_proj
    hidden = F.linear(QUICK * x, first.weight, QUICK * first.bias)
    hidden = F.silu(hidden, inplace=not hidden.requires_grad)
    return F.linear(hidden, last.weight, QUICK * last.bias) / QUICK


def finish_block(block: Any, x: TokenRows, attended: TokenRows) -> TokenRows:
    """The block after its attention: output projection, residuals and MLP.

    Args:
        block: of either tower.
        x: the block's input, (..., W).
        attended: output of the attention before its output projection, (..., W).
    """
    x = x + block.ls_1(block.attn.out_proj(attended))
    return x + block.ls_2(mlp(block, block.ln_2(x)))


def attention_to_class(
    block: Any, q: Float[Tensor, "batch tokens width"], k: Float[Tensor, "batch tokens width"]
) -> Float[Tensor, "batch patches"]:
    """How much the class token is attended to by each patch: softmax over the patches of <q_i, k_cls> / sqrt(W).

    FoBoR's map (2026): q and k after the output projection, all heads as one; class token first. In fp32, (B, P).
    """
    queries, key = (block.attn.out_proj(part).float() for part in (q[:, 1:], k[:, :1]))
    return (queries @ key.transpose(1, 2))[..., 0].div(math.sqrt(q.shape[-1])).softmax(-1)


def attention_of_class(
    q: Float[Tensor, "batch tokens width"], k: Float[Tensor, "batch tokens width"], heads: int
) -> Float[Tensor, "batch patches"]:
    """How much the class token attends to each patch: CLIP's own softmax(q_cls k^T / sqrt(d)), the mean over heads.

    Args:
        q: queries, class token first, (B, 1 + P, H d).
        k: keys, (B, 1 + P, H d).
        heads: H.

    Returns:
        The weights of the patches, (B, P), in fp32; that of the class token itself is missing from their sum of 1.

    Example:
        >>> import torch
        >>> tokens = torch.zeros(1, 4, 2)
        >>> attention_of_class(tokens, tokens, heads=1)
        tensor([[0.2500, 0.2500, 0.2500]])
    """
    query, keys = split_heads(q[:, :1].float(), heads), split_heads(k.float(), heads)
    weights = (query @ keys.transpose(2, 3)).div(math.sqrt(query.shape[-1])).softmax(-1)
    return weights.mean(1)[:, 0, 1:]


def project_in(block: Any, x: TokenRows, first: int = 0, stop: int = 3) -> Float[Tensor, "*rows projected"]:
    """The input projections of ln_1(x), concatenated along the last axis.

    Args:
        block: of either tower.
        x: the block's input, (..., W).
        first: first projection: 0 (q), 1 (k) or 2 (v).
        stop: one after the last projection; the default computes q, k and v, (..., 3 W).
    """
    rows = slice(first * x.shape[-1], stop * x.shape[-1])
    return F.linear(block.ln_1(x), block.attn.in_proj_weight[rows], block.attn.in_proj_bias[rows])
