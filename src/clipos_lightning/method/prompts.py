"""Learnable prompts: contexts before the class names, and before "unknown"; (C+1, D) text features.

CLIP-OS section 3, "unknown-aware prompt learning"; contexts as in CoOp (Zhou et al. 2022).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..clip.backbone import FrozenClip
from ..data.class_prompts import Wording
from ..errors import InputError
from ..types import Texts
from .prototypes import class_means


@dataclass(frozen=True)
class ContextOptions:
    """The learnable part of the prompts.

    Attributes:
        length: context tokens, started from N(0, 0.02); null: 16.
        words: start from these words instead ("a photo of a"); their tokens give the length.
        learn: shared (one context for all prompts), own (a second one for "unknown"), unknown_only (the class prompts
            stay the template's, so ID accuracy is the zero-shot one's; only "unknown" learns).
    """

    length: int | None = None
    words: str | None = None
    learn: Literal["shared", "own", "unknown_only"] = "shared"


def check_names(class_names: Sequence[str], unknown_word: str, template: str) -> None:
    """Class names that differ from each other and from the unknown word; a template with one place."""
    same = [name for name in class_names if name.lower() == unknown_word.lower()]  # CLIP reads lower case
    if same:
        raise InputError(f"a class is called {same[0]!r}, like the unknown word: choose another --model.unknown_word")
    twice = [name for name, count in Counter(name.lower() for name in class_names).items() if count > 1]
    if twice:
        raise InputError(f"two classes are worded {twice[0]!r} to CLIP: give each its own (--data.class_names)")
    if template.count("{}") != 1:
        raise InputError(f"--model.template {template!r} must hold {{}} once, where the class name stands")


@dataclass(frozen=True)
class Wordings:
    """The classes' names, some of which may have several, and the templates around them.

    Attributes:
        names: of each class, the first of them the one that is shown.
        templates: of each class.
    """

    names: list[list[str]]
    templates: list[list[str]]

    @classmethod
    def of(cls, class_names: Sequence[str], given: Sequence[Wording] | None, template: str) -> "Wordings":
        """One name a class and one template, or what was given beside them."""
        plain: list[Wording] = [{"names": [name]} for name in class_names]
        chosen = plain if given is None else list(given)
        return cls([w["names"] for w in chosen], [w.get("templates", [template]) for w in chosen])

    @property
    def prompts(self) -> list[list[str]]:
        """Each class's frozen prompts: its names in its templates."""
        pairs = zip(self.names, self.templates, strict=True)
        return [[t.replace("{}", name) for name in names for t in templates] for names, templates in pairs]


def mean_rows(rows: Float[Tensor, "rows dim"], groups: Sequence[Sequence[str]]) -> Float[Tensor, "prompts dim"]:
    """The normalised mean of each group's rows, (C, D); rows behind those of the groups stay as they are."""
    count = sum(map(len, groups))
    if count == len(groups):
        return rows
    owner = torch.tensor([i for i, group in enumerate(groups) for _ in group], device=rows.device)
    return torch.cat([class_means(rows[:count], owner, len(groups)), rows[count:]])


def encode_prompts(backbone: FrozenClip, groups: Sequence[Sequence[str]], more: Sequence[str] = ()) -> Texts:
    """Frozen text features of groups of prompts, one row a group, then one for each of ``more``."""
    return mean_rows(backbone.encode_text([*(prompt for group in groups for prompt in group), *more]), groups)


class PromptLearner(nn.Module):
    """Contexts (n, W) that learn, and everything fixed around them; calling it gives the prompts' text features.

    Args:
        backbone: the frozen CLIP, which encodes the prompts; not registered as a part of this module.
        class_names: C class names as they stand in the prompts.
        unknown_word: the word for "none of them"; None: no such prompt (C rows instead of C+1).
        options: length or words, and what learns.
        template: of the class prompts that do not learn (``unknown_only``).
        seed: of the context's start.
        wordings: several names a class, whose features are averaged, and templates of its own; None: ``class_names``.

    Raises:
        InputError: nothing learns, no context tokens, or a prompt too long for the model.
    """

    fixed: Tensor
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
        template: str = "a photo of a {}.",
        seed: int = 1,
        wordings: Sequence[Wording] | None = None,
    ) -> None:
        super().__init__()
        if options.learn == "unknown_only" and unknown_word is None:
            raise InputError(
                "--model.context.learn unknown_only with an objective without an unknown prompt leaves nothing to "
                "learn: take shared, or --model.objective unknown"
            )
        self._encode = backbone.encode_embeddings  # a bound method: the backbone stays the detector's own part
        self.learn = options.learn
        start = start_context(backbone, options, seed)
        separate = unknown_word is not None and options.learn != "shared"
        self.context = nn.Parameter(start.clone()) if options.learn != "unknown_only" else None
        self.unknown_context = nn.Parameter(start.clone()) if separate else None
        worded = Wordings.of(class_names, wordings, template)
        self.names = worded.names
        prompts = [f"{name}." for names in worded.names for name in names]
        fixed = torch.empty(0)
        if options.learn == "unknown_only":
            fixed, prompts = encode_prompts(backbone, worded.prompts), []
        self.register_buffer("fixed", fixed, persistent=False)
        if unknown_word is not None and not separate:
            prompts = [*prompts, f"{unknown_word}."]  # shares the context: one batch of prompts
        self._embed("class", backbone, prompts, len(start))
        self._embed("unknown", backbone, [f"{unknown_word}."] if separate else [], len(start))

    @torch.no_grad()
    def _embed(self, kind: str, backbone: FrozenClip, prompts: list[str], placeholders: int) -> None:
        embeddings, ends = torch.empty(0, 1 + placeholders, 1), torch.empty(0)
        if prompts:
            embeddings, ends = backbone.embed_prompts(prompts, placeholders)
        for name, tensor in (
            ("start", embeddings[0, :1] if prompts else torch.empty(0)),  # the start token, the same for all
            ("embeddings", embeddings[:, 1 + placeholders :]),  # what follows the context
            ("ends", ends - 1 - placeholders),
        ):
            self.register_buffer(f"{kind}_{name}", tensor.clone(), persistent=False)

    def forward(self) -> Texts:
        """Text features, C rows in the order of the class names, then "unknown" where there is one; normalised."""
        rows = []
        if self.context is None:
            rows.append(self.fixed)
        else:
            beginning = torch.cat([self.class_start, self.context])
            rows.append(mean_rows(self._encode(self.class_embeddings, self.class_ends, beginning), self.names))
        if self.unknown_context is not None:
            beginning = torch.cat([self.unknown_start, self.unknown_context])
            rows.append(self._encode(self.unknown_embeddings, self.unknown_ends, beginning))
        return torch.cat(rows)


@torch.no_grad()
def start_context(backbone: FrozenClip, options: ContextOptions, seed: int) -> Tensor:
    """The context's first value, (n, W): words' token embeddings, or N(0, 0.02) from a generator of its own."""
    table = backbone.clip.token_embedding
    if options.words is not None and options.length is not None:
        raise InputError(
            "--model.context.length and .words are both set, and words have their own length: set one to null"
        )
    if options.words is not None:
        ids = backbone.tokenize(options.words)
        if not ids:
            raise InputError("--model.context.words has no words: give some, or a length")
        return table(torch.tensor(ids, device=table.weight.device)).float()
    length = 16 if options.length is None else options.length
    if length < 1:
        raise InputError(f"--model.context.length is {length}: at least 1")
    generator = torch.Generator().manual_seed(seed)
    return 0.02 * torch.randn(length, table.embedding_dim, generator=generator)
