"""The frozen text tower from token embeddings on: whole prompts, or a shared beginning and each prompt's own rest.

A causal tower's first tokens do not see what follows them, so prompts that begin alike ("[start] context") share that
beginning: it is computed once, and each prompt's own few tokens attend to its keys and values. Prompts of one length
stand together, so that nothing is padded. Equal to encoding whole prompts up to the order of sums, gradients too.
Pure functions on ``open_clip.CLIP``'s text side.
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
PromptRows = Float[Tensor, "rows width"]
Heads = Float[Tensor, "prompts tokens heads head"]
Far = Float[Tensor, "start heads head"]
Groups = list[tuple[int, int]]


def encode_whole(clip: Any, embeddings: PromptTokens, ends: Int[Tensor, " prompts"]) -> Texts:
    """Text features of prompts given as token embeddings, (K, D); nothing after the last end is computed.

    Args:
        clip: an ``open_clip.CLIP``.
        embeddings: without positions, (K, L, W).
        ends: where each prompt's end token is, (K,).
    """
    length = embeddings.shape[1]
    mask = None if clip.attn_mask is None else clip.attn_mask[:length, :length]
    x = clip.transformer(embeddings + clip.positional_embedding[:length], attn_mask=mask)
    return project(clip, x[torch.arange(len(x), device=x.device), ends])


def encode_shared(
    clip: Any, beginning: Float[Tensor, "start width"], rests: PromptTokens, ends: Int[Tensor, " prompts"]
) -> Texts:
    """Text features of prompts that begin alike, (K, D): as `encode_whole` of beginning + rest.

    Args:
        clip: an ``open_clip.CLIP`` whose text blocks are plain (see ``backbone.is_plain``) and causal.
        beginning: the shared token embeddings, without positions, (S, W).
        rests: each prompt's own token embeddings, (K, L, W).
        ends: where each prompt's end token is in its rest, (K,).
    """
    order = torch.argsort(ends, stable=True)
    lengths, counts = (ends + 1).unique(return_counts=True)
    groups = list(zip(counts.tolist(), lengths.tolist(), strict=True))  # so many prompts of so many own tokens
    start, longest = len(beginning), rests.shape[1]
    positions = clip.positional_embedding
    own = torch.arange(longest, device=rests.device) <= ends[order, None]
    rows = (rests + positions[start : start + longest])[order][own]  # group after group, prompt after prompt
    x = torch.cat([beginning + positions[:start], rows])
    *blocks, last = clip.transformer.resblocks
    for block in blocks:
        parts = project_in(block, x)
        seen, own = parts.split([start, len(rows)])
        attended = attend_groups(block, own[:, : x.shape[1]], own[:, x.shape[1] :], seen[:, x.shape[1] :], groups)
        x = finish_block(block, x, torch.cat([attend_alone(block, seen), attended]))
    x_end = x[start - 1 + (ends[order] + 1).cumsum(0)]  # nothing looks at other tokens after the last block
    seen, own = project_in(last, x, 1).split([start, len(rows)])
    x_end = finish_block(last, x_end, attend_groups(last, project_in(last, x_end, 0, 1), own, seen, groups))
    return project(clip, x_end)[torch.argsort(order)]


def attend_alone(block: Any, parts: PromptRows) -> PromptRows:
    """Causal attention of the beginning's tokens among themselves; ``parts``: their q, k and v."""
    q, k, v = (split_heads(part[None], block.attn.num_heads) for part in parts.chunk(3, dim=-1))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)[0]


def attend_groups(block: Any, q: PromptRows, own: PromptRows, seen: PromptRows, groups: Groups) -> PromptRows:
    """Prompts' tokens attend to the beginning and to their own prompt's tokens up to themselves.

    Args:
        block: of the text tower.
        q: of all own tokens, (T, W), or of each prompt's end token alone, (K, W).
        own: keys and values of all own tokens, (T, 2 W).
        seen: those of the beginning, (S, 2 W).
        groups: how many prompts of how many tokens follow each other.
    """
    heads, width = block.attn.num_heads, q.shape[-1]
    far_k, far_v = (part.unflatten(-1, (heads, -1)) for part in seen.chunk(2, dim=-1))
    sizes = [count * length for count, length in groups]
    asking = q.split(sizes if len(q) == len(own) else [count for count, _ in groups])
    found = []
    for (count, _), mine, rows in zip(groups, asking, own.split(sizes), strict=True):
        q_, k, v = (part.view(count, -1, heads, width // heads) for part in (mine, *rows.chunk(2, dim=-1)))
        found.append(attend_with_prefix(q_, k, v, far_k, far_v).flatten(0, 1).flatten(1))
    return torch.cat(found)


def attend_with_prefix(q: Heads, k: Heads, v: Heads, far_k: Far, far_v: Far) -> Heads:
    """Attention of prompts' last tokens q to all of the beginning's keys, and to their own ones up to themselves."""
    asked, length = q.shape[1], k.shape[1]
    later = torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)[-asked:]
    far = torch.einsum("kqhd,shd->khqs", q, far_k)
    near = torch.einsum("kqhd,kthd->khqt", q, k).masked_fill(later, -torch.inf)
    weights = (torch.cat([far, near], -1) * q.shape[-1] ** -0.5).softmax(-1).to(v.dtype)
    far, near = weights.split([len(far_k), length], -1)
    return torch.einsum("khqs,shd->kqhd", far, far_v) + torch.einsum("khqt,kthd->kqhd", near, v)


def project(clip: Any, x: Float[Tensor, "prompts width"]) -> Texts:
    """The end tokens' features: ln_final, projection in fp32, normalisation."""
    x = clip.ln_final(x)
    with torch.autocast(x.device.type, enabled=False):
        projection = clip.text_projection
        linear = isinstance(projection, nn.Linear)
        out = F.linear(x.float(), projection.weight.float()) if linear else x.float() @ projection.float()
        return F.normalize(out, dim=-1)
