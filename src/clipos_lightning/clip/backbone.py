"""The frozen CLIP: images to features along several paths, prompts to text features. The only file that uses open_clip.

Any open_clip ViT with a class token and learnable positions works; ``MicroCLIP``, a tiny CLIP for 32-pixel images, is
embedded and loaded by the same code.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..data.transforms import resize_where_it_is
from ..errors import InputError
from ..types import ImageFeatures, Images, Patches, PathName, Texts
from .blocks import finish_block, project_in
from .compiled import FixedShapes, Tensors
from .support import check_supported, fingerprint, is_clip_block
from .surgery import SurgeryOptions, attend, context_matrix, patch_context
from .text import encode_shared, encode_whole

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
        self.shares_beginnings = all(is_clip_block(block) for block in clip.transformer.resblocks)
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
                local = self.project(finish_block(block, x, v)[:, 1:])  # LoCoOp's: out_proj(v) in place of attention
            rows = slice(0, LAST_ROWS if last and alone else None)
            x = finish_block(block, x[:, rows], attend(q[:, rows], k, v, heads))
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
