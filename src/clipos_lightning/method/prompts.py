"""Learnable prompts: contexts before the class names and before "unknown", encoded to text features (C + 1, D).

Sources: CLIP-OS, Sun et al. 2024, arXiv:2404.00323, section 3, "unknown-aware prompt learning"; contexts as in CoOp
(Zhou et al. 2022, arXiv:2109.01134).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..clip.backbone import FrozenClip
from ..clip.prompt_templates import as_templates
from ..data.class_prompts import Wording
from ..errors import InputError
from ..types import Texts
from .name_checks import check_tokens
from .prototypes import class_means

NEUTRAL = (  # what a single class is compared with: prompts that name no class
    "a photo of something.",
    "a photo of an object.",
    "a photo of a thing.",
    "a photo of a background.",
    "a photo of a texture.",
    "a photo.",
)


@dataclass(frozen=True)
class ContextOptions:
    """The learnable part of the prompts.

    Attributes:
        length: number of context tokens, initialised from N(0, 0.02); null: 16, or the tokens of ``words``.
        words: initial context in words, such as "a photo of a", whose tokens set the length; null: random.
        learn: shared (one context for all prompts), own (another context for "unknown"), or unknown_only (the class
            prompts stay the template's, which keeps the zero-shot ID accuracy; only "unknown" learns).
        class_specific: another context for each class, as CoOp's CSC; false: one that the classes share.

    Example:
        >>> from clipos_lightning import ContextOptions
        >>> ContextOptions(words="a photo of a").learn
        'shared'
    """

    length: int | None = None
    words: str | None = None
    learn: Literal["shared", "own", "unknown_only"] = "shared"
    class_specific: bool = False


@dataclass(frozen=True)
class Wordings:
    """Names and prompt templates of each class; a class may have several of both.

    Attributes:
        names: of each class; the first one is shown.
        templates: of each class, with ``{}`` in place of the name.

    Example:
        >>> Wordings.of(["cat", "dog"], None, "a photo of a {}.").prompts
        [['a photo of a cat.'], ['a photo of a dog.']]
    """

    names: list[list[str]]
    templates: list[list[str]]

    @classmethod
    def of(cls, class_names: Sequence[str], given: Sequence[Wording] | None, template: str | list[str]) -> "Wordings":
        """Use ``given`` if it is not None, else one name per class; classes without templates use ``template``.

        Raises:
            InputError: ``template`` is not one of the forms that :func:`~.prompt_templates.as_templates` takes.
        """
        plain: list[Wording] = [{"names": [name]} for name in class_names]
        chosen, common = plain if given is None else list(given), as_templates(template)
        return cls([w["names"] for w in chosen], [w.get("templates", common) for w in chosen])

    @property
    def prompts(self) -> list[list[str]]:
        """The frozen prompts of each class: each name in each template."""
        pairs = zip(self.names, self.templates, strict=True)
        return [[t.replace("{}", name) for name in names for t in templates] for names, templates in pairs]


def mean_rows(rows: Float[Tensor, "rows dim"], groups: Sequence[Sequence[str]]) -> Float[Tensor, "prompts dim"]:
    """The normalised mean of each group's rows, then the rows after those of the groups unchanged, (C + M, D).

    Args:
        rows: features of all prompts of all groups, then M more, (K + M, D).
        groups: the prompts of each of C groups; their numbers sum to K.

    Example:
        >>> mean_rows(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), [["a", "b"]])
        tensor([[0.7071, 0.7071],
                [0.0000, 1.0000]])
    """
    count = sum(map(len, groups))
    if count == len(groups):
        return rows
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=rows.device)
    return torch.cat([class_means(rows[:count], owner, len(groups)), rows[count:]])


def encode_prompts(backbone: FrozenClip, groups: Sequence[Sequence[str]], more: Sequence[str] = ()) -> Texts:
    """Frozen text features: one mean row per group of prompts, then one row for each prompt in ``more``."""
    return mean_rows(backbone.encode_text([*(prompt for group in groups for prompt in group), *more]), groups)


def neutral_prompts(given: str | Sequence[str] | None, classes: int) -> list[str]:
    """The zero-shot detector's prompts for "none of the classes"; their features are averaged.

    Args:
        given: one prompt or several; None: the default, with a single class :data:`NEUTRAL`.
        classes: C.

    Raises:
        InputError: no prompt is given.

    Example:
        >>> neutral_prompts(None, 10), neutral_prompts("a thing.", 1)
        (['a photo of an unknown object.'], ['a thing.'])
    """
    if given is None:
        return ["a photo of an unknown object."] if classes > 1 else list(NEUTRAL)
    prompts = [given] if isinstance(given, str) else list(given)
    if not prompts or not all(prompt.strip() for prompt in prompts):
        raise InputError("--model.zero_shot_unknown has no prompt: give one, or leave the option out")
    return prompts


class PromptLearner(nn.Module):
    """Learnable contexts (n, W), or (C, n, W), with fixed class names; calling it encodes the prompts (CLIP-OS).

    Prompts are "[context] [class]." for each class and "[context] [unknown].". Gradients reach the contexts through the
    frozen text tower.

    Args:
        backbone: the frozen CLIP that encodes the prompts; not a submodule of this module.
        class_names: C class names as they appear in the prompts.
        unknown_word: the word for "none of the classes"; None: no such prompt (C rows instead of C + 1).
        options: length or words of the context, and what learns.
        template: one or several, of class prompts that do not learn (``unknown_only``).
        seed: of the random initial context.
        wordings: several names per class, whose features are averaged, and their templates; None: ``class_names``.

    Raises:
        InputError: nothing to learn, an empty context, names that are the same to CLIP, or a prompt too long for it.

    Example:
        >>> from clipos_lightning import load_backbone
        >>> learner = PromptLearner(load_backbone(), ["cat", "dog"], "unknown", ContextOptions(words="a photo of a"))
        >>> learner().shape, len(learner.context)
        (torch.Size([3, 128]), 4)
    """

    fixed: Tensor
    owners: Tensor
    class_start: Tensor
    class_embeddings: Tensor
    class_ends: Tensor
    unknown_start: Tensor
    unknown_embeddings: Tensor
    unknown_ends: Tensor

    def __init__(
        self,
        backbone: FrozenClip,
        class_names: Sequence[str],
        unknown_word: str | None,
        options: ContextOptions,
        template: str | list[str] = "a photo of a {}.",
        seed: int = 1,
        wordings: Sequence[Wording] | None = None,
    ) -> None:
        super().__init__()
        if options.learn == "unknown_only" and unknown_word is None:
            raise InputError(
                "--model.context.learn unknown_only with an objective without an unknown prompt leaves nothing to "
                "learn: choose shared, or --model.objective unknown"
            )
        if options.class_specific and options.learn == "unknown_only":
            raise InputError(
                "--model.context.class_specific true gives each class a context, and with --model.context.learn "
                "unknown_only the classes have none: set one of them otherwise"
            )
        self._encode = backbone.encode_embeddings  # a bound method, so the backbone is not a submodule here
        self.learn = options.learn
        separate = unknown_word is not None and options.learn != "shared"
        copies = len(class_names) + (unknown_word is not None and not separate) if options.class_specific else None
        initial = start_context(backbone, options, seed)
        first = initial.clone() if copies is None else start_context(backbone, options, seed, copies)
        self.context = nn.Parameter(first) if options.learn != "unknown_only" else None
        self.unknown_context = nn.Parameter(initial.clone()) if separate else None
        worded = Wordings.of(class_names, wordings, template)
        self.names = worded.names
        check_tokens(backbone.tokenize, [name for names in worded.names for name in names], unknown_word)
        prompts = [f"{name}." for names in worded.names for name in names]
        fixed = torch.empty(0)
        if options.learn == "unknown_only":
            fixed, prompts = encode_prompts(backbone, worded.prompts), []
        self.register_buffer("fixed", fixed, persistent=False)
        if unknown_word is not None and not separate:
            prompts = [*prompts, f"{unknown_word}."]  # with the shared context: one batch of prompts
        owners = [i for i, names in enumerate(worded.names) for _ in names]
        owners += [len(worded.names)] * (len(prompts) - len(owners))  # "unknown", in one batch with the classes
        self.register_buffer("owners", torch.tensor(owners), persistent=False)
        self._embed("class", backbone, prompts, len(initial))
        self._embed("unknown", backbone, [f"{unknown_word}."] if separate else [], len(initial))

    @torch.no_grad()
    def _embed(self, kind: str, backbone: FrozenClip, prompts: list[str], placeholders: int) -> None:
        embeddings, ends = torch.empty(0, 1 + placeholders, 1), torch.empty(0)
        if prompts:
            embeddings, ends = backbone.embed_prompts(prompts, placeholders)
        for name, tensor in (
            ("start", embeddings[0, :1] if prompts else torch.empty(0)),  # the start token, the same for all prompts
            ("embeddings", embeddings[:, 1 + placeholders :]),  # what follows the context
            ("ends", ends - 1 - placeholders),
        ):
            self.register_buffer(f"{kind}_{name}", tensor.clone(), persistent=False)

    def _class_rows(self, context: Float[Tensor, "*copies tokens width"]) -> Texts:
        """Features of the class prompts, and of "unknown" if it shares their context; a row per name."""
        if context.ndim == 2:
            prefix = torch.cat([self.class_start, context])
            return self._encode(self.class_embeddings, self.class_ends, prefix)
        suffixes = torch.cat([context[self.owners], self.class_embeddings], 1)
        return self._encode(suffixes, self.class_ends + context.shape[1], self.class_start)

    def forward(self) -> Texts:
        """Text features, L2-normalised: C rows in the order of the class names, then "unknown" if there is one."""
        rows = []
        if self.context is None:
            rows.append(self.fixed)
        else:
            rows.append(mean_rows(self._class_rows(self.context), self.names))
        if self.unknown_context is not None:
            prefix = torch.cat([self.unknown_start, self.unknown_context])
            rows.append(self._encode(self.unknown_embeddings, self.unknown_ends, prefix))
        return torch.cat(rows)


@torch.no_grad()
def start_context(
    backbone: FrozenClip, options: ContextOptions, seed: int, copies: int | None = None
) -> Float[Tensor, "*copies tokens width"]:
    """The initial context (n, W): the token embeddings of words, or N(0, 0.02) from a seeded generator.

    Args:
        backbone: whose token embeddings are used.
        options: length or words.
        seed: of the generator.
        copies: number of contexts, (copies, n, W): equal words, or different random numbers; None: one, (n, W).

    Raises:
        InputError: length and words are both set, no word is given, or the length is below 1.
    """
    table = backbone.clip.token_embedding
    shape = () if copies is None else (copies,)
    if options.words is not None and options.length is not None:
        raise InputError(
            "--model.context.length and .words are both set, but words set the length themselves: set one to null"
        )
    if options.words is not None:
        ids = backbone.tokenize(options.words)
        if not ids:
            raise InputError("--model.context.words has no words: give some, or set --model.context.length instead")
        words = table(torch.tensor(ids, device=table.weight.device)).float()
        return words.expand(*shape, *words.shape).clone()
    length = 16 if options.length is None else options.length
    if length < 1:
        raise InputError(f"--model.context.length is {length}: take at least 1")
    return random_tokens((*shape, length, table.embedding_dim), seed)


def random_tokens(shape: tuple[int, ...], seed: int) -> Tensor:
    """Token embeddings from N(0, 0.02), as CoOp's."""
    return 0.02 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
