"""Load a CLIP by its name in open_clip: the embedded MicroCLIP, a pretrained tag, or a local file of weights."""

import difflib
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME
from open_clip.model import CLIPVisionCfg, resize_pos_embed
from torch import Tensor

from ..data.preprocessing import CLIP_RESIZE, Preprocessing
from ..errors import InputError
from ..options.configs import EMBEDDED_BACKBONE
from ..utils.progress import notify_if_slow
from ..utils.quiet import quiet
from ..utils.sharing import shared_in
from .backbone import FrozenClip
from .model_folders import folder_config, folder_weights, has_prefix, name_in_open_clip
from .pretrained import find_weights, known_config
from .support import fingerprint, refuse, unsupported_part
from .surgery import SurgeryOptions
from .weight_checks import check_activation, check_weights
from .weights import read_weights


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a model; registers MicroCLIP first.

    Raises:
        InputError: open_clip has no model of this name, or its configuration is not there or not valid.
    """
    if has_prefix(name):
        return folder_config(name)
    if open_clip.get_model_config(EMBEDDED_BACKBONE) is None:
        with as_file(files("clipos_lightning") / "assets" / f"{EMBEDDED_BACKBONE}.json") as path:
            open_clip.add_model_config(path)
    config = open_clip.get_model_config(name)
    if config is None:
        models = {known.lower(): known for known in open_clip.list_models()}
        closest = difflib.get_close_matches(name.lower(), models, 1)
        advice = f"did you mean {models[closest[0]]}?" if closest else f"e.g. ViT-B-16-quickgelu, {EMBEDDED_BACKBONE}"
        raise InputError(f"unknown backbone {name!r}; {advice} (all: open_clip.list_models())")
    return config


def choose_weights(name: str, config: dict[str, Any], pretrained: str | None) -> str:
    """Return the tag or file to load; None means a folder's own, the embedded ones for MicroCLIP, else ``openai``.

    Raises:
        InputError: neither a tag of this model nor a file, or weights trained with another activation.
    """
    if pretrained is None and name == EMBEDDED_BACKBONE:
        return str(files("clipos_lightning") / "assets" / f"{EMBEDDED_BACKBONE}.safetensors")
    if pretrained is None and has_prefix(name):
        return str(folder_weights(name))
    pretrained = pretrained or "openai"
    if open_clip.is_pretrained_cfg(name, pretrained):
        trained_with = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
        check_activation(repr(pretrained), name, bool(config.get("quick_gelu", False)), trained_with)
    elif Path(pretrained).is_dir():
        raise InputError(
            f"--model.pretrained {pretrained} is a folder: give the file in it, such as {HF_SAFE_WEIGHTS_NAME}"
        )
    elif not Path(pretrained).is_file():
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        has_own = name == EMBEDDED_BACKBONE or has_prefix(name)
        own = "; for the model's own weights, --model.pretrained null" if has_own else ""
        if Path(pretrained).suffix or "/" in pretrained:
            raise InputError(
                f"no file of weights {pretrained}: give --model.pretrained FILE, or a tag of {name} (tags: {tags}){own}"
            )
        raise InputError(f"--model.pretrained {pretrained!r} is neither a file nor a tag of {name} (tags: {tags}){own}")
    return pretrained


@dataclass(frozen=True)
class LoadedClip:
    """open_clip's model and tokenizer, the SHA-256 of the weights, and what the user should know about them."""

    clip: open_clip.CLIP
    tokenizer: open_clip.SimpleTokenizer
    fingerprint: str
    note: str


_shared: ContextVar[dict[tuple[Any, ...], LoadedClip] | None] = ContextVar("_shared", default=None)


def shared_weights() -> AbstractContextManager[None]:
    """Load each CLIP only once inside this context: all detectors on it share the frozen weights and their device."""
    return shared_in(_shared)


