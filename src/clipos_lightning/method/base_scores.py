"""Base scores: pure functions of one feature's cosines to a detector's prompts; higher = more in-distribution.

Notation: l_c = s cos(f, t_c) over the C classes, l_u the logit of "unknown", s the model's scale. All are computed in
fp32, per item in any number of leading dimensions: (..., C) to (...). Sources: msp (Hendrycks and Gimpel 2017,
arXiv:1610.02136), mcm (Ming et al. 2022, arXiv:2211.13445), max_logit (Hendrycks et al. 2022, arXiv:1911.11132), energy
(Liu et al. 2020, arXiv:2010.03759); those with "unknown" use CLIP-OS's prompt (arXiv:2404.00323, section 3); knn (Sun
et al. 2022, arXiv:2204.06507) and mahalanobis (Lee et al. 2018, arXiv:1807.03888) compare with ID images, not prompts;
neg_label (Jiang et al. 2024, arXiv:2403.20078) with words that are none of the classes.
A :class:`Score` says on which features of an image a base score is evaluated.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .logits import Logits


def msp(z: Logits) -> Float[Tensor, "*items"]:
    """log max_c softmax(l)_c as -log(1 + sum_{c != c*} exp(l_c - l_c*)), c* the best class: it does not saturate.

    Example:
        >>> msp(Logits(torch.tensor([[0.3, 0.1]]), None, scale=10.0))  # -log(1 + e^-2)
        tensor([-0.1269])
    """
    return log_max_softmax(z.logits, z.logits)


def msp_unknown(z: Logits) -> Float[Tensor, "*items"]:
    """``msp`` with "unknown" in the denominator.

    Example:
        >>> msp_unknown(Logits(torch.tensor([[0.3, 0.1]]), torch.tensor([0.2]), scale=10.0))  # -log(1 + e^-2 + e^-1)
        tensor([-0.4076])
    """
    return log_max_softmax(z.logits, torch.cat([z.logits, z.unknown_logit[..., None]], -1))


def log_max_softmax(
    logits: Float[Tensor, "*items classes"], denominator: Float[Tensor, "*items prompts"]
) -> Float[Tensor, "*items"]:
    """log softmax of the best class, normalised over ``denominator``.

    Args:
        logits: (..., C).
        denominator: ``logits``, and any further ones after them, (..., C + M).
    """
    best = logits.argmax(-1, keepdim=True)
    others = (denominator - logits.gather(-1, best)).scatter(-1, best, -torch.inf)
    return -F.softplus(torch.logsumexp(others, -1))


def mcm(z: Logits) -> Float[Tensor, "*items"]:
    """max_c softmax(cos / T)_c, in (0, 1] (MCM; T = 1 by default, the raw cosines).

    Example:
        >>> mcm(Logits(torch.tensor([[0.3, 0.1]]), None, scale=10.0))  # 1 / (1 + e^-0.2)
        tensor([0.5498])
    """
    return largest_probability(z.cosine / z.temperature)


def mcm_unknown(z: Logits) -> Float[Tensor, "*items"]:
    """``mcm`` with "unknown" in the denominator.

    Example:
        >>> mcm_unknown(Logits(torch.tensor([[0.3, 0.1]]), torch.tensor([0.1]), scale=10.0))  # 1 / (1 + 2 e^-0.2)
        tensor([0.3792])
    """
    assert z.unknown is not None, "this detector has no unknown prompt"
    return largest_probability(z.cosine / z.temperature, z.unknown[..., None] / z.temperature)


def largest_probability(
    values: Float[Tensor, "*items columns"], others: Float[Tensor, "*items more"] | None = None
) -> Float[Tensor, "*items"]:
    """max_c softmax([values, others])_c over the columns of ``values``: 1 / sum of exp(v - max_c v_c).

    Several times as fast as PyTorch's softmax, which is slow over a few columns.

    Example:
        >>> largest_probability(torch.tensor([1.0, 0.0]), torch.tensor([2.0]))  # 1 / (1 + e^-1 + e)
        tensor(0.2447)
    """
    best = values.amax(-1, keepdim=True)
    total = (values - best).exp().sum(-1)
    return 1 / (total if others is None else total + (others - best).exp().sum(-1))


def max_logit(z: Logits) -> Float[Tensor, "*items"]:
    """max_c l_c.

    Example:
        >>> max_logit(Logits(torch.tensor([[0.3, 0.1]]), None, scale=10.0))
        tensor([3.])
    """
    return z.logits.amax(-1)


def energy(z: Logits) -> Float[Tensor, "*items"]:
    """logsumexp_c l_c, the negative free energy.

    Example:
        >>> energy(Logits(torch.tensor([[0.3, 0.1]]), None, scale=10.0))  # log(e^3 + e^1)
        tensor([3.1269])
    """
    return torch.logsumexp(z.logits, -1)


def entropy(z: Logits) -> Float[Tensor, "*items"]:
    """-H(softmax(l)), minus the entropy over the classes, in [-log C, 0].

    Example:
        >>> entropy(Logits(torch.tensor([[0.3, 0.3]]), None, scale=10.0))  # -log 2
        tensor([-0.6931])
    """
    log_p = z.logits.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1)


def unknown(z: Logits) -> Float[Tensor, "*items"]:
    """logsumexp_c l_c - l_u: ranks as 1 - p(unknown), without its ties in fp32.

    Example:
        >>> unknown(Logits(torch.tensor([[0.3, 0.1]]), torch.tensor([0.2]), scale=10.0))  # log(e^3 + e^1) - 2
        tensor([1.1269])
    """
    return energy(z) - z.unknown_logit


def energy_unknown(z: Logits) -> Float[Tensor, "*items"]:
    """e + log(1 - p(unknown)) with e the energy, computed as e + logsigmoid(e - l_u).

    It keeps the size of the logits, which ``unknown``, a difference, drops. Ours, not from a paper.

    Example:
        >>> energy_unknown(Logits(torch.tensor([[0.3]]), torch.tensor([0.3]), scale=10.0))  # 3 + log(1 / 2)
        tensor([2.3069])
    """
    e = energy(z)
    return e + F.logsigmoid(e - z.unknown_logit)


def knn(z: Logits) -> Float[Tensor, "*items"]:
    """The mean cosine to the k nearest images of the memory.

    Sun et al. 2022 take the k-th nearest image; with few images the mean over k is better (docs/scores.md).

    Example:
        >>> from clipos_lightning.method.reference import Reference
        >>> reference = Reference(torch.eye(2), torch.tensor([0, 1]), neighbors=2, shrinkage=0.9)
        >>> knn(Logits(torch.zeros(1, 2), None, 10.0, feature=torch.tensor([[0.6, 0.8]]), memory=reference))
        tensor([0.7000])
    """
    assert z.feature is not None and z.memory is not None, "this detector keeps no images"
    return z.memory.likeness(z.feature)


def mahalanobis(z: Logits) -> Float[Tensor, "*items"]:
    """Minus the Mahalanobis distance to the nearest class mean of the memory, with a shared, shrunk covariance.

    Example:
        >>> from clipos_lightning.method.reference import Reference
        >>> reference = Reference(torch.eye(2), torch.tensor([0, 1]), neighbors=2, shrinkage=0.9)  # covariance I
        >>> mahalanobis(Logits(torch.zeros(1, 2), None, 10.0, feature=torch.tensor([[0.6, 0.8]]), memory=reference))
        tensor([-0.6325])
    """
    assert z.feature is not None and z.memory is not None, "this detector keeps no images"
    return -z.memory.distances(z.feature).amin(-1)


def neg_label(z: Logits) -> Float[Tensor, "*items"]:
    """The logit of NegLabel's score, the mean over groups of words of sum_c e^l_c / (sum_c e^l_c + sum_w e^l_w).

    log m - log(1 - m) of the mean m ranks as m itself, and saturates at neither end in fp32.

    Example:
        >>> neg_label(Logits(torch.tensor([[0.3]]), None, 10.0, negatives=torch.tensor([[0.1]])))  # one group: 3 - 1
        tensor([2.])
    """
    assert z.negatives is not None, "this detector has no negative words"
    words = z.scale * z.negatives
    groups = torch.stack([torch.logsumexp(group, -1) for group in words.split(z.group_size, -1)], -1)
    gap = energy(z)[..., None] - groups
    return torch.logsumexp(F.logsigmoid(gap), -1) - torch.logsumexp(F.logsigmoid(-gap), -1)


def mean_of_largest(values: Float[Tensor, "batch items"], count: int = 10) -> Float[Tensor, " batch"]:
    """The mean of the ``count`` largest values of each row, or of all if there are fewer: a pool of local scores.

    Example:
        >>> mean_of_largest(torch.tensor([[1.0, 3.0, 5.0]]), 2)
        tensor([4.])
    """
    return values.topk(min(count, values.shape[1]), 1).values.mean(1)


BaseScore = Callable[[Logits], Tensor]


@dataclass(frozen=True)
class Score:
    """A score: a base score, the features it is evaluated on, and what it compares them with.

    Attributes:
        base: maps :class:`.logits.Logits` of (...) items to one number per item, higher = more in-distribution.
        on: ``cls`` (the global feature), ``local`` (plus the weighted ``pool`` of the local patches) or ``region``
            (plus the weighted score of the ID-relevant region of the predicted class).
        unknown: whether it needs the "unknown" prompt.
        memory: whether it compares with ID images, ``Logits.memory``: the few-shot images, and those of ``clipos
            calibrate --memory``.
        negatives: whether it compares with texts that are none of the classes, ``Logits.negatives``.
        further: whether it compares with further prompts of the classes, ``Logits.further``.
        pool: of local scores: maps the logits of (batch, patches) items to one number per image; None: the largest base
            score of a patch.

    Example:
        >>> from clipos_lightning import Score
        >>> second_best = Score(lambda z: -z.logits.topk(2).values[..., 1], on="region")
        >>> second_best.base(Logits(torch.tensor([[0.3, 0.1]]), None, scale=10.0))
        tensor([-1.])
    """

    base: BaseScore
    on: Literal["cls", "local", "region"] = "cls"
    unknown: bool = False
    memory: bool = False
    negatives: bool = False
    further: bool = False
    pool: BaseScore | None = None

    def pooled(self, z: Logits) -> Float[Tensor, " batch"]:
        """The local part of a local score, from the logits of (batch, patches) items."""
        return self.base(z).amax(-1) if self.pool is None else self.pool(z)
