"""A class that is added to a finished detector: its prompts, and its images in the memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..data.class_prompts import Wording, one_name_each
from ..errors import InputError
from ..evaluation.heads import Head
from ..method.name_checks import check_tokens
from ..method.prompts import ContextOptions, PromptLearner, Wordings, encode_prompts
from ..method.prototypes import blend, class_means
from ..types import Features, ImageFeatures, Texts, concatenate


@dataclass(frozen=True)
class Prompting:
    """How the detector makes the features of a class.

    Attributes:
        image_weight: weight of the class's mean image feature, in [0, 1].
        template: frozen prompt, with {} for the name, several, or the name of a list, as ``--model.template`` takes it.
        unknown_word: the word for "none of the classes", which no class may have as its name.
        context: the learned context of the class prompts, (n, W); None: the class prompts are not learned.
    """

    image_weight: float
    template: str | list[str]
    unknown_word: str
    context: Float[Tensor, "tokens width"] | None = None

    @classmethod
    def of(cls, plain: Mapping[str, Any] | None, context: Tensor | None) -> "Prompting | None":
        """From the data of a detector's file; None if it has none."""
        return None if plain is None else cls(plain["image_weight"], plain["template"], plain["unknown_word"], context)

    @property
    def plain(self) -> dict[str, Any]:
        """Plain data for a detector's file, without the context."""
        return {name: getattr(self, name) for name in ("image_weight", "template", "unknown_word")}


def new_rows(
    backbone: FrozenClip, prompting: Prompting | None, names: Sequence[str], wording: Wording, images: Features
) -> tuple[Texts, Texts]:
    """The class feature of a new class, and its frozen one for the mask, each (1, D).

    Args:
        backbone: the detector's.
        prompting: the detector's.
        names: all names of the classes that the detector has.
        wording: names and templates of the new class.
        images: features of its images, (N, D).

    Raises:
        InputError: the detector cannot be extended, or the name is one of its classes.
    """
    if prompting is None:
        raise InputError(
            "this detector cannot get another class: some of its prompts belong to one class each (or version 0.1.0 "
            "wrote it, which kept too little): fit again with the class"
        )
    for name in wording["names"]:
        if name.lower() in {"unknown", prompting.unknown_word.lower(), *(known.lower() for known in names)}:
            raise InputError(
                f"{name!r} is taken (CLIP ignores case): give the new class another name (clipos add: --class_names)"
            )
    taken = [*names, *wording["names"], prompting.unknown_word]
    check_tokens(backbone.tokenize, taken, option="--class_names")
    frozen = encode_prompts(backbone, Wordings.of([""], [wording], prompting.template).prompts)
    text = frozen
    if prompting.context is not None:
        options = ContextOptions(length=len(prompting.context))
        learner = PromptLearner(backbone, [""], None, options, prompting.template, wordings=[wording])
        assert learner.context is not None
        learner.context.data = prompting.context.to(frozen.device)
        text = learner.to(frozen.device)()
    mean = class_means(images, torch.zeros(len(images), dtype=torch.long, device=images.device), 1)
    return blend(text, mean, prompting.image_weight), blend(frozen, mean, prompting.image_weight)


def extend_head(head: Head, text: Texts, class_text: Texts, features: ImageFeatures) -> Head:
    """A head with one more class: its class features (1, D), and its images in the memory if there is one.

    Args:
        head: the detector's.
        text: the class feature.
        class_text: the frozen one, for the mask.
        features: of the images of the class, with the paths of ``memory_paths`` if the head has a memory.
    """
    count = len(head.class_text)
    texts = torch.cat([head.text[:count], text, head.text[count:]])
    extended = replace(head, text=texts, class_text=torch.cat([head.class_text, class_text]))
    if head.memory is not None:
        labels = torch.full((len(features.cls),), count, device=features.cls.device)
        known = replace(head.memory, patches=head.memory.patches[:0])  # kept for a single class only
        extended = replace(extended, memory=concatenate([known, extended.remember(features, labels)]))
    return extended


def extend_wordings(names: Sequence[str], given: Sequence[Wording] | None, new: Wording) -> list[Wording] | None:
    """The wordings of a detector with one more class; None if each class has one name in the detector's template.

    Example:
        >>> extend_wordings(["cat"], None, {"names": ["dog"]})
        >>> extend_wordings(["cat"], None, {"names": ["dog", "hound"]})
        [{'names': ['cat']}, {'names': ['dog', 'hound']}]
    """
    wordings = [*([{"names": [name]} for name in names] if given is None else given), new]
    return None if given is None and one_name_each(wordings) else wordings
