"""Which CLIP models the surgery path supports, and the fingerprint of their weights."""

import hashlib
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import nn

from ..errors import InputError


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over all weights (names, shapes, types and bytes, sorted by name), as a hexadecimal string."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_clip_block(block: Any) -> bool:
    """Whether a block has CLIP's own attention: one input projection of q, k and v, no extra norms or scales.

    open_clip's custom blocks add them; an ``nn.Identity`` in their place does not count.
    """
    names = ("ln_q", "ln_k", "ln_inner", "head_scale", "logit_scale")
    extras = [getattr(block, "ln_attn", None), *(getattr(block.attn, name, None) for name in names)]
    return hasattr(block.attn, "in_proj_weight") and all(isinstance(e, nn.Identity | None) for e in extras)


def check_supported(clip: nn.Module, tokenizer: Any, name: str) -> None:
    """Require open_clip's ViT with a class token and learnable positions, and CLIP's causal text tower.

    Args:
        clip: the model.
        tokenizer: its tokenizer.
        name: the model's name in error messages.

    Raises:
        InputError: the model or its tokenizer is of another kind; the message says which part.
    """
    problem = None
    visual = getattr(clip, "visual", None)
    if not isinstance(clip, open_clip.CLIP):
        problem = f"it is a {type(clip).__name__}, not a plain CLIP"
    elif not isinstance(visual, VisionTransformer):
        problem = f"its image tower is a {type(visual).__name__}, not a ViT with a class token"
    elif visual.attn_pool is not None or visual.pool_type != "tok":
        problem = "its image tower does not pool by the class token"
    elif not all(is_clip_block(block) for block in visual.transformer.resblocks):
        problem = "its attention blocks are not CLIP's own"
    elif visual.image_size[0] != visual.image_size[1]:
        problem = "its images are not square"
    elif clip.attn_mask is None or clip.text_pool_type not in ("argmax", "eos"):
        problem = "its text tower is not causal with the feature at the end token"
    elif not isinstance(tokenizer, open_clip.SimpleTokenizer):
        problem = f"its tokenizer is a {type(tokenizer).__name__}, not CLIP's own"
    if problem:
        raise InputError(
            f"backbone {name} is not supported: {problem}. Choose an open_clip ViT with a class token, such as "
            "ViT-B-16-quickgelu, ViT-B-32-quickgelu, ViT-L-14-quickgelu or MicroCLIP"
        )