def load_backbone(
    name: str = EMBEDDED_BACKBONE,
    pretrained: str | None = None,
    surgery: SurgeryOptions | None = None,
    image_size: int | None = None,
) -> FrozenClip:
    """Load a frozen CLIP by its name in open_clip.

    Args:
        name: a model of open_clip, such as ``ViT-B-16-quickgelu``, ``hf-hub:owner/name`` on the Hugging Face hub or
            ``local-dir:FOLDER``, or ``MicroCLIP`` (embedded, the default).
        pretrained: a tag of open_clip or a local file; None: the model's own weights for MicroCLIP and for a model of
            the hub or in a folder, else ``openai``.
        surgery: options of the surgery path; None: the defaults.
        image_size: pixels per side, a multiple of the patch size, with the position embeddings interpolated (bicubic);
            None: the model's own size.

    Raises:
        InputError: unknown or unsupported model, activation mismatch, weights neither cached nor reachable.

    Example:
        >>> from clipos_lightning import load_backbone
        >>> backbone = load_backbone()
        >>> backbone.name, backbone.image_size, backbone.grid
        ('MicroCLIP', 32, (8, 8))
        >>> backbone.encode_text(["a photo of a cat."]).shape
        torch.Size([1, 128])
    """
    config = model_config(name)
    refuse(name, unsupported_part(config))  # before weights are downloaded
    patch = config["vision_cfg"].get("patch_size", CLIPVisionCfg.patch_size)
    if image_size is not None and (image_size < patch or image_size % patch):
        raise InputError(f"--model.image_size is {image_size}: {name} takes a multiple of its patch, {patch} pixels")
    loaded = load_clip(name, choose_weights(name, config, pretrained), image_size)
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    backbone = FrozenClip(loaded.clip, loaded.tokenizer, name, activation, surgery, loaded.fingerprint)
    backbone.note = loaded.note
    return backbone


def load_clip(name: str, weights: str, image_size: int | None) -> LoadedClip:
    """Build open_clip's model with these weights; inside :func:`shared_weights` only once.

    Args:
        name: a model of open_clip.
        weights: one of its tags, or a file.
        image_size: pixels per side, with the position embeddings interpolated (bicubic, antialiased) unless the file
            has those of this size; None: the model's own size.

    Raises:
        InputError: the weights are neither cached nor reachable, cannot be read, or are not of this model.
    """
    shared, key = _shared.get(), (name, weights, image_size)
    if shared is not None and key in shared:
        return shared[key]
    slow = f"still loading weights {weights!r} of {name}: a download, or a slow network or disk ..."
    with quiet(), notify_if_slow(slow):
        state, pixels, note = checked_weights(name, weights, image_size)
        own_name = name_in_open_clip(name)
        clip = open_clip.create_model(
            own_name, load_weights=False, force_image_size=image_size, force_preprocess_cfg=pixels, device="cpu"
        )
        resize_pos_embed(state, clip, interpolation="bicubic", antialias=True)
        clip.load_state_dict(state)
        loaded = LoadedClip(clip, open_clip.get_tokenizer(own_name), fingerprint(clip), note)
    if shared is not None:
        shared[key] = loaded
    return loaded


def checked_weights(name: str, weights: str, image_size: int | None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Find, read and check weights before their model is built; arguments as for :func:`load_clip`.

    Returns:
        The state dict, what is known of the image preprocessing (fields of open_clip's ``PreprocessCfg``), and a note
        or an empty string.

    Raises:
        InputError: the weights are neither cached nor reachable, cannot be read, are not of this model, or declare
            image preprocessing that is not supported.
    """
    tag = open_clip.is_pretrained_cfg(name, weights)
    path = find_weights(name, weights) if tag else Path(weights)
    known = open_clip.get_pretrained_cfg(name, weights) if tag else known_config(path)
    read = read_weights(path)
    quick = True if read.openai else bool(known.get("quick_gelu", False)) if known else None
    check_weights(str(path), name, read.state, image_size, quick)
    note = check_activation(str(path), name, bool(model_config(name).get("quick_gelu", False)), quick)
    pixels = {key: known[key] for key in ("mean", "std", *CLIP_RESIZE) if key in known}
    Preprocessing.declared(0, pixels, str(path))  # raises before the model is built
    return read.state, pixels, note
