"""Class features from images: for names that mean nothing to CLIP, the few-shot images carry the class.

The mean image feature of a class in place of its text is the prototype of Snell et al. 2017 (arXiv:1703.05175); its
blend with text follows Tip-Adapter (Zhang et al. 2022, arXiv:2207.09519), without its training.
"""

import torch
import torch.nn.functional as F

from .types import Features, Labels, Texts


def class_means(features: Features, labels: Labels, classes: int) -> Texts:
    """The normalised mean feature of each class's images, (C, D)."""
    total = torch.zeros(classes, features.shape[1], dtype=features.dtype, device=features.device)
    return F.normalize(total.index_add(0, labels, features), dim=-1)


def blend(text: Texts, images: Texts, weight: float) -> Texts:
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
