"""Prompts that an objective has beside those of the classes: without a name, of the classes again, or frozen."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..clip.backbone import FrozenClip
from ..data.class_prompts import Wording
from ..errors import InputError
from ..types import Texts
from .prompts import ContextOptions, PromptLearner, encode_prompts, random_tokens

STREAM = 10**6  # between the seeds of several prompts, so that runs with seeds 1, 2, 3 have no tokens in common


class NamelessPrompts(nn.Module):
    """N learnable prompts without a name, "[shared tokens] [own tokens]."; calling it encodes them, (N, D).

    The tokens are from N(0, 0.02). Negative prompts of Local-Prompt (no shared tokens), OOD prompts of ID-like (one own
    token each).

    Args:
        backbone: the frozen CLIP that encodes the prompts; not a submodule of this module.
        count: N.
        shared: number of tokens that all prompts share.
        own: number of tokens of each prompt.
        seed: of the tokens.

    Raises:
        InputError: N is below 1, or the prompts are longer than the text tower reads.
    """

    start: Tensor
    stop: Tensor

    def __init__(self, backbone: FrozenClip, count: int, shared: int, own: int, seed: int) -> None:
        super().__init__()
        if count < 1:
            raise InputError(f"--model.objective has {count} prompts without a name: take at least 1")
        length, limit = shared + own + 3, backbone.clip.context_length  # start token, full stop and end token
        if length > limit:
            raise InputError(
                f"--model.objective has prompts of {length} tokens and {backbone.name} reads {limit}: set its length "
                f"to at most {limit - own * bool(shared) - 3}"
            )
        self._encode = backbone.encode_embeddings  # a bound method, so the backbone is not a submodule here
        with torch.no_grad():
            embeddings, _ = backbone.embed_prompts(["."], shared + own)
        width = embeddings.shape[-1]
        self.register_buffer("start", embeddings[0, :1].clone(), persistent=False)
        self.register_buffer("stop", embeddings[0, 1 + shared + own :].clone(), persistent=False)
        tokens = random_tokens((shared + count * own, width), seed)
        self.shared = nn.Parameter(tokens[:shared].clone()) if shared else None
        self.own = nn.Parameter(tokens[shared:].reshape(count, own, width).clone())

    def forward(self) -> Texts:
        """Text features, L2-normalised, (N, D)."""
        prefix = self.start if self.shared is None else torch.cat([self.start, self.shared])
        suffixes = torch.cat([self.own, self.stop.expand(len(self.own), -1, -1)], 1)
        ends = torch.full((len(suffixes),), suffixes.shape[1] - 1, device=suffixes.device)
        return self._encode(suffixes, ends, prefix)


class FrozenTexts(nn.Module):
    """The features of fixed prompts, (N, D).

    Raises:
        InputError: a prompt is longer than the text tower reads.
    """

    rows: Tensor

    def __init__(self, backbone: FrozenClip, prompts: Sequence[str]) -> None:
        super().__init__()
        try:
            rows = encode_prompts(backbone, [[prompt] for prompt in prompts])
        except InputError as error:
            raise InputError(str(error).replace("--model.template", "--model.objective")) from error
        self.register_buffer("rows", rows, persistent=False)

    def forward(self) -> Texts:
        """Text features, L2-normalised, (N, D)."""
        return self.rows


@dataclass(frozen=True)
class PromptMaker:
    """Makes an objective's own prompts for a detector's backbone and classes.

    Attributes:
        backbone: the frozen CLIP.
        class_names: C names.
        context: options of the detector's own class prompts.
        seed: of random tokens.
        wordings: several names per class and their templates; None: one name each.
    """

    backbone: FrozenClip
    class_names: Sequence[str]
    context: ContextOptions
    seed: int
    wordings: Sequence[Wording] | None = None

    @property
    def dim(self) -> int:
        """D, the dimension of the joint embedding space."""
        return self.backbone.clip.visual.output_dim

    def nameless(self, count: int, shared: int, own: int) -> NamelessPrompts:
        """N learnable prompts without a name; arguments as for :class:`NamelessPrompts`."""
        return NamelessPrompts(self.backbone, count, shared, own, self.seed + 1000 * STREAM)

    def classes(self, number: int, class_specific: bool | None = None) -> PromptLearner:
        """Further learnable prompts of the classes, which start as those of the options, with other random tokens.

        Args:
            number: of these prompts among the objective's, from 1.
            class_specific: a context for each class; None: as the options say.
        """
        specific = self.context.class_specific if class_specific is None else class_specific
        context = replace(self.context, learn="shared", class_specific=specific)
        seed = self.seed + number * STREAM
        return PromptLearner(self.backbone, self.class_names, None, context, seed=seed, wordings=self.wordings)

    def frozen(self, prompts: Sequence[str]) -> FrozenTexts:
        """The features of fixed prompts."""
        return FrozenTexts(self.backbone, prompts)
