"""What text, images and their blend are worth on views of the few-shot images; the choice of ``image_weight auto``."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..types import Labels
from ..utils.chunks import by_chunks
from .prototypes import blend, class_means

WEIGHTS = tuple(i / 10 for i in range(11))  # candidates of --model.image_weight auto
VIEWS = 8  # views of each few-shot image to choose on, the unchanged image among them
ABOVE_CHANCE = 1 / 3  # of the way from chance to perfect: a detector below it is reported as close to chance


@dataclass(frozen=True)
class Quality:
    """How well class features fit the few-shot images: means over their views.

    Attributes:
        accuracy: fraction of views whose own class has the highest logit, in [0, 1].
        auroc: AUROC of the views' energies against pseudo-OOD, in [0, 1].
        classes: C.

    Example:
        >>> Quality(0.25, 0.5, classes=4).near_chance, Quality(0.9, 0.9, classes=4).near_chance
        (True, False)
    """

    accuracy: float
    auroc: float
    classes: int

    @property
    def near_chance(self) -> bool:
        """Whether the mean of both is closer to chance, 1/C and 1/2, than a third of the way to 1."""
        chance = chance_level(self.classes)
        return (self.accuracy + self.auroc) / 2 - chance < ABOVE_CHANCE * (1 - chance)

    def __str__(self) -> str:
        return f"{100 * self.accuracy:.0f} % in the right class, AUROC {100 * self.auroc:.0f}"


@dataclass(frozen=True)
class WeightChoice:
    """The image weight that :func:`choose_weight` chose, and what it was chosen from.

    Attributes:
        weight: w of :func:`~.prototypes.blend`, one of :data:`WEIGHTS`.
        text: quality of text alone (w = 0).
        images: quality of images alone (w = 1).
        chosen: quality of the chosen weight.
    """

    weight: float
    text: Quality
    images: Quality
    chosen: Quality


def chance_level(classes: int) -> float:
    """The mean of accuracy and AUROC of a detector that guesses.

    Example:
        >>> chance_level(2), chance_level(4)
        (0.5, 0.375)
    """
    return (1 / classes + 1 / 2) / 2


def choose_weight(
    views: Float[Tensor, "images views dim"], labels: Labels, text: Float[Tensor, "classes dim"], scale: float
) -> WeightChoice:
    """Choose the weight of :data:`WEIGHTS` for these few-shot images and class prompts.

    Args:
        views: features of V views of each few-shot image, the unchanged image first, (N, V, D).
        labels: of the images, (N,); every class has at least one.
        text: the frozen class prompts, (C, D).
        scale: s of the model.

    Example:
        >>> views = F.normalize(torch.eye(3) + 0.1, dim=-1)[:, None].expand(3, 2, 3)  # 3 classes, 1 image, 2 views
        >>> right, wrong = torch.eye(3), torch.eye(3).roll(1, 0)
        >>> labels = torch.arange(3)
        >>> choose_weight(views, labels, right, 10.0).weight, choose_weight(views, labels, wrong, 10.0).weight
        (0.0, 1.0)
    """
    measured = measure_weights(views, labels, text, scale)
    weight = best_weight(measured.mean(-1))
    places = (0, -1, WEIGHTS.index(weight))
    return WeightChoice(weight, *(mean_quality(measured[place], len(text)) for place in places))


def mean_quality(measured: Float[Tensor, "images 2"], classes: int) -> Quality:
    """The mean over images of accuracy and AUROC."""
    accuracy, auroc = measured.mean(0).tolist()
    return Quality(accuracy, auroc, classes)


def rate_weight(
    images: Float[Tensor, "images dim"],
    labels: Labels,
    text: Float[Tensor, "classes dim"],
    scale: float,
    weight: float,
) -> Quality:
    """What class features with a given image weight are worth on the few-shot images, without views of them.

    Args:
        images: features of the images, (N, D).
        labels: (N,).
        text: (C, D).
        scale: s.
        weight: w of :func:`~.prototypes.blend`.

    Example:
        >>> rate_weight(torch.eye(3), torch.arange(3), torch.eye(3), 10.0, weight=0.0)
        Quality(accuracy=1.0, auroc=1.0, classes=3)
    """
    return mean_quality(measure_weights(images[:, None], labels, text, scale, (weight,))[0], len(text))


def measure_weights(
    views: Float[Tensor, "images views dim"],
    labels: Labels,
    text: Float[Tensor, "classes dim"],
    scale: float,
    weights: Sequence[float] = WEIGHTS,
) -> Float[Tensor, "weights images 2"]:
    """Accuracy and AUROC of each weight on the views of each few-shot image, in [0, 1].

    Accuracy: whether the view's own class has the highest logit. AUROC: of the views' energies against pseudo-OOD, that
    is every view scored with its own class removed from the prompts (leave one class out).

    The text score is unbiased; the prototype score is optimistic, because views of an image are easier than new images
    of its class. So each image is scored twice: against class means with and without itself. In a class of k images the
    first counts 1 and the second k times, as in the .632 bootstrap (Efron 1983). A class of one image has no mean
    without it: the second is then chance level, for every weight above 0.

    Args:
        views: as for :func:`choose_weight`; the class means use the first views.
        labels: (N,).
        text: (C, D).
        scale: s.
        weights: candidates.

    Returns:
        (weights, N, 2): for each weight and each image, the means over its views.
    """
    classes, first = len(text), views[:, 0]
    means, count = class_means(first, labels, classes), labels.bincount(minlength=classes)[labels]
    total = torch.zeros_like(text).index_add(0, labels, first)[labels]
    without_self = F.normalize(total - first * (count > 1)[:, None], dim=-1)  # (N, D)
    seen_weight, chance = 1 / (count + 1)[:, None], text.new_tensor([1 / classes, 1 / 2])
    measured = []
    for weight in weights:
        rivals = score_rivals(views, labels, blend(text, means, weight), scale)
        seen, held_out = (
            measure_views(rivals, scale * torch.einsum("nvd,nd->nv", views, blend(text[labels], prototypes, weight)))
            for prototypes in (means[labels], without_self)
        )
        held_out = torch.where(((count == 1) & (weight > 0))[:, None], chance, held_out)
        measured.append(seen_weight * seen + (1 - seen_weight) * held_out)
    return torch.stack(measured)


def score_rivals(
    views: Float[Tensor, "images views dim"], labels: Labels, text: Float[Tensor, "classes dim"], scale: float
) -> Float[Tensor, "images views 2"]:
    """Of the logits of the classes that are not an image's own: the logsumexp and the largest, for each view.

    Args:
        views: (N, V, D).
        labels: (N,).
        text: class features, (C, D).
        scale: s.
    """

    def score(part: Float[Tensor, "some views dim"], own: Labels) -> Float[Tensor, "some views 2"]:
        logits = scale * part @ text.T
        logits = logits.masked_fill(F.one_hot(own, len(text)).bool()[:, None], -torch.inf)  # (n, V, C)
        return torch.stack([logits.logsumexp(-1), logits.amax(-1)], -1)

    return by_chunks(score, (views, labels), 4 * views.shape[1] * len(text))


def measure_views(
    rivals: Float[Tensor, "images views 2"], own: Float[Tensor, "images views"]
) -> Float[Tensor, "images 2"]:
    """Accuracy and AUROC against pseudo-OOD of each image, means over its views, in [0, 1].

    Args:
        rivals: logsumexp and largest logit of the other classes, (N, V, 2).
        own: logit of the own class, (N, V).
    """
    without, largest = rivals.unbind(-1)
    pseudo_ood, energy = without.flatten().sort().values, torch.logaddexp(without, own).contiguous()
    below = torch.searchsorted(pseudo_ood, energy) + torch.searchsorted(pseudo_ood, energy, right=True)
    return torch.stack([(own > largest).float().mean(1), (below / (2 * len(pseudo_ood))).mean(1)], 1)


def best_weight(quality: Float[Tensor, "weights images"]) -> float:
    """Start from w = 0 or w = 1, whichever scores higher (w = 0 on a tie); take the nearest good enough weight.

    Good enough: within two standard errors (over images) of the best weight's mean quality. On few images the best of
    eleven weights is mostly luck, and a blend with a meaningless name distorts the cosines, so a blend must be clearly
    better than both ends.

    Args:
        quality: the mean of accuracy and AUROC of :func:`measure_weights`, (11, N).

    Example:
        >>> best_weight(torch.full((11, 4), 0.7))
        0.0
    """
    best = quality.mean(1).argmax()
    gap = quality[best] - quality
    error = gap.std(1, correction=0) / quality.shape[1] ** 0.5
    good = (gap.mean(1) <= 2 * error + 1e-6).nonzero().flatten()
    text_first = quality[0].mean() >= quality[-1].mean()
    return WEIGHTS[int(good.min() if text_first else good.max())]
