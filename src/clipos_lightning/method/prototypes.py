"""Class features from images: for names that mean nothing to CLIP, the few-shot images carry the class.

The mean image feature of a class in place of its text is the prototype of Snell et al. 2017 (arXiv:1703.05175); its
blend with text follows Tip-Adapter (Zhang et al. 2022, arXiv:2207.09519), without its training.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..types import Features, Labels, Texts

WEIGHTS = tuple(i / 10 for i in range(11))  # those that ``auto`` chooses from
VIEWS = 8  # views of each few-shot image that it chooses on, the image as it is among them


def class_means(features: Features, labels: Labels, classes: int) -> Texts:
    """The normalised mean feature of each class's images, (C, D)."""
    total = torch.zeros(classes, features.shape[1], dtype=features.dtype, device=features.device)
    return F.normalize(total.index_add(0, labels, features), dim=-1)


def blend(text: Texts, images: Float[Tensor, "classes dim"], weight: float) -> Texts:
    """normalise((1 - w) t + w p) for the first C rows of ``text``; a row for "unknown" stays as it is.

    Args:
        text: (C, D) or (C + 1, D).
        images: the classes' mean image features, (C, D).
        weight: w in [0, 1]; 0 gives ``text`` itself.
    """
    if not weight:
        return text
    classes = len(images)
    return torch.cat([F.normalize((1 - weight) * text[:classes] + weight * images, dim=-1), text[classes:]])


# ---- how much the images should count


def choose_weight(
    views: Float[Tensor, "images views dim"], labels: Labels, text: Float[Tensor, "classes dim"], scale: float
) -> float:
    """The weight of :data:`WEIGHTS` for these few-shot images and these class texts.

    Args:
        views: features of V views of each few-shot image, the image as it is first, (N, V, D).
        labels: of the images, (N,); every class has at least one.
        text: the frozen class prompts, (C, D).
        scale: s of the model.
    """
    return best_weight(judge_weights(views, labels, text, scale))


def judge_weights(
    views: Float[Tensor, "images views dim"], labels: Labels, text: Float[Tensor, "classes dim"], scale: float
) -> Float[Tensor, "weights images"]:
    """What each weight is worth on each image, 0-1: the mean of what a detector is for, right classes and strangers.

    A view counts half where its own class wins, and half by the share of strangers whose energy lies below its own.
    The strangers are all views, each with its own class taken away: leaving one class out makes every image an unknown.

    Text never saw the images, so its worth is what it seems. The images' own worth is not: views of an image are easier
    than new images of its class. So an image is judged twice, by class means with and without itself, and of a class
    of k images the first counts 1 and the second k times, as in the .632 bootstrap (Efron 1983). Of a single image
    nothing is left without itself: the second is chance then, whatever the weight above 0.

    Args:
        views: as for :func:`choose_weight`; the class means are of the first views.
        labels: (N,).
        text: (C, D).
        scale: s.

    Returns:
        For each weight of :data:`WEIGHTS` and each image, the mean over its views.
    """
    classes, first = len(text), views[:, 0]
    means, count = class_means(first, labels, classes), labels.bincount(minlength=classes)[labels]
    total = torch.zeros_like(text).index_add(0, labels, first)[labels]
    new = F.normalize(total - first * (count > 1)[:, None], dim=-1)  # each image's class mean without itself, (N, D)
    share, chance = 1 / (count + 1), (1 / classes + 1 / 2) / 2
    worths = []
    for weight in WEIGHTS:
        others = scale * views @ blend(text, means, weight).T
        others = others.masked_fill(F.one_hot(labels, classes).bool()[:, None], -torch.inf)  # (N, V, C)
        seen, unseen = (
            worth_of(others, scale * torch.einsum("nvd,nd->nv", views, blend(text[labels], own, weight)))
            for own in (means[labels], new)
        )
        unseen = torch.where((count == 1) & (weight > 0), chance, unseen)
        worths.append(share * seen + (1 - share) * unseen)
    return torch.stack(worths)


def worth_of(
    others: Float[Tensor, "images views classes"], own: Float[Tensor, "images views"]
) -> Float[Tensor, " images"]:
    """Half for the right class, half for the strangers below; ``others`` has -inf in the own class's place."""
    without = others.logsumexp(-1)
    strangers, energy = without.flatten().sort().values, torch.logaddexp(without, own).contiguous()
    below = torch.searchsorted(strangers, energy) + torch.searchsorted(strangers, energy, right=True)
    return ((own > others.amax(-1)).float() + below / (2 * len(strangers))).mean(1) / 2


def best_weight(worths: Float[Tensor, "weights images"]) -> float:
    """From the better of the two pure ends (text where they are equal) the nearest weight that is as good as the best.

    As good: within two standard errors, over images, of the difference to the best. A blend must earn its place: on few
    images the best of eleven weights is mostly luck, and half of a name that means nothing spoils the evidence's size.
    """
    best = worths.mean(1).argmax()
    behind = worths[best] - worths
    error = behind.std(1, correction=0) / worths.shape[1] ** 0.5
    good = (behind.mean(1) <= 2 * error + 1e-6).nonzero().flatten()
    text_first = worths[0].mean() >= worths[-1].mean()
    return WEIGHTS[int(good.min() if text_first else good.max())]
