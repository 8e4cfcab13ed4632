"""The frozen text tower from token embeddings on: whole prompts, or a shared beginning and each prompt's own rest.

A causal tower's first tokens do not see what follows them, so prompts that begin alike ("[start] context") share that
beginning: it is computed once, and each prompt's own few tokens attend to its keys and values. Equal to encoding whole
prompts up to the order of sums, gradients too. Pure functions on ``open_clip.CLIP``'s text side.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .surgery import split_heads
from .types import Texts

Tokens = Float[Tensor, "prompts tokens width"]


def encode_whole(clip: Any, embeddings: Tokens, ends: Int[Tensor, " prompts"]) -> Texts:
    """Text features of prompts given as token embeddings, (K, D); nothing after the last end is computed.

    Args:
        clip: an ``open_clip.CLIP``.
        embeddings: without positions, (K, L, W).
        ends: where each prompt's end token is, (K,).
    """
    length = embeddings.shape[1]
    mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
    x = clip.transformer(embeddings + clip.positional_embedding[:length], attn_mask=mask)
    return project(clip, x, ends)


def encode_shared(
    clip: Any, beginning: Float[Tensor, "start width"], rests: Tokens, ends: Int[Tensor, " prompts"]
) -> Texts:
    """Text features of prompts that begin alike, (K, D), as :func:`encode_whole` of beginning + rest.

    Args:
        clip: an ``open_clip.CLIP`` whose text blocks are plain (see ``backbone.is_plain``) and causal.
        beginning: the shared token embeddings, without positions, (S, W).
        rests: each prompt's own token embeddings, (K, L, W).
        ends: where each prompt's end token is in its rest, (K,).
    """
    start, length = len(beginning), rests.shape[1]
    positions = clip.positional_embedding
    x, y = (beginning + positions[:start])[None], rests + positions[start : start + length]
    seen = torch.ones(length, start + length, dtype=torch.bool, device=rests.device).tril(start)
    blocks = clip.transformer.resblocks
    for i, block in enumerate(blocks):
        (q, k, v), (q_, k_, v_) = (heads_of(block, tokens) for tokens in (x, y))
        keys, values = (torch.cat([a.expand(len(y), -1, -1, -1), b], 2) for a, b in ((k, k_), (v, v_)))
        y = after_attention(block, y, F.scaled_dot_product_attention(q_, keys, values, attn_mask=seen))
        if i < len(blocks) - 1:  # nothing looks at the beginning after the last block
            x = after_attention(block, x, F.scaled_dot_product_attention(q, k, v, is_causal=True))
    return project(clip, y, ends)


def heads_of(block: Any, x: Tokens) -> list[Float[Tensor, "prompts heads tokens head"]]:
    """q, k and v of a block, split into heads."""
    attention = block.attn
    qkv = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    return [split_heads(part, attention.num_heads) for part in qkv.chunk(3, dim=-1)]


def after_attention(block: Any, x: Tokens, attended: Float[Tensor, "prompts heads tokens head"]) -> Tokens:
    """The rest of a block: out-projection, residuals, MLP."""
    x = x + block.ls_1(block.attn.out_proj(attended.transpose(1, 2).flatten(2)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def project(clip: Any, x: Tokens, ends: Int[Tensor, " prompts"]) -> Texts:
    """The end tokens' features: ln_final, projection in fp32, normalisation."""
    x = clip.ln_final(x[torch.arange(len(x), device=x.device), ends])
    with torch.autocast(x.device.type, enabled=False):
        projection = clip.text_projection
        linear = isinstance(projection, nn.Linear)
        out = F.linear(x.float(), projection.weight.float()) if linear else x.float() @ projection.float()
        return F.normalize(out, dim=-1)
