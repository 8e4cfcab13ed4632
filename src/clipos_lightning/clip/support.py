"""Which CLIP models the surgery path supports, and the fingerprint of their weights."""

import hashlib
from collections.abc import Mapping
from typing import Any

import open_clip
import torch
from open_clip.transformer import VisionTransformer
from torch import nn

from ..errors import InputError

TO_CHOOSE = "ViT-B-16-quickgelu, ViT-B-32-quickgelu, ViT-L-14-quickgelu or MicroCLIP"
NOT_CAUSAL = "its text tower is not causal with the feature at the end token"


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


def unsupported_part(config: Mapping[str, Any]) -> str | None:
    """The part of a model that the method cannot read, by open_clip's configuration; None: it seems supported.

    Example:
        >>> text = {"context_length": 77}
        >>> unsupported_part({"embed_dim": 512, "vision_cfg": {"layers": 12}, "text_cfg": text})
        >>> unsupported_part({"embed_dim": 512, "vision_cfg": {"layers": [3, 4, 6, 3]}, "text_cfg": text})
        'its image tower is a ResNet, without the patch tokens that maps and local features are read from'
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    pool, tokens = text.get("pool_type", "argmax"), "the patch tokens that maps and local features are read from"
    if config.get("multimodal_cfg"):
        return "it is a CoCa, whose image tower pools by attention and whose text tower also writes captions"
    if config.get("init_logit_bias") is not None:
        return (
            "it is trained with a sigmoid for each class (SigLIP), and the losses and scores here are of a softmax "
            "over the classes"
        )
    if vision.get("timm_model_name"):
        return f"its image tower is timm's {vision['timm_model_name']}, and {tokens} are those of open_clip's own ViT"
    if not isinstance(vision.get("layers", 12), int):
        return f"its image tower is a ResNet, without {tokens}"
    if vision.get("attentional_pool") or vision.get("pool_type", "tok") != "tok":
        return "its image tower does not pool by the class token"
    if "hf_model_name" in text:
        return f"its text tower is Hugging Face's {text['hf_model_name']}: prompts are learned in CLIP's own text tower"
    if text.get("no_causal_mask") or text.get("embed_cls") or pool not in ("argmax", "eos"):
        return NOT_CAUSAL
    if text.get("hf_tokenizer_name"):
        return f"its tokenizer is Hugging Face's {text['hf_tokenizer_name']}, not CLIP's own"
    return "its text tower is a module of its own, not CLIP's" if config.get("custom_text") else None


def refuse(name: str, problem: str | None) -> None:
    """Raise InputError for a model with a part that is not supported; nothing if ``problem`` is None."""
    if problem:
        raise InputError(
            f"backbone {name} is not supported: {problem}. Choose an open_clip ViT with a class token, such as "
            f"{TO_CHOOSE}"
        )


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
        problem = NOT_CAUSAL
    elif not isinstance(tokenizer, open_clip.SimpleTokenizer):
        problem = f"its tokenizer is a {type(tokenizer).__name__}, not CLIP's own"
    refuse(name, problem)
