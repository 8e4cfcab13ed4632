"""Load a CLIP by its name in open_clip: the embedded MicroCLIP, a pretrained tag, or a local file of weights."""

import difflib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import open_clip
from open_clip.model import resize_pos_embed

from ..errors import InputError
from ..options.configs import EMBEDDED_BACKBONE
from ..utils.quiet import quiet
from .backbone import FrozenClip
from .support import fingerprint
from .surgery import SurgeryOptions


@contextmanager
def notify_if_slow(what: str, seconds: float = 8.0) -> Iterator[None]:
    """Print ``what`` on stderr if the body takes longer than ``seconds``."""
    timer = threading.Timer(seconds, lambda: print(what, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def model_config(name: str) -> dict[str, Any]:
    """Return open_clip's configuration of a model; registers MicroCLIP first.

    Raises:
        InputError: open_clip has no model of this name.
    """
    if ":" in name:  # open_clip would access the network
        raise InputError(
            f"--model.backbone {name!r}: give a model by its name in open_clip, such as ViT-B-16-quickgelu"
        )
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
    """Return the tag or file to load; None means the embedded weights for MicroCLIP, else ``openai``.

    Raises:
        InputError: neither a tag of this model nor a file, or weights trained with another activation.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None and name == EMBEDDED_BACKBONE:
        return str(files("clipos_lightning") / "assets" / f"{EMBEDDED_BACKBONE}.safetensors")
    pretrained = pretrained or "openai"
    if open_clip.is_pretrained_cfg(name, pretrained):
        trained_with = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
        if trained_with != bool(config.get("quick_gelu", False)):
            other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
            raise InputError(
                f"activation mismatch: weights {pretrained!r} were trained with {'Quick' if trained_with else ''}GELU "
                f"and {name} has the other one: use --model.backbone {other}"
            )
    elif not Path(pretrained).is_file():
        known = ", ".join(tags) or "none"
        embedded = "; for the embedded weights, --model.pretrained null" if name == EMBEDDED_BACKBONE else ""
        raise InputError(
            f"--model.pretrained {pretrained!r} is neither a file nor a tag of {name} (tags: {known}){embedded}"
        )
    return pretrained


@dataclass(frozen=True)
class LoadedClip:
    """open_clip's model and tokenizer, and the SHA-256 of the weights."""

    clip: open_clip.CLIP
    tokenizer: open_clip.SimpleTokenizer
    fingerprint: str


_shared: ContextVar[dict[tuple[Any, ...], LoadedClip] | None] = ContextVar("_shared", default=None)


@contextmanager
def shared_weights() -> Iterator[None]:
    """Load each CLIP only once inside this context: all detectors on it share the frozen weights and their device."""
    token = _shared.set({} if _shared.get() is None else _shared.get())
    try:
        yield
    finally:
        _shared.reset(token)


def load_backbone(
    name: str = EMBEDDED_BACKBONE,
    pretrained: str | None = None,
    surgery: SurgeryOptions | None = None,
    image_size: int | None = None,
) -> FrozenClip:
    """Load a frozen CLIP by its name in open_clip.

    Args:
        name: a model of open_clip, such as ``ViT-B-16-quickgelu``, or ``MicroCLIP`` (embedded, the default).
        pretrained: a tag of open_clip or a local file; None: the embedded weights for MicroCLIP, else ``openai``.
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
    plain = isinstance(config["vision_cfg"].get("layers"), int) and "timm_model_name" not in config["vision_cfg"]
    if not plain or config.get("custom_text") or "multimodal_cfg" in config:  # reported before anything is downloaded
        raise InputError(
            f"backbone {name} is not supported: it is not a plain CLIP with open_clip's ViT and a class token. "
            f"Choose one such as ViT-B-16-quickgelu, ViT-B-32-quickgelu, ViT-L-14-quickgelu or {EMBEDDED_BACKBONE}"
        )
    patch = config["vision_cfg"]["patch_size"]
    if image_size is not None and (image_size < patch or image_size % patch):
        raise InputError(f"--model.image_size is {image_size}: {name} takes a multiple of its patch, {patch} pixels")
    loaded = load_clip(name, choose_weights(name, config, pretrained), image_size)
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return FrozenClip(loaded.clip, loaded.tokenizer, name, activation, surgery, loaded.fingerprint)


def load_clip(name: str, weights: str, image_size: int | None) -> LoadedClip:
    """Build open_clip's model with these weights; inside :func:`shared_weights` only once.

    Raises:
        InputError: the weights are neither cached nor reachable, or not a file of this model.
    """
    shared, key = _shared.get(), (name, weights, image_size)
    if shared is not None and key in shared:
        return shared[key]
    slow = f"still loading weights {weights!r} of {name}: a download, or a slow network or disk ..."
    try:
        with quiet(), notify_if_slow(slow):
            clip = open_clip.create_model(name, pretrained=weights, precision="fp32", device="cpu")
            clip = clip if image_size is None else resized(clip, name, image_size)
            loaded = LoadedClip(clip, open_clip.get_tokenizer(name), fingerprint(clip))
    except Exception as error:  # anything that the hub's client or the file's reader raises
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"cannot load weights {weights!r} of {name}: neither cached nor reachable, or not a file of this model "
            f"({reason}). Connect to the internet once, or give a local file with --model.pretrained"
        ) from error
    if shared is not None:
        shared[key] = loaded
    return loaded


def resized(clip: open_clip.CLIP, name: str, image_size: int) -> open_clip.CLIP:
    """A copy of the model for another image size: position embeddings interpolated (bicubic, antialiased)."""
    other = open_clip.create_model(name, load_weights=False, force_image_size=image_size, device="cpu")
    state = clip.state_dict()
    resize_pos_embed(state, other, interpolation="bicubic", antialias=True)
    other.load_state_dict(state)
    other.visual.preprocess_cfg = {**getattr(clip.visual, "preprocess_cfg", {}), "size": (image_size, image_size)}
    return other.eval()
