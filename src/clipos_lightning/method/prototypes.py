"""Class features from images: where class names mean nothing to CLIP, the few-shot images represent the class.

A class's mean image feature is the prototype of Snell et al. 2017 (arXiv:1703.05175); its blend with the text feature
follows Tip-Adapter (Zhang et al. 2022, arXiv:2207.09519), without its training.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..types import Features, Labels, Texts

WEIGHTS = tuple(i / 10 for i in range(11))  # candidates of --model.image_weight auto
VIEWS = 8  # views of each few-shot image to choose on, the unchanged image among them


def class_means(features: Features, labels: Labels, classes: int) -> Texts:
    """The normalised mean feature of each class's images, (C, D).

    Args:
        features: L2-normalised, (N, D).
        labels: of the images, (N,).
        classes: C.

    Example:
        >>> class_means(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1, 1]), classes=2)
        tensor([[1., 0.],
                [0., 1.]])
    """
    total = torch.zeros(classes, features.shape[1], dtype=features.dtype, device=features.device)
    return F.normalize(total.index_add(0, labels, features), dim=-1)


def blend(text: Texts, images: Float[Tensor, "classes dim"], weight: float) -> Texts:
    """normalise((1 - w) t + w p) for the first C rows of ``text``; a row for "unknown" stays unchanged.

    Args:
        text: t, (C, D) or (C + 1, D).
        images: p, the classes' mean image features, (C, D).
        weight: w in [0, 1]; 0 returns ``text`` itself.

    Example:
        >>> blend(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])
    """
    if not weight:
        return text
    classes = len(images)
    return torch.cat([F.normalize((1 - weight) * text[:classes] + weight * images, dim=-1), text[classes:]])


# ---- the image weight


@dataclass(frozen=True)
class WeightChoice:
    """The image weight that :func:`choose_weight` chose.

    Attributes:
        weight: w of :func:`blend`, one of :data:`WEIGHTS`.
        text_quality: mean quality with text alone (w = 0), in [0, 1].
        image_quality: mean quality with images alone (w = 1), in [0, 1].
    """

    weight: float
    text_quality: float
    image_quality: float


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
    quality = weight_quality(views, labels, text, scale)
    return WeightChoice(best_weight(quality), float(quality[0].mean()), float(quality[-1].mean()))


def weight_quality(
    views: Float[Tensor, "images views dim"], labels: Labels, text: Float[Tensor, "classes dim"], scale: float
) -> Float[Tensor, "weights images"]:
    """Quality of each weight on each few-shot image, in [0, 1]: the mean of accuracy and AUROC over its views.

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

    Returns:
        (11, N): for each weight of :data:`WEIGHTS` and each image, the mean over its views.
    """
    classes, first = len(text), views[:, 0]
    means, count = class_means(first, labels, classes), labels.bincount(minlength=classes)[labels]
    total = torch.zeros_like(text).index_add(0, labels, first)[labels]
    without_self = F.normalize(total - first * (count > 1)[:, None], dim=-1)  # (N, D)
    seen_weight, chance = 1 / (count + 1), (1 / classes + 1 / 2) / 2
    quality = []
    for weight in WEIGHTS:
        others = scale * views @ blend(text, means, weight).T
        others = others.masked_fill(F.one_hot(labels, classes).bool()[:, None], -torch.inf)  # (N, V, C)
        seen, held_out = (
            view_quality(others, scale * torch.einsum("nvd,nd->nv", views, blend(text[labels], prototypes, weight)))
            for prototypes in (means[labels], without_self)
        )
        held_out = torch.where((count == 1) & (weight > 0), chance, held_out)
        quality.append(seen_weight * seen + (1 - seen_weight) * held_out)
    return torch.stack(quality)


def view_quality(
    others: Float[Tensor, "images views classes"], own: Float[Tensor, "images views"]
) -> Float[Tensor, " images"]:
    """Mean over views of (accuracy + AUROC against pseudo-OOD) / 2, for each image, in [0, 1].

    Args:
        others: logits of the other classes, -inf for the own class, (N, V, C).
        own: logit of the own class, (N, V).
    """
    without = others.logsumexp(-1)
    pseudo_ood, energy = without.flatten().sort().values, torch.logaddexp(without, own).contiguous()
    below = torch.searchsorted(pseudo_ood, energy) + torch.searchsorted(pseudo_ood, energy, right=True)
    return ((own > others.amax(-1)).float() + below / (2 * len(pseudo_ood))).mean(1) / 2


def best_weight(quality: Float[Tensor, "weights images"]) -> float:
    """Start from w = 0 or w = 1, whichever scores higher (w = 0 on a tie); take the nearest good enough weight.

    Good enough: within two standard errors (over images) of the best weight's mean quality. On few images the best of
    eleven weights is mostly luck, and a blend with a meaningless name distorts the cosines, so a blend must be clearly
    better than both ends.

    Args:
        quality: of :func:`weight_quality`, (11, N).

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
