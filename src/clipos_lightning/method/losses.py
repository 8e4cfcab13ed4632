"""The losses of the objectives: pure functions of logits, one value per item (image, outlier or patch).

Logits are l = s <f, t>, (items, C), or (items, C + 1) with "unknown" last. Sources: CLIP-OS (Sun et al. 2024,
arXiv:2404.00323, section 3), CoOp (Zhou et al. 2022, arXiv:2109.01134), LoCoOp (Miyai et al. 2023, arXiv:2306.01293),
SCT (Yu et al. 2024, arXiv:2411.03359), outlier exposure (Hendrycks et al. 2019, arXiv:1812.04606), energy (Liu et al.
2020, arXiv:2010.03759), focal loss (Lin et al. 2017, arXiv:1708.02002).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..types import Labels, Patches, Texts
from .mask import label_rank, top_k_count

ItemLogits = Float[Tensor, "items prompts"]
ItemLosses = Float[Tensor, " items"]


def id_loss(logits: ItemLogits, labels: Labels) -> ItemLosses:
    """Cross-entropy -log softmax(l)_y of each image over all prompts: C + 1 with "unknown", else C (CLIP-OS, CoOp).

    Args:
        logits: of the global features.
        labels: true classes, (items,).

    Example:
        >>> id_loss(torch.zeros(1, 4), torch.tensor([2]))  # log 4
        tensor([1.3863])
    """
    return F.cross_entropy(logits, labels, reduction="none")


def unknown_loss(logits: ItemLogits) -> ItemLosses:
    """Cross-entropy to "unknown", -log p_u over C + 1 prompts, of each outlier (CLIP-OS, section 3, second term).

    Args:
        logits: of the outliers, "unknown" last.

    Example:
        >>> unknown_loss(torch.zeros(1, 4))  # log 4
        tensor([1.3863])
    """
    return torch.logsumexp(logits, 1) - logits[:, -1]


def focal_loss(logits: ItemLogits, gamma: float = 2.0) -> ItemLosses:
    """Focal loss to "unknown", (1 - p_u)^gamma (-log p_u), of each outlier (Lin et al. 2017, eq. 4).

    Args:
        logits: of the outliers, "unknown" last.
        gamma: exponent; 0 gives :func:`unknown_loss`.

    Example:
        >>> focal_loss(torch.zeros(1, 4))  # (3 / 4)^2 log 4
        tensor([0.7798])
    """
    cross_entropy = unknown_loss(logits)
    return (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy


def uniform_loss(logits: ItemLogits) -> ItemLosses:
    """KL(uniform || softmax(l)) = logsumexp(l) - mean(l) - log C of each outlier (outlier exposure).

    Args:
        logits: of the outliers over the C classes.

    Example:
        >>> uniform_loss(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))  # 0 where uniform; log(1 + e^3) - 1.5 - log 2
        tensor([0.0000, 0.8554])
    """
    classes = torch.tensor(float(logits.shape[1]))
    return torch.logsumexp(logits, 1) - logits.mean(1) - torch.log(classes).to(logits.device)


def entropy_loss(logits: ItemLogits) -> ItemLosses:
    """Minus the entropy, -H(softmax(l)), of each patch over the C classes; minimising it maximises H (LoCoOp).

    Args:
        logits: of the patches over the C classes.

    Example:
        >>> entropy_loss(torch.zeros(1, 4))  # -log 4
        tensor([-1.3863])
    """
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


def energy_id_loss(logits: ItemLogits, margin: float) -> ItemLosses:
    """max(0, E - m_in)^2 with the energy E = -logsumexp(l), of each ID image (Liu et al. 2020, eq. 8).

    Args:
        logits: of the ID images over the C classes.
        margin: m_in.

    Example:
        >>> energy_id_loss(torch.zeros(1, 1), margin=-1.0)  # E = 0
        tensor([1.])
    """
    return F.relu(-torch.logsumexp(logits, 1) - margin) ** 2


def energy_outlier_loss(logits: ItemLogits, margin: float) -> ItemLosses:
    """max(0, m_out - E)^2 with the energy E = -logsumexp(l), of each outlier (Liu et al. 2020, eq. 8).

    Args:
        logits: of the outliers over the C classes.
        margin: m_out.

    Example:
        >>> energy_outlier_loss(torch.zeros(1, 1), margin=2.0)  # E = 0
        tensor([4.])
    """
    return F.relu(margin + torch.logsumexp(logits, 1)) ** 2


def irrelevant_locals(
    patches_local: Patches, text: Texts, labels: Labels, top_k: float
) -> Bool[Tensor, "batch patches"]:
    """LoCoOp's ID-irrelevant patches: the label is not among the top K classes under the current prompts.

    Args:
        patches_local: local features, (B, P, D).
        text: the learned class prompts, (C, D).
        labels: true classes, (B,).
        top_k: K as a fraction of the classes.

    Example:
        >>> irrelevant_locals(torch.eye(3)[None], torch.eye(3), torch.tensor([0]), top_k=1 / 3)
        tensor([[False,  True,  True]])
    """
    return label_rank(patches_local, text, labels) >= top_k_count(len(text), top_k)


def confidence(logits: ItemLogits, labels: Labels) -> ItemLosses:
    """p_y = softmax(l)_y of each image's own class, in [0, 1]; with gradients, as in SCT's code.

    Example:
        >>> confidence(torch.zeros(1, 4), torch.tensor([2]))
        tensor([0.2500])
    """
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def calibrated_loss(logits: ItemLogits, labels: Labels) -> ItemLosses:
    """(1 - p_y) times the cross-entropy of each image: confident images get a small weight (SCT).

    Example:
        >>> calibrated_loss(torch.zeros(1, 4), torch.tensor([2]))  # 3 / 4 log 4
        tensor([1.0397])
    """
    return (1 - confidence(logits, labels)) * id_loss(logits, labels)
