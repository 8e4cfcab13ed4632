"""The frozen CLIP: images to features along several paths, prompts to text features. The only file that uses open_clip.

Any open_clip ViT with a class token and learnable positions works; ``MicroCLIP``, a tiny CLIP for 32-pixel images, is
embedded and loaded by the same code.
"""

import difflib
import hashlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from open_clip.model import resize_pos_embed
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from .blocks import finish, project_in
from .compiled import FixedShapes, Tensors
from .data.transforms import resize_where_it_is
from .errors import InputError
from .surgery import SurgeryOptions, attend, context_matrix, patch_context
from .text_tower import encode_shared, encode_whole
from .types import ImageFeatures, Images, Patches, PathName, Texts

EMBEDDED = "MicroCLIP"
LAST_ROWS = 16  # tokens kept where only the class token is wanted: fewer take other kernels, with other last bits

Tokens = Float[Tensor, "batch tokens width"]


class FrozenClip(nn.Module):
    """A frozen CLIP with a surgery path beside its own (CLIP-OS section 3; CLIP surgery, arXiv:2304.05653).

    Always in eval mode and without gradients of its own; text gradients flow through it to the prompts.

    Args:
        clip: an ``open_clip.CLIP`` with a ViT (see :func:`check_supported`).
        tokenizer: its tokenizer.
        name: the model's name in open_clip.
        activation: ``quick_gelu`` or ``gelu``, recorded with checkpoints.
        surgery: options of the second path.
        weights_fingerprint: SHA-256 of the weights where it is known; None: computed.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        clip: open_clip.CLIP,
        tokenizer: open_clip.SimpleTokenizer,
        name: str,
        activation: str,
        surgery: SurgeryOptions | None = None,
        weights_fingerprint: str | None = None,
    ) -> None:
        super().__init__()
        surgery = surgery or SurgeryOptions()
        check_supported(clip, tokenizer, name)
        self.clip, self.tokenizer, self.name, self.activation, self.surgery = clip, tokenizer, name, activation, surgery
        self.image_size: int = clip.visual.image_size[0]
        self.grid: tuple[int, int] = clip.visual.grid_size
        self.shares_beginnings = all(is_plain(block) for block in clip.transformer.resblocks)
        self.fingerprint = weights_fingerprint or fingerprint(clip)
        blocks = len(clip.visual.transformer.resblocks)
        if not 0 <= self.depth(surgery) <= blocks:
            depth = surgery.depth
            raise InputError(f"--model.surgery.depth is {depth}: {name} has {blocks} blocks, take 0 to {blocks}")
        self._matrices: dict[SurgeryOptions, Tensor] = {}
        self.compiled: FixedShapes | None = None
        preprocess = getattr(clip.visual, "preprocess_cfg", {})
        for key, value in (("mean", open_clip.OPENAI_DATASET_MEAN), ("std", open_clip.OPENAI_DATASET_STD)):
            tensor = torch.tensor(preprocess.get(key, value), device=clip.logit_scale.device).view(1, 3, 1, 1)
            self.register_buffer(key, tensor, persistent=False)
        self.context_of(surgery)  # bad options are said before anything is encoded
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "FrozenClip":
        """Frozen means frozen: stays in eval mode whatever the module around it does."""
        return self

    @property
    def scale(self) -> Tensor:
        """The model's own s = exp(logit_scale), a scalar."""
        return self.clip.logit_scale.detach().float().exp()

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.mean.device

    def compile_tower(self) -> None:
        """Run the image tower by ``torch.compile``, at fixed shapes."""
        self.compiled = FixedShapes(self.tower)

    def depth(self, surgery: SurgeryOptions) -> int:
        """How many of the last blocks have the surgery path."""
        return len(self.clip.visual.transformer.resblocks) // 2 if surgery.depth is None else surgery.depth

    def context_of(self, surgery: SurgeryOptions) -> Float[Tensor, "patches patches"]:
        """The patch-context matrix of these options, built once, on the backbone's device."""
        if surgery not in self._matrices:
            self._matrices[surgery] = context_matrix(self.grid, surgery)
        self._matrices[surgery] = self._matrices[surgery].to(self.device)
        return self._matrices[surgery]

    def encode_image(self, images: Images, paths: frozenset[PathName] = frozenset()) -> ImageFeatures:
        """One forward: the global feature and the patches of the paths asked for.

        Args:
            images: uint8 at the model's size, (B, 3, H, W).
            paths: of ``clip`` (own patches), ``vv`` (surgery path), ``local`` (LoCoOp's local features).
        """
        return self.encode_surgeries(images, paths, [self.surgery])[self.surgery]

    @torch.no_grad()
    def encode_surgeries(
        self, images: Images, paths: frozenset[PathName], surgeries: Sequence[SurgeryOptions]
    ) -> dict[SurgeryOptions, ImageFeatures]:
        """One forward with a surgery path for each of several options; they share everything but ``patches_vv``.

        q, k and v are computed once a block; each surgery path leaves the original one where its blocks start.

        Args:
            images: uint8 at the model's size, (B, 3, H, W), or square ones of another size, which are resized here.
            paths: as for :meth:`encode_image`.
            surgeries: options of the surgery paths, at least one.
        """
        different = tuple(dict.fromkeys(surgeries))
        if images.shape[-1] != self.image_size:
            images = resize_where_it_is(images, self.image_size)
        cls, clip, local, *added = (self.compiled or self.tower)(images, paths=paths, surgeries=different)
        assert cls is not None
        shared = ImageFeatures(cls, clip, patches_local=local)
        return {s: replace(shared, patches_vv=added[i] if added else None) for i, s in enumerate(different)}

    def tower(self, images: Images, paths: frozenset[PathName], surgeries: tuple[SurgeryOptions, ...]) -> Tensors:
        """The global feature, CLIP's own patches and the local ones where asked for, then each surgery path's."""
        visual = self.clip.visual
        x = visual._embeds(((images.float() / 255 - self.mean) / self.std).to(visual.conv1.weight.dtype))
        blocks = visual.transformer.resblocks
        begins = {s: len(blocks) - self.depth(s) for s in (surgeries if "vv" in paths else ())}
        added, local = dict.fromkeys(begins, x), None
        alone = "clip" not in paths and len(blocks) not in begins.values()  # nothing asks for CLIP's own last patches
        for i, block in enumerate(blocks):
            last, heads = i == len(blocks) - 1, block.attn.num_heads
            q, k, v = project_in(block, x).chunk(3, dim=-1)
            for s in (s for s in added if i >= begins[s]):
                added[s] = added[s] + self.surgery_step(block, x, (q, k, v), s)
            if last and "local" in paths:
                local = self.project(finish(block, x, v)[:, 1:])  # LoCoOp's: out_proj(v) in place of attention
            rows = slice(0, LAST_ROWS if last and alone else None)
            x = finish(block, x[:, rows], attend(q[:, rows], k, v, heads))
            added |= {s: x for s in added if i < begins[s]}
        clip = self.project(x[:, 1:]) if "clip" in paths else None
        return self.project(x[:, :1])[:, 0], clip, local, *(self.project(y[:, 1:]) for y in added.values())

    def surgery_step(
        self, block: Any, x: Tokens, parts: tuple[Tokens, Tokens, Tokens], surgery: SurgeryOptions
    ) -> Tokens:
        """What a block adds to the surgery path: out_proj(softmax(v' v'^T / sqrt(d)) v')."""
        q, k, v = parts
        smooth = self.smooth_values(block, x, v, surgery)
        q, k = (smooth, smooth) if surgery.attention == "vv" else (q, k)
        return block.ls_1(block.attn.out_proj(attend(q, k, smooth, block.attn.num_heads)))

    def smooth_values(self, block: Any, x: Tokens, v: Tokens, surgery: SurgeryOptions) -> Tokens:
        """v' by patch-context on the values, or on the embeddings before ln_1, or v as it is."""
        if surgery.context_on == "values":
            return patch_context(v, self.context_of(surgery))
        if surgery.context_on == "embeddings":
            return project_in(block, patch_context(x, self.context_of(surgery)), 2)
        return v

    def project(self, tokens: Tokens) -> Patches:
        """ln_post, the projection in fp32, normalisation."""
        visual = self.clip.visual
        with torch.autocast(tokens.device.type, enabled=False):
            out = visual.ln_post(tokens.to(visual.ln_post.weight.dtype)).float() @ visual.proj.float()
            return F.normalize(out, dim=-1)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without start and end."""
        return self.tokenizer.encode(text)

    def embed_prompts(self, texts: Sequence[str], placeholders: int = 0) -> tuple[Tensor, Tensor]:
        """Token embeddings of "[start] placeholders text [end]" and where the end is.

        Args:
            texts: one text a prompt.
            placeholders: empty positions after the start, for a learned context.

        Returns:
            Embeddings (K, L, W) with L the length of the longest prompt, and the end's position (K,).

        Raises:
            InputError: a prompt is longer than the model's context.
        """
        start, end, limit = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id, self.clip.context_length
        rows = [[start, *[0] * placeholders, *self.tokenize(text), end] for text in texts]
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        length = len(rows[longest])
        if length > limit:
            raise InputError(
                f"the prompt for {texts[longest]!r} takes {length} tokens and {self.name} reads {limit}: shorten the "
                f"name, or the context (--model.context.length, --model.context.words) by {length - limit}"
            )
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return self.clip.token_embedding(ids), ends

    def encode_embeddings(
        self,
        embeddings: Float[Tensor, "prompts tokens width"],
        ends: Int[Tensor, " prompts"],
        beginning: Float[Tensor, "start width"] | None = None,
    ) -> Texts:
        """Text features of prompts given as token embeddings, (K, D); tokens after the last end are not computed.

        Args:
            embeddings: (K, L, W), of the whole prompts; where they share a beginning, of what follows it.
            ends: where each prompt's end token is in its embeddings, (K,).
            beginning: the tokens that all prompts begin with, computed once, (S, W).
        """
        if beginning is None:
            return encode_whole(self.clip, embeddings, ends)
        if self.shares_beginnings:
            return encode_shared(self.clip, beginning, embeddings, ends)
        whole = torch.cat([beginning.expand(len(embeddings), -1, -1), embeddings], 1)
        return encode_whole(self.clip, whole, ends + len(beginning))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Texts:
        """Text features of plain prompts, (K, D), as CLIP's own ``encode_text``."""
        return self.encode_embeddings(*self.embed_prompts(texts))


