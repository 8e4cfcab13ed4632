"""Do weights fit a model of open_clip: names, sizes and activation. Checked before the model is built."""

from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor

from ..errors import InputError, message_of
from .model_folders import name_in_open_clip
from .support import unsupported_part
from .weights import ANCHOR

Shapes = dict[str, tuple[int, ...]]
POSITIONS = "visual.positional_embedding"
Sizes = tuple[int, ...]  # what distinguishes CLIPs with a ViT, as sizes_of gives it


def model_shapes(name: str, image_size: int | None = None) -> Shapes:
    """Names and shapes of a model's weights, without allocating them; ``image_size`` in pixels, None: its own."""
    own_name = name_in_open_clip(name)
    try:
        with torch.device("meta"):
            clip = open_clip.create_model(own_name, load_weights=False, force_image_size=image_size, device="meta")
    except Exception as error:  # the type depends on the configuration, which may be anybody's
        reason = message_of(error)
        raise InputError(f"--model.backbone {name}: open_clip cannot build this model ({reason})") from error
    return {key: tuple(tensor.shape) for key, tensor in clip.state_dict().items()}


def check_weights(
    source: str, name: str, state: Mapping[str, Tensor], image_size: int | None, quick: bool | None
) -> None:
    """Require the weights of this model, of its own image size or of ``image_size``.

    Args:
        source: the file, for messages.
        name: a model of open_clip.
        state: names to tensors.
        image_size: the side of the images in pixels; None: the model's own.
        quick: whether the weights were trained with QuickGELU; None: unknown.

    Raises:
        InputError: weights are missing, unexpected, or of other sizes; the message names the first few, and the model
            that they fit if there is one.
    """
    given: Shapes = {key: tuple(tensor.shape) for key, tensor in state.items()}
    expected = model_shapes(name)
    if image_size is not None and given.get(POSITIONS) != expected[POSITIONS]:
        expected = model_shapes(name, image_size)
    missing = [key for key in expected if key not in given]
    unexpected = [key for key in given if key not in expected]
    other = [key for key in expected if key in given and given[key] != expected[key]]
    if other and (not missing or sizes_of_weights(given)):
        key, more = other[0], f" ({len(other)} tensors differ)" if len(other) > 1 else ""
        raise InputError(
            f"the weights in {source} are of another size than {name}: {key} is {given[key]} in the file and "
            f"{expected[key]} in the model{more}; {advice(given, other, quick)}"
        )
    if missing or unexpected:
        parts = [
            f"{len(keys)} {kind} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for kind, keys in (("missing", missing), ("unexpected", unexpected))
            if keys
        ]
        raise InputError(
            f"the weights in {source} are not of {name}, which has {len(expected)} tensors: {', '.join(parts)}; "
            f"{advice(given, other, quick)}"
        )


def advice(given: Shapes, other: Sequence[str], quick: bool | None) -> str:
    """What to do about weights of other names, or of other sizes at the names ``other``."""
    fitting = fitting_models(given, quick)
    if fitting:
        return f"the file fits {' or '.join(fitting[:3])}: use --model.backbone {fitting[0]}"
    if list(other) == [POSITIONS]:
        side = given[ANCHOR][-1] * isqrt(given[POSITIONS][0] - 1)
        return f"the file is for images of {side} pixels: use --model.image_size {side}"
    if any(key.startswith(("vision_model.", "text_model.")) for key in given):
        return "the file is of Hugging Face transformers: take open_clip's file of the same weights"
    return "give a file of this model with --model.pretrained FILE"


def sizes_of_weights(shapes: Shapes) -> Sizes | None:
    """The sizes of a CLIP from its weights' shapes; None: not a CLIP with a ViT.

    They are: embedding; width, patch size, patches per side and layers of the image tower; context length, vocabulary,
    width and layers of the text tower.
    """
    try:
        (width, _, patch, _), (positions, _) = shapes[ANCHOR], shapes[POSITIONS]
        (_, embedding), (vocabulary, text_width) = shapes["visual.proj"], shapes["token_embedding.weight"]
        context, _ = shapes["positional_embedding"]
    except (KeyError, ValueError):
        return None
    layers = [
        sum(key.startswith(prefix) and key.endswith(".ln_1.weight") for key in shapes)
        for prefix in ("visual.transformer.", "transformer.")
    ]
    return embedding, width, patch, isqrt(max(positions - 1, 0)), layers[0], context, vocabulary, text_width, layers[1]


def sizes_of_config(config: Mapping[str, Any]) -> Sizes | None:
    """The same sizes from open_clip's configuration; None: not a plain CLIP with a ViT and square images."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if unsupported_part(config):
        return None
    image, words = CLIPVisionCfg(**vision), CLIPTextCfg(**text)
    if not isinstance(image.image_size, int):
        return None
    tower = image.width, image.patch_size, image.image_size // image.patch_size, image.layers
    return config["embed_dim"], *tower, words.context_length, words.vocab_size, words.width, words.layers


def fitting_models(shapes: Shapes, quick: bool | None) -> list[str]:
    """The models of open_clip that weights of these shapes fit; only those of one activation if it is known."""
    sizes = sizes_of_weights(shapes)
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    fitting = {name: config for name, config in configs.items() if sizes and sizes_of_config(config) == sizes}
    return [name for name, config in fitting.items() if quick in (None, bool(config.get("quick_gelu")))]


def other_activation(name: str) -> str | None:
    """The model of the same sizes with QuickGELU in place of GELU, or the reverse; None: open_clip has none."""
    other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
    return other if other in open_clip.list_models() else None


def check_activation(source: str, name: str, quick: bool, trained_with: bool | None) -> str:
    """Require the activation that the weights were trained with, which changes the features and not the names.

    Args:
        source: the file or tag, for messages.
        name: the model.
        quick: whether the model has QuickGELU.
        trained_with: whether the weights were trained with QuickGELU; None: unknown.

    Returns:
        A note if it is unknown and open_clip has the model with either activation; otherwise an empty string.

    Raises:
        InputError: they were trained with the other activation.
    """
    other = other_activation(name)
    used, unused = ("QuickGELU", "GELU") if quick else ("GELU", "QuickGELU")
    if trained_with is not None and trained_with != quick:
        remedy = f"use --model.backbone {other}" if other else "open_clip has no such model with that one"
        raise InputError(
            f"activation mismatch: weights {source} were trained with {unused} and {name} has {used}: {remedy}"
        )
    if trained_with is None and other:
        return (
            f"the file {source} does not tell its activation: {name} uses {used}; if the weights were trained with "
            f"{unused}, the scores are wrong: use --model.backbone {other}"
        )
    return ""
