"""The frozen text tower from token embeddings on: whole prompts, or a shared prefix with each prompt's own suffix.

A causal tower's first tokens do not depend on later ones, so the prefix that all prompts share ("[start] context") is
computed once; the suffix tokens attend to its keys and values. Suffixes of equal length are batched together, so no
padding is needed. Features and gradients equal those of whole prompts up to the order of fp32 sums. Pure functions on
the text side of ``open_clip.CLIP``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..types import Texts
from .blocks import finish_block, project_in
from .surgery import split_heads

PromptTokens = Float[Tensor, "prompts tokens width"]
PrefixRows = Float[Tensor, "prefix width"]
QueryRows = Float[Tensor, "queries width"]
QueryHeads = Float[Tensor, "prompts queries heads head"]
SuffixHeads = Float[Tensor, "prompts tokens heads head"]
PrefixHeads = Float[Tensor, "prefix heads head"]
Groups = list[tuple[int, int]]


def encode_whole(clip: Any, embeddings: PromptTokens, ends: Int[Tensor, " prompts"]) -> Texts:
    """Text features of prompts given as token embeddings, (K, D); tokens after the last end token are not needed.

    Args:
        clip: an ``open_clip.CLIP``.
        embeddings: token embeddings without positions, (K, L, W).
        ends: position of each prompt's end token, (K,).
    """
    length = embeddings.shape[1]
    mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
    x = clip.transformer(embeddings + clip.positional_embedding[:length], attn_mask=mask)
    return project(clip, x[torch.arange(len(x), device=x.device), ends])


def encode_shared(clip: Any, prefix: PrefixRows, suffixes: PromptTokens, ends: Int[Tensor, " prompts"]) -> Texts:
    """Text features of prompts with a shared prefix, (K, D): those of `encode_whole` on prefix + suffix.

    Args:
        clip: an ``open_clip.CLIP`` with a causal text tower of plain blocks (see :func:`.support.is_clip_block`).
        prefix: token embeddings of the shared prefix, without positions, (S, W).
        suffixes: token embeddings of each prompt's suffix, without positions, (K, L, W).
        ends: position of each prompt's end token in its suffix, (K,).
    """
    order = torch.argsort(ends, stable=True)
    lengths, counts = (ends + 1).unique(return_counts=True)
    groups = list(zip(counts.tolist(), lengths.tolist(), strict=True))  # prompts, suffix tokens
    start, longest = len(prefix), suffixes.shape[1]
    positions = clip.positional_embedding
    used = torch.arange(longest, device=suffixes.device) <= ends[order, None]
    rows = (suffixes + positions[start : start + longest])[order][used]  # sorted by length, prompt by prompt
    x = torch.cat([prefix + positions[:start], rows])
    *blocks, last = clip.transformer.resblocks
    for block in blocks:
        of_prefix, of_suffix = project_in(block, x).split([start, len(rows)])
        (q, kv), prefix_kv = of_suffix.tensor_split([x.shape[1]], 1), of_prefix[:, x.shape[1] :]
        attended = attend_groups(block, q, kv, prefix_kv, groups)
        x = finish_block(block, x, torch.cat([attend_within_prefix(block, of_prefix), attended]))
    x_end = x[start - 1 + (ends[order] + 1).cumsum(0)]  # after the last block only the end tokens are used
    prefix_kv, kv = project_in(last, x, 1).split([start, len(rows)])
    x_end = finish_block(last, x_end, attend_groups(last, project_in(last, x_end, 0, 1), kv, prefix_kv, groups))
    return project(clip, x_end)[torch.argsort(order)]


def attend_within_prefix(block: Any, projected: Float[Tensor, "prefix projected"]) -> PrefixRows:
    """Causal attention among the prefix tokens, (S, W).

    Args:
        block: of the text tower.
        projected: their q, k and v, (S, 3 W).
    """
    q, k, v = (split_heads(part[None], block.attn.num_heads) for part in projected.chunk(3, dim=-1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)[0]


def attend_groups(
    block: Any,
    q: QueryRows,
    suffix: Float[Tensor, "suffixes 2*width"],
    prefix: Float[Tensor, "prefix 2*width"],
    groups: Groups,
) -> QueryRows:
    """Causal attention of suffix tokens to the prefix and to their own prompt's suffix.

    Args:
        block: of the text tower.
        q: queries of all suffix tokens, (T, W), or of each prompt's end token alone, (K, W).
        suffix: keys and values of all suffix tokens, (T, 2 W).
        prefix: keys and values of the prefix tokens, (S, 2 W).
        groups: (number of prompts, number of suffix tokens) of each group of prompts with equal length, in row order.
    """
    heads, width = block.attn.num_heads, q.shape[-1]
    prefix_k, prefix_v = (part.unflatten(-1, (heads, -1)) for part in prefix.chunk(2, dim=-1))
    sizes = [count * length for count, length in groups]
    queries = q.split(sizes if len(q) == len(suffix) else [count for count, _ in groups])
    attended = []
    for (count, _), query, rows in zip(groups, queries, suffix.split(sizes), strict=True):
        q_, k, v = (part.view(count, -1, heads, width // heads) for part in (query, *rows.chunk(2, dim=-1)))
        attended.append(attend_with_prefix(q_, k, v, prefix_k, prefix_v).flatten(0, 1).flatten(1))
    return torch.cat(attended)


def attend_with_prefix(
    q: QueryHeads, k: SuffixHeads, v: SuffixHeads, prefix_k: PrefixHeads, prefix_v: PrefixHeads
) -> QueryHeads:
    """Attention of each prompt's last tokens to the whole prefix and, causally, to their own suffix.

    Args:
        q: queries of the last M suffix tokens, (K, M, H, d).
        k: keys of all suffix tokens, (K, L, H, d).
        v: their values, (K, L, H, d).
        prefix_k: keys of the prefix, (S, H, d).
        prefix_v: its values, (S, H, d).
    """
    queries, length = q.shape[1], k.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)[-queries:]
    to_prefix = torch.einsum("kqhd,shd->khqs", q, prefix_k)
    to_suffix = torch.einsum("kqhd,kthd->khqt", q, k).masked_fill(later, -torch.inf)
    weights = (torch.cat([to_prefix, to_suffix], -1) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
    to_prefix, to_suffix = weights.split([len(prefix_k), length], -1)
    return torch.einsum("khqs,shd->kqhd", to_prefix, prefix_v) + torch.einsum("khqt,kthd->kqhd", to_suffix, v)


def project(clip: Any, x: Float[Tensor, "prompts width"]) -> Texts:
    """Features of the end tokens: ln_final, projection in fp32, L2-normalisation."""
    x = clip.ln_final(x)
    with torch.autocast(x.device.type, enabled=False):
        projection = clip.text_projection
        linear = isinstance(projection, nn.Linear)
        out = F.linear(x.float(), projection.weight.float()) if linear else x.float() @ projection.float()
        return F.normalize(out, dim=-1)