def fingerprint(module: nn.Module) -> str:
    """SHA-256 over all weights (names, shapes, bytes, in the order of names), as hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_plain(block: Any) -> bool:
    """CLIP's own attention, q, k and v kept together, without the norms and scales of open_clip's custom blocks."""
    names = ("ln_q", "ln_k", "ln_inner", "head_scale", "logit_scale")
    extras = [getattr(block, "ln_attn", None), *(getattr(block.attn, name, None) for name in names)]
    return hasattr(block.attn, "in_proj_weight") and all(isinstance(e, nn.Identity | None) for e in extras)


def check_supported(clip: nn.Module, tokenizer: Any, name: str) -> None:
    """A ViT of open_clip's own with class token, learnable positions and CLIP's causal text tower, or an InputError."""
    problem = None
    visual = getattr(clip, "visual", None)
    if not isinstance(clip, open_clip.CLIP):
        problem = f"it is a {type(clip).__name__}, not a plain CLIP"
    elif not isinstance(visual, VisionTransformer):
        problem = f"its image tower is a {type(visual).__name__}, not a ViT with a class token"
    elif visual.attn_pool is not None or visual.pool_type != "tok":
        problem = "its image tower does not pool by the class token"
    elif not all(is_plain(block) for block in visual.transformer.resblocks):
        problem = "its attention blocks are not CLIP's own"
    elif visual.image_size[0] != visual.image_size[1]:
        problem = "its images are not square"
    elif clip.attn_mask is None or clip.text_pool_type not in ("argmax", "eos"):
        problem = "its text tower is not causal with the feature at the end token"
    elif not isinstance(tokenizer, open_clip.SimpleTokenizer):
        problem = f"its tokenizer is a {type(tokenizer).__name__}, not CLIP's own"
    if problem:
        raise InputError(
            f"backbone {name} is not supported: {problem}. Take an open_clip ViT with a class token, such as "
            "ViT-B-16-quickgelu, ViT-B-32-quickgelu, ViT-L-14-quickgelu or MicroCLIP"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No log lines or warnings of other libraries: what is wrong is said by our own error."""
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def patience(what: str, seconds: float = 8.0) -> Iterator[None]:
    """Say on stderr what a long wait is for."""
    timer = threading.Timer(seconds, lambda: print(what, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def model_config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a model, MicroCLIP's registered on the way.

    Raises:
        InputError: no such model.
    """
    if ":" in name:  # open_clip would ask the network
        raise InputError(f"backbone {name!r}: take a model by its name in open_clip, such as ViT-B-16-quickgelu")
    if open_clip.get_model_config(EMBEDDED) is None:
        with as_file(files(__package__) / "assets" / f"{EMBEDDED}.json") as path:
            open_clip.add_model_config(path)
    config = open_clip.get_model_config(name)
    if config is None:
        near = {known.lower(): known for known in open_clip.list_models()}
        found = difflib.get_close_matches(name.lower(), near, 1)
        advice = f"did you mean {near[found[0]]}?" if found else f"e.g. ViT-B-16-quickgelu, {EMBEDDED}"
        raise InputError(f"unknown backbone {name!r}; {advice} (all: open_clip.list_models())")
    return config


def choose_weights(name: str, config: dict[str, Any], pretrained: str | None) -> str:
    """The tag or file to load: what was asked for, else the backbone's own (embedded, or OpenAI's).

    Raises:
        InputError: neither a tag of this model nor a file, or weights trained with another activation.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None and name == EMBEDDED:
        return str(files(__package__) / "assets" / f"{EMBEDDED}.safetensors")
    pretrained = pretrained or "openai"
    if open_clip.is_pretrained_cfg(name, pretrained):
        trained_with = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
        if trained_with != bool(config.get("quick_gelu", False)):
            other = name.removesuffix("-quickgelu") if name.endswith("-quickgelu") else f"{name}-quickgelu"
            raise InputError(
                f"activation mismatch: weights {pretrained!r} were trained with {'Quick' if trained_with else ''}GELU "
                f"and {name} has the other one: take --model.backbone {other}"
            )
    elif not Path(pretrained).is_file():
        known = ", ".join(tags) or "none"
        own = "; for the embedded weights, --model.pretrained null" if name == EMBEDDED else ""
        raise InputError(
            f"--model.pretrained {pretrained!r} is neither a file nor a tag of {name} (tags: {known}){own}"
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
    """Inside, each CLIP is loaded once: all detectors on it hold the same frozen weights (and move with them)."""
    token = _shared.set({} if _shared.get() is None else _shared.get())
    try:
        yield
    finally:
        _shared.reset(token)


def load_backbone(
    name: str = EMBEDDED,
    pretrained: str | None = None,
    surgery: SurgeryOptions | None = None,
    image_size: int | None = None,
) -> FrozenClip:
    """A frozen CLIP by its name in open_clip.

    Args:
        name: such as ``ViT-B-16-quickgelu``, or ``MicroCLIP`` (embedded).
        pretrained: a tag of open_clip or a local file; None: the backbone's own (``openai``, or the embedded weights).
        surgery: options of the surgery path.
        image_size: pixels a side, with the positions interpolated (bicubic); None: the model's own.

    Raises:
        InputError: unknown or unsupported model, activation mismatch, weights neither cached nor reachable.
    """
    config = model_config(name)
    plain = isinstance(config["vision_cfg"].get("layers"), int) and "timm_model_name" not in config["vision_cfg"]
    if not plain or config.get("custom_text") or "multimodal_cfg" in config:  # said before anything is downloaded
        raise InputError(
            f"backbone {name} is not supported: it is not a plain CLIP with open_clip's ViT and a class token. Take "
            f"one such as ViT-B-16-quickgelu, ViT-B-32-quickgelu, ViT-L-14-quickgelu or {EMBEDDED}"
        )
    patch = config["vision_cfg"]["patch_size"]
    if image_size is not None and (image_size < patch or image_size % patch):
        raise InputError(f"--model.image_size is {image_size}: {name} takes a multiple of its patch, {patch} pixels")
    loaded = load_clip(name, choose_weights(name, config, pretrained), image_size)
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    return FrozenClip(loaded.clip, loaded.tokenizer, name, activation, surgery, loaded.fingerprint)


def load_clip(name: str, weights: str, image_size: int | None) -> LoadedClip:
    """open_clip's model with these weights, loaded once inside :func:`shared_weights`."""
    shared, key = _shared.get(), (name, weights, image_size)
    if shared is not None and key in shared:
        return shared[key]
    wait = f"loading weights {weights!r} of {name}: a download, or a network that does not answer ..."
    try:
        with quiet(), patience(wait):
            clip = open_clip.create_model(name, pretrained=weights, precision="fp32", device="cpu")
            clip = clip if image_size is None else resized(clip, name, image_size)
            loaded = LoadedClip(clip, open_clip.get_tokenizer(name), fingerprint(clip))
    except Exception as error:  # whatever the hub's client or the file's reader raises
        reason = " ".join(str(error).split())[:160]
        raise InputError(
            f"cannot load weights {weights!r} of {name}: neither cached nor reachable, or not a file of this model "
            f"({reason}). Connect to the internet once, or give a file with --model.pretrained"
        ) from error
    if shared is not None:
        shared[key] = loaded
    return loaded


def resized(clip: open_clip.CLIP, name: str, image_size: int) -> open_clip.CLIP:
    """The same weights for images of another size: learnable positions interpolated (bicubic, antialiased)."""
    other = open_clip.create_model(name, load_weights=False, force_image_size=image_size, device="cpu")
    state = clip.state_dict()
    resize_pos_embed(state, other, interpolation="bicubic", antialias=True)
    other.load_state_dict(state)
    other.visual.preprocess_cfg = {**getattr(clip.visual, "preprocess_cfg", {}), "size": (image_size, image_size)}
    return other.eval()
