"""Mambo's background patches (2026): those like a background prompt, and unlike the class the surer the class is.

Derived from the formulas of its authors' code. Shapes: B images, P patches, C classes, D dimensions; all features are
L2-normalised.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ..types import ClassTexts, Labels, Patches, PatchMap, PatchMask
from .mask import similarity_map

BackgroundText = Float[Tensor, " dim"]
Confidences = Float[Tensor, " batch"]


def background_map(
    patches: Patches, text: ClassTexts, background: BackgroundText, labels: Labels, p_y: Confidences
) -> PatchMap:
    """u_i = b_i (1 - p_y) + p_y b_i (1 - r_i) = b_i (1 - p_y r_i), (B, P), with gradients.

    b_i = <f_i, t_b> is patch i's cosine to the background prompt, r_i its cosine to the image's class, <f_i, t_y>,
    min-max normalised per image (as in the paper; the authors' code does it over the batch). The product takes b_i to
    be positive, as cosines of large CLIPs are: where b_i < 0, a patch of the class gets the larger u.

    Args:
        patches: local features f_i, (B, P, D).
        text: class prompts, (C, D).
        background: the background prompt t_b, (D,).
        labels: each image's class y, (B,).
        p_y: the softmax probability of the image's class, from its global feature, (B,).

    Example:
        >>> patches, labels = torch.eye(2)[None], torch.tensor([0])
        >>> background_map(patches, torch.eye(2), torch.tensor([0.6, 0.8]), labels, torch.tensor([0.5]))
        tensor([[0.3000, 0.8000]])
    """
    relevance = similarity_map(patches, text[labels])
    return (patches @ background) * (1 - p_y[:, None] * relevance)


@torch.no_grad()
def background_patches(
    patches: Patches, text: ClassTexts, background: BackgroundText, labels: Labels, p_y: Confidences
) -> PatchMask:
    """Mambo's background, u_i > mean(u) - (2 p_y - 1) std(u), per image, bool (B, P).

    The surer the class, the lower the threshold: more patches are background. std is over the P patches (divided by P).

    Args:
        patches: as for :func:`background_map`, like all others.
        text: class prompts, (C, D).
        background: the background prompt, (D,).
        labels: each image's class, (B,).
        p_y: the probability of the image's class, (B,).

    Example:
        >>> patches, labels = torch.eye(2)[None], torch.tensor([0])
        >>> background_patches(patches, torch.eye(2), torch.tensor([0.6, 0.8]), labels, torch.tensor([0.5]))
        tensor([[False,  True]])
    """
    u = background_map(patches, text, background, labels, p_y)
    threshold = u.mean(1) - (2 * p_y - 1) * u.std(1, correction=0)
    return u > threshold[:, None]
