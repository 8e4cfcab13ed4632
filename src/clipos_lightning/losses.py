"""The objectives: the ID term and the outlier term of each, as values per item.

A term is a vector with one value an item (image, outlier or patch); the module divides its sum by the global count, so
that several processes train exactly as one. ``OBJECTIVES`` says what each objective uses.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from .surgery import label_rank, top_k_count
from .types import Labels, Patches, Texts

Logits = Float[Tensor, "items prompts"]
Values = Float[Tensor, " items"]
OutlierLoss = Callable[[Logits], Values]


def id_loss(logits: Logits, labels: Labels) -> Values:
    """CE(s <f_global, t>, y) of each image over the prompts there are: C + 1 with "unknown", else C (CLIP-OS, CoOp)."""
    return F.cross_entropy(logits, labels, reduction="none")


def unknown_loss(logits: Logits) -> Values:
    """CE(s <f_outlier, t>, unknown) over C + 1 prompts, "unknown" last (CLIP-OS's second term)."""
    return torch.logsumexp(logits, 1) - logits[:, -1]


def focal_loss(logits: Logits, gamma: float = 2.0) -> Values:
    """(1 - p_u)^gamma times the cross-entropy to "unknown", p_u its probability (Lin et al. 2017)."""
    cross_entropy = unknown_loss(logits)
    return (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy


def uniform_loss(logits: Logits) -> Values:
    """KL(uniform || p) over the C classes = logsumexp(l) - mean(l) - log C (Hendrycks et al. 2019)."""
    classes = torch.tensor(float(logits.shape[1]))
    return torch.logsumexp(logits, 1) - logits.mean(1) - torch.log(classes).to(logits.device)


def entropy_loss(logits: Logits) -> Values:
    """-H(softmax(l)) over the C classes: minimising it maximises the entropy (LoCoOp, Miyai et al. 2023)."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


def energy_id_loss(logits: Logits, margin: float) -> Values:
    """max(0, E - m_in)^2 with E = -logsumexp(l), for ID images (Liu et al. 2020, eq. 8)."""
    return F.relu(-torch.logsumexp(logits, 1) - margin) ** 2


def energy_outlier_loss(logits: Logits, margin: float) -> Values:
    """max(0, m_out - E)^2 with E = -logsumexp(l), for outliers (Liu et al. 2020, eq. 8)."""
    return F.relu(margin + torch.logsumexp(logits, 1)) ** 2


def irrelevant_locals(
    patches_local: Patches, text: Texts, labels: Labels, top_k: float
) -> Bool[Tensor, "batch patches"]:
    """LoCoOp's ID-irrelevant patches: the true label is not among the top K classes under the current prompts."""
    rank = label_rank((patches_local @ text.T).detach(), labels)
    return rank >= top_k_count(len(text), top_k)


@dataclass(frozen=True)
class Objective:
    """What a training objective uses.

    Attributes:
        unknown: there is a prompt for "unknown" (C + 1 prompts).
        outliers: where the outlier term's items come from; none: there is no such term (CoOp).
        loss: the outlier term of an item; None where the margins of ``energy`` are needed first.
    """

    unknown: bool
    outliers: Literal["synthesis", "local_patches", "none"]
    loss: OutlierLoss | None = None


OBJECTIVES: dict[str, Objective] = {
    "unknown": Objective(True, "synthesis", unknown_loss),  # CLIP-OS
    "focal": Objective(True, "synthesis", focal_loss),
    "uniform_kl": Objective(False, "synthesis", uniform_loss),
    "energy": Objective(False, "synthesis"),
    "entropy": Objective(False, "local_patches", entropy_loss),  # LoCoOp
    "none": Objective(False, "none"),  # CoOp
}
