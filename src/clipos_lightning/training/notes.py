"""What a fit tells its user: what it learned from, what text and images are worth, and whether that is near chance."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..method.image_weight import VIEWS, Quality, WeightChoice
from ..types import Labels

SHOWN_NAMES = 5  # class names in a line
MINED_NOUNS, MINED_ADJECTIVES = 5, 3  # in a line
CURE = (
    "more images per class, class names that CLIP knows (--data.class_names), or a larger CLIP (--model.backbone); "
    "docs/own_classes.md"
)

ONE_CLASS = [
    "one class: nothing can be mixed or contrasted, so no prompt is learned; the detector tells this class from "
    "everything else by the images' features (image weight above 0), or by its name against neutral prompts"
]


def describe_shots(prompts: Sequence[Sequence[str]], labels: Labels) -> str:
    """Line about the few-shot images and the prompts of their classes.

    Args:
        prompts: the frozen prompts of each of the C classes.
        labels: class of each few-shot image, (N,).

    Example:
        >>> import torch
        >>> describe_shots([["a photo of a cat."], ["a dog.", "a hound."]], torch.tensor([0, 0, 1]))
        'learned from 3 images of 2 classes (1 to 2 each): "a photo of a cat.", "a dog." (first of 2)'
    """
    counts = labels.bincount(minlength=len(prompts))
    low, high = int(counts.min()), int(counts.max())
    each = f"{low} each" if low == high else f"{low} to {high} each"
    more = (f" (first of {len(group)})" if len(group) > 1 else "" for group in prompts)
    shown = ", ".join(f'"{group[0]}"{rest}' for group, rest in zip(prompts[:SHOWN_NAMES], more, strict=False))
    shown += ", …" if len(prompts) > SHOWN_NAMES else ""
    images, classes = counted(len(labels), "image"), counted(len(prompts), "class", "classes")
    return f"learned from {images} of {classes} ({each}): {shown}"


def describe_mined(record: Mapping[str, Any], pool: int) -> str:
    """Line about mined negative words.

    Args:
        record: how they were mined (``mined``), ``nouns`` and ``adjectives``.
        pool: number of words that they were chosen from.

    Example:
        >>> describe_mined({"mined": "csp", "nouns": ["abacus", "alp"], "adjectives": ["old view"]}, 248)
        '3 negative words, mined from 248 as in CSP: "abacus", "alp", "old view"'
    """
    nouns, adjectives = record["nouns"], record["adjectives"]
    shown = [*nouns[:MINED_NOUNS], *adjectives[:MINED_ADJECTIVES]]
    more = ", …" if len(shown) < len(nouns) + len(adjectives) else ""
    words = ", ".join(f'"{word}"' for word in shown) + more
    method = {"neg_label": "NegLabel", "csp": "CSP"}[record["mined"]]
    return f"{counted(len(nouns) + len(adjectives), 'negative word')}, mined from {pool:,} as in {method}: {words}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    Example:
        >>> counted(1, "image"), counted(2, "class", "classes")
        ('1 image', '2 classes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def describe_choice(choice: WeightChoice, labels: Labels) -> list[str]:
    """Lines about the weight that ``image_weight auto`` chose, and a warning if it is near chance.

    Args:
        choice: the weight, and what text, images and their blend are worth on views.
        labels: class of each few-shot image, (N,).
    """
    blend = f"; their blend {choice.chosen}" if 0 < choice.weight < 1 else ""
    lines = [
        f"image weight {choice.weight:g}, chosen on {VIEWS} views of {counted(len(labels), 'few-shot image')}: "
        f"text alone {choice.text}; images alone {choice.images}{blend} (AUROC: against left-out classes)"
    ]
    if int(labels.bincount().min()) == 1:
        lines.append("  (a class of one image has no held-out image: half of what images are worth is taken as chance)")
    if choice.weight == 1:
        lines.append("  class names and their wordings change nothing: the images alone represent the classes")
    return lines + warn_near_chance(choice.chosen, f"try {CURE}")


def describe_quality(quality: Quality, weight: float) -> list[str]:
    """Lines about class features with a fixed image weight on the few-shot images, and a warning if near chance.

    Args:
        quality: of the class features before training.
        weight: the image weight.
    """
    line = f"few-shot images before training: {quality} (AUROC: against left-out classes)"
    cure = f"try {CURE}" if weight else f"try --model.image_weight auto, {CURE}"
    return [line, *warn_near_chance(quality, cure)]


def warn_near_chance(quality: Quality, cure: str) -> list[str]:
    """A warning if the quality is near chance."""
    if not quality.near_chance:
        return []
    guess = 100 / quality.classes
    return [
        f"warning: this is close to guessing ({guess:.0f} % in the right class, AUROC 50): the detector will not tell "
        f"the classes apart, nor from other images; {cure}"
    ]
