"""Class features from images: where class names mean nothing to CLIP, the few-shot images represent the class.

A class's mean image feature is the prototype of Snell et al. 2017 (arXiv:1703.05175); its blend with the text feature
follows Tip-Adapter (Zhang et al. 2022, arXiv:2207.09519), without its training.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..types import Features, Labels, Texts


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
