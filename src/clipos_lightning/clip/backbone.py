"""The frozen CLIP: images to features along up to three paths, prompts to text features.

Any open_clip ViT with a class token and learnable positions works; ``MicroCLIP``, a tiny CLIP for 32-pixel images, is
embedded and loaded by the same code. The surgery path follows CLIP-OS (arXiv:2404.00323, section 3) and CLIP surgery
(arXiv:2304.05653), the local path LoCoOp (arXiv:2306.01293).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..data.preprocessing import Preprocessing
from ..data.transforms import resize_on_device
from ..errors import InputError
from ..types import ImageFeatures, Images, Patches, PathName, Texts
from .blocks import attention_of_class, attention_to_class, finish_block, project_in
from .compiled import FixedShapes, Tensors
from .support import check_supported, fingerprint, is_clip_block
from .surgery import SurgeryOptions, attend, context_matrix, patch_context
from .text import encode_shared, encode_whole

LAST_ROWS = 16  # kept if only the class token is needed; fewer rows use other kernels, with other rounding
TEXT_BATCH = 1024  # prompts that are encoded at once, to bound the memory
SMALL_PART = 32  # prompts that are encoded together although they begin differently
CONTEXT_OPTIONS = "context (--model.context.length, --model.context.words)"

Tokens = Float[Tensor, "batch tokens width"]


class FrozenClip(nn.Module):
    """A frozen CLIP with a surgery path next to its own (CLIP-OS, section 3; CLIP surgery, arXiv:2304.05653).

    Always in eval mode, its weights without gradients; gradients of text features flow through it to the prompts.

    Args:
        clip: an ``open_clip.CLIP`` with a ViT (see :func:`.support.check_supported`).
        tokenizer: its tokenizer.
        name: the model's name in open_clip.
        activation: ``quick_gelu`` or ``gelu``, recorded in checkpoints.
        surgery: options of the surgery path; None: the defaults.
        weights_fingerprint: SHA-256 of the weights; None: computed here.

    Raises:
        InputError: an unsupported model or preprocessing, or surgery options that its blocks or its patch grid do not
            allow.
    """

    preprocessing: Preprocessing  # as the weights declare it
    mean: Tensor
    std: Tensor
    note: str = ""  # what could not be checked about the weights; set by load_backbone

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
        self.shares_prefix = all(is_clip_block(block) for block in clip.transformer.resblocks)
        self.fingerprint = weights_fingerprint or fingerprint(clip)
        blocks = len(clip.visual.transformer.resblocks)
        if not 0 <= self.depth(surgery) <= blocks:
            depth = surgery.depth
            raise InputError(f"--model.surgery.depth is {depth}: {name} has {blocks} blocks, take 0 to {blocks}")
        self._matrices: dict[SurgeryOptions, Tensor] = {}
        self.compiled: FixedShapes | None = None
        self.preprocess_as(getattr(clip.visual, "preprocess_cfg", {}), f"backbone {name}")
        self.context_of(surgery)  # validate the options eagerly
        self.requires_grad_(False)
        super().train(False)

    def train(self, mode: bool = True) -> "FrozenClip":
        """Stay in eval mode, whatever the module around it does."""
        return self

    def preprocess_as(self, config: Mapping[str, Any], source: str) -> None:
        """Set the preprocessing of images; arguments, defaults and errors as for :meth:`.Preprocessing.declared`."""
        self.preprocessing = Preprocessing.declared(self.image_size, config, source)
        device = self.clip.logit_scale.device
        for key in ("mean", "std"):
            tensor = torch.tensor(getattr(self.preprocessing, key), device=device).view(1, 3, 1, 1)
            self.register_buffer(key, tensor, persistent=False)

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The model's own scale s = exp(logit_scale), a scalar."""
        return self.clip.logit_scale.detach().float().exp()

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mean.device

    def compile_tower(self) -> None:
        """Compile the image tower with ``torch.compile``, at fixed shapes."""
        self.compiled = FixedShapes(self.tower)

    def depth(self, surgery: SurgeryOptions) -> int:
        """Number of last blocks with the surgery path; by default half of the blocks."""
        return len(self.clip.visual.transformer.resblocks) // 2 if surgery.depth is None else surgery.depth

    def context_of(self, surgery: SurgeryOptions) -> Float[Tensor, "patches patches"]:
        """The patch-context matrix A of these options on the backbone's device; built once."""
        if surgery not in self._matrices:
            self._matrices[surgery] = context_matrix(self.grid, surgery)
        self._matrices[surgery] = self._matrices[surgery].to(self.device)
        return self._matrices[surgery]

    def encode_image(self, images: Images, paths: frozenset[PathName] = frozenset()) -> ImageFeatures:
        """Global features, and patch features of the requested paths, in one forward pass; fp32, L2-normalised.

        Args:
            images: uint8 at the model's size, (B, 3, H, W), or square ones of another size, which are resized.
            paths: any of ``clip`` (CLIP's own patches), ``vv`` (surgery path), ``local`` (LoCoOp's local features),
                ``attention`` (of the patches to the class token) and ``class_attention`` (of the class token to them).
        """
        return self.encode_surgeries(images, paths, [self.surgery])[self.surgery]

    @torch.no_grad()
    def encode_surgeries(
        self, images: Images, paths: frozenset[PathName], surgeries: Sequence[SurgeryOptions]
    ) -> dict[SurgeryOptions, ImageFeatures]:
        """As :meth:`encode_image` for several surgery options at once, in one forward pass.

        q, k and v are computed once per block. The results differ in ``patches_vv`` only.

        Args:
            images: as for :meth:`encode_image`.
            paths: as for :meth:`encode_image`.
            surgeries: options of the surgery paths, at least one.
        """
        different = tuple(dict.fromkeys(surgeries))
        if images.shape[-1] != self.image_size:
            images = resize_on_device(images, self.preprocessing)
        tower = self.compiled or self.tower
        cls, clip, local, to_class, of_class, *patches_vv = tower(images, paths=paths, surgeries=different)
        assert cls is not None
        shared = ImageFeatures(cls, clip, patches_local=local, attention=to_class, class_attention=of_class)
        return {s: replace(shared, patches_vv=patches_vv[i] if patches_vv else None) for i, s in enumerate(different)}

    def tower(self, images: Images, paths: frozenset[PathName], surgeries: tuple[SurgeryOptions, ...]) -> Tensors:
        """The image tower's features, (B, D) or (B, P, D).

        Returns:
            The global feature, CLIP's patches, the local ones, the attention to and of the class token (None where not
            requested), then the patches of each surgery path (none unless ``vv`` is requested).
        """
        visual = self.clip.visual
        x = visual._embeds(((images.float() / 255 - self.mean) / self.std).to(visual.conv1.weight.dtype))
        blocks = visual.transformer.resblocks
        starts = {s: len(blocks) - self.depth(s) for s in (surgeries if "vv" in paths else ())}
        vv = dict.fromkeys(starts, x)  # the tokens of each surgery path
        local = to_class = of_class = None
        cls_only = "clip" not in paths and len(blocks) not in starts.values()  # CLIP's last patches are not needed
        for i, block in enumerate(blocks):
            last, heads = i == len(blocks) - 1, block.attn.num_heads
            q, k, v = project_in(block, x).chunk(3, dim=-1)
            for s in (s for s in vv if i >= starts[s]):
                vv[s] = vv[s] + self.surgery_step(block, x, (q, k, v), s)
            if last and "local" in paths:
                local = self.project(finish_block(block, x, v)[:, 1:])  # LoCoOp: v instead of attention
            if last and "attention" in paths:
                to_class = attention_to_class(block, q, k)
            if last and "class_attention" in paths:
                of_class = attention_of_class(q, k, heads)
            rows = slice(0, LAST_ROWS if last and cls_only else None)
            x = finish_block(block, x[:, rows], attend(q[:, rows], k, v, heads))
            vv |= {s: x for s in vv if i < starts[s]}  # until its first block it equals CLIP's own path
        clip = self.project(x[:, 1:]) if "clip" in paths else None
        cls, patches_vv = self.project(x[:, :1])[:, 0], [self.project(y[:, 1:]) for y in vv.values()]
        return cls, clip, local, to_class, of_class, *patches_vv

    def surgery_step(
        self, block: Any, x: Tokens, qkv: tuple[Tokens, Tokens, Tokens], surgery: SurgeryOptions
    ) -> Tokens:
        """What a block adds to the surgery path, out_proj(softmax(v' v'^T / sqrt(d)) v'), (B, 1 + P, W).

        There is no MLP on this path (CLIP surgery).

        Args:
            block: of the image tower.
            x: the block's input on CLIP's own path.
            qkv: the projections of ln_1(x).
            surgery: options of this path.
        """
        q, k, v = qkv
        smooth = self.smooth_values(block, x, v, surgery)
        q, k = (smooth, smooth) if surgery.attention == "vv" else (q, k)
        return block.ls_1(block.attn.out_proj(attend(q, k, smooth, block.attn.num_heads)))

    def smooth_values(self, block: Any, x: Tokens, v: Tokens, surgery: SurgeryOptions) -> Tokens:
        """The values v' of the surgery path: with patch-context on the values or the embeddings, or v unchanged."""
        if surgery.context_on == "values":
            return patch_context(v, self.context_of(surgery))
        if surgery.context_on == "embeddings":
            return project_in(block, patch_context(x, self.context_of(surgery)), 2)
        return v

    def project(self, tokens: Tokens) -> Patches:
        """Joint embeddings of image tokens: ln_post, projection in fp32, L2-normalisation."""
        visual = self.clip.visual
        with torch.autocast(tokens.device.type, enabled=False):
            out = visual.ln_post(tokens.to(visual.ln_post.weight.dtype)).float() @ visual.proj.float()
            return F.normalize(out, dim=-1)

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, without start and end tokens."""
        return self.tokenizer.encode(text)

    def embed_prompts(
        self, texts: Sequence[str], placeholders: int = 0
    ) -> tuple[Float[Tensor, "prompts tokens width"], Int[Tensor, " prompts"]]:
        """Token embeddings of "[start] placeholders text [end]", and the positions of the end tokens.

        Args:
            texts: K texts, one per prompt.
            placeholders: number of positions after the start token that a learned context will fill.

        Returns:
            Embeddings (K, L, W), L the length of the longest prompt, and end positions (K,).

        Raises:
            InputError: a prompt is longer than the model's context.
        """
        start, end, limit = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id, self.clip.context_length
        rows = [[start, *[0] * placeholders, *self.tokenize(text), end] for text in texts]
        longest = max(range(len(rows)), key=lambda i: len(rows[i]))
        length = len(rows[longest])
        if length > limit:
            part = CONTEXT_OPTIONS if placeholders else "prompt (--model.template)"
            raise InputError(
                f"the prompt for {texts[longest]!r} takes {length} tokens and {self.name} reads {limit}: shorten the "
                f"name, or the {part}, by {length - limit}"
            )
        ids = torch.tensor([row + [0] * (length - len(row)) for row in rows], device=self.device)
        ends = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return self.clip.token_embedding(ids), ends

    def encode_embeddings(
        self,
        embeddings: Float[Tensor, "prompts tokens width"],
        ends: Int[Tensor, " prompts"],
        prefix: Float[Tensor, "prefix width"] | None = None,
    ) -> Texts:
        """Text features of prompts given as token embeddings, (K, D), L2-normalised; with gradients.

        Args:
            embeddings: of the whole prompts, or of their suffixes if a ``prefix`` is given, (K, L, W).
            ends: position of each prompt's end token in ``embeddings``, (K,).
            prefix: token embeddings that all prompts start with, computed once, (S, W).
        """
        if prefix is None:
            return encode_whole(self.clip, embeddings, ends)
        if self.shares_prefix:
            return encode_shared(self.clip, prefix, embeddings, ends)
        whole = torch.cat([prefix.expand(len(embeddings), -1, -1), embeddings], 1)
        return encode_whole(self.clip, whole, ends + len(prefix))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Texts:
        """Text features of plain prompts, (K, D), as CLIP's own ``encode_text``, L2-normalised.

        Prompts that begin alike are encoded together, their common beginning once.

        Example:
            >>> from clipos_lightning import load_backbone
            >>> load_backbone().encode_text(["a photo of a cat.", "a photo of a dog."]).norm(dim=-1)
            tensor([1., 1.])
        """
        parts = alike_parts(texts)
        rows = torch.cat([self.encode_alike([texts[i] for i in part]) for part in parts])
        return rows[torch.tensor([i for part in parts for i in part], device=rows.device).argsort()]

    def encode_alike(self, texts: Sequence[str]) -> Texts:
        """As :meth:`encode_text`, all at once: the beginning that all prompts share is encoded once."""
        embeddings, ends = self.embed_prompts(texts)
        alike = (embeddings == embeddings[:1]).all(-1).all(0)  # equal tokens have equal embeddings
        shared = min(int(alike.long().cumprod(0).sum()), int(ends.min()))
        return self.encode_embeddings(embeddings[:, shared:], ends - shared, embeddings[0, :shared])


def alike_parts(texts: Sequence[str]) -> list[list[int]]:
    """The positions of texts in parts of at most ``TEXT_BATCH`` that begin with the same two words.

    Parts with few texts are joined, since each part is a pass of the text tower.

    Example:
        >>> texts = [f"a {kind} of {i}." for kind in ("photo", "bad photo") for i in range(40)]
        >>> [len(part) for part in alike_parts(texts)]
        [40, 40]
    """
    parts: list[list[int]] = []
    order = sorted(range(len(texts)), key=texts.__getitem__)
    for _, group in groupby(order, key=lambda i: texts[i].split()[:2]):
        alike = list(group)
        if parts and len(parts[-1]) + len(alike) <= SMALL_PART:
            parts[-1] += alike
        else:
            parts += [alike[i : i + TEXT_BATCH] for i in range(0, len(alike), TEXT_BATCH)]
    return parts
