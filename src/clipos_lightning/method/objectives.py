"""The objectives: the ID term and the outlier term of each, as values per item.

A term is a vector with one value an item (image, outlier or patch); the module divides its sum by the global count, so
that several processes train exactly as one. Each loss is a pure function; an ``Objective`` says which ones it uses.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import InputError
from ..types import Labels, OutlierSource, Patches, Texts
from ..utils.imports import load_object
from .mask import label_rank, top_k_count

ItemLogits = Float[Tensor, "items prompts"]
ItemLosses = Float[Tensor, " items"]


def id_loss(logits: ItemLogits, labels: Labels) -> ItemLosses:
    """CE(s <f_global, t>, y) of each image over the prompts there are: C + 1 with "unknown", else C (CLIP-OS, CoOp)."""
    return F.cross_entropy(logits, labels, reduction="none")


def unknown_loss(logits: ItemLogits) -> ItemLosses:
    """CE(s <f_outlier, t>, unknown) over C + 1 prompts, "unknown" last (CLIP-OS's second term)."""
    return torch.logsumexp(logits, 1) - logits[:, -1]


def focal_loss(logits: ItemLogits, gamma: float = 2.0) -> ItemLosses:
    """(1 - p_u)^gamma times the cross-entropy to "unknown", p_u its probability (Lin et al. 2017)."""
    cross_entropy = unknown_loss(logits)
    return (1 - torch.exp(-cross_entropy)) ** gamma * cross_entropy


def uniform_loss(logits: ItemLogits) -> ItemLosses:
    """KL(uniform || p) over the C classes = logsumexp(l) - mean(l) - log C (Hendrycks et al. 2019)."""
    classes = torch.tensor(float(logits.shape[1]))
    return torch.logsumexp(logits, 1) - logits.mean(1) - torch.log(classes).to(logits.device)


def entropy_loss(logits: ItemLogits) -> ItemLosses:
    """-H(softmax(l)) over the C classes: minimising it maximises the entropy (LoCoOp, Miyai et al. 2023)."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


def energy_id_loss(logits: ItemLogits, margin: float) -> ItemLosses:
    """max(0, E - m_in)^2 with E = -logsumexp(l), for ID images (Liu et al. 2020, eq. 8)."""
    return F.relu(-torch.logsumexp(logits, 1) - margin) ** 2


def energy_outlier_loss(logits: ItemLogits, margin: float) -> ItemLosses:
    """max(0, m_out - E)^2 with E = -logsumexp(l), for outliers (Liu et al. 2020, eq. 8)."""
    return F.relu(margin + torch.logsumexp(logits, 1)) ** 2


def irrelevant_locals(
    patches_local: Patches, text: Texts, labels: Labels, top_k: float
) -> Bool[Tensor, "batch patches"]:
    """LoCoOp's ID-irrelevant patches: the true label is not among the top K classes under the current prompts."""
    return label_rank(patches_local, text, labels) >= top_k_count(len(text), top_k)


def confidence(logits: ItemLogits, labels: Labels) -> ItemLosses:
    """p_y, the probability of each image's own class; gradients flow through it, as in SCT's code."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


class Objective:
    """What a detector learns from: cross-entropy over the C classes alone (CoOp, Zhou et al. 2022).

    A subclass changes a term. Every term is a vector with one value an item, which the module sums, divides by the
    global count and, but for the first, multiplies by ``outlier_weight``. One of your own: see docs/extend.md.

    Attributes:
        unknown: there is a prompt for "unknown", the last of C + 1.
        outliers: what the outlier term runs over: outliers from ``synthesis``, LoCoOp's ID-irrelevant
            ``local_patches``, or ``none``.
    """

    unknown: bool = False
    outliers: OutlierSource = "none"

    def prepare(self, inside: ItemLogits, outside: Float[Tensor, "outliers prompts"]) -> None:
        """Called before training with the zero-shot logits (over C) of the few-shot images and of their outliers.

        Of 1,000 outliers, or of none where ``outliers`` is not ``synthesis``.
        """

    def id_loss(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """The ID term of each image, (B,)."""
        return id_loss(logits, labels)

    def id_penalty(self, logits: ItemLogits) -> ItemLosses:
        """A part of the outlier term that runs over the ID images, (B,); 0 for most."""
        return torch.zeros_like(logits[:, 0])

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """The outlier term of each outlier or patch, (M,)."""
        raise NotImplementedError(f"{type(self).__name__} has no outlier term")

    def patch_weight(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """Weight of each image's local patches in the outlier term, (B,)."""
        return torch.ones_like(logits[:, 0])


class Unknown(Objective):
    """CLIP-OS: outliers are "unknown" by cross-entropy over C + 1 prompts."""

    unknown, outliers = True, "synthesis"

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """CE to "unknown"."""
        return unknown_loss(logits)


class Focal(Unknown):
    """As ``Unknown``, focal (gamma = 2): easy outliers weigh little."""

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """Focal loss to "unknown"."""
        return focal_loss(logits)


class UniformKL(Objective):
    """Outliers are uniform over the C classes (Hendrycks et al. 2019)."""

    outliers = "synthesis"

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """KL(uniform || p)."""
        return uniform_loss(logits)


class EnergyMargin(Objective):
    """Squared hinges on the energies of ID images and outliers (Liu et al. 2020).

    Args:
        margins: m_in and m_out; None: medians of -logsumexp of the few-shot images and of their outliers (zero-shot).
    """

    outliers = "synthesis"

    def __init__(self, margins: tuple[float, float] | None = None) -> None:
        self.margins = margins

    def prepare(self, inside: ItemLogits, outside: Float[Tensor, "outliers prompts"]) -> None:
        """The medians, where no margins were given."""
        if self.margins is None:
            sides = (inside, outside if len(outside) else inside)
            m_in, m_out = (float((-torch.logsumexp(logits, 1)).median()) for logits in sides)
            self.margins = (m_in, m_out)

    def id_penalty(self, logits: ItemLogits) -> ItemLosses:
        """The ID hinge."""
        assert self.margins is not None
        return energy_id_loss(logits, self.margins[0])

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """The outliers' hinge."""
        assert self.margins is not None
        return energy_outlier_loss(logits, self.margins[1])


class LoCoOp(Objective):
    """The entropy of ID-irrelevant local patches is maximised (Miyai et al. 2023, arXiv:2306.01293)."""

    outliers = "local_patches"

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """Minus the entropy."""
        return entropy_loss(logits)


class SCT(LoCoOp):
    """Self-calibrated tuning (Yu et al. 2024, arXiv:2411.03359): LoCoOp with CE x (1 - p_y) and the patches x p_y."""

    def id_loss(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """(1 - p_y) CE: sure images teach little about classes."""
        return (1 - confidence(logits, labels)) * id_loss(logits, labels)

    def patch_weight(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """p_y: sure images teach more about what is outside."""
        return confidence(logits, labels)


OBJECTIVES: dict[str, type[Objective]] = {
    "unknown": Unknown,  # CLIP-OS
    "focal": Focal,
    "uniform_kl": UniformKL,
    "energy": EnergyMargin,
    "entropy": LoCoOp,
    "sct": SCT,
    "none": Objective,  # CoOp
}


def make_objective(given: str | Mapping[str, Any], margins: tuple[float, float] | None = None) -> Objective:
    """An objective by its name in ``OBJECTIVES``, or one's own by its dotted path.

    Args:
        given: a name, ``package.module.Class``, or ``{"class_path": ..., "init_args": {...}}``.
        margins: of objective ``energy``.

    Raises:
        InputError: no such name or class, arguments that it does not take, or not an Objective.
    """
    if given == "energy":
        return EnergyMargin(margins)
    if margins is not None:
        raise InputError("--model.energy_margins belong to --model.objective energy: leave them out")
    if isinstance(given, str) and given in OBJECTIVES:
        return OBJECTIVES[given]()
    if not isinstance(given, str) and set(given) - {"class_path", "init_args"}:
        raise InputError(f"--model.objective takes class_path and init_args, not {', '.join(map(str, given))}")
    path = given if isinstance(given, str) else given.get("class_path", "")
    if "." not in path:
        raise InputError(f"--model.objective {path!r}: take one of {', '.join(OBJECTIVES)}, or package.module.Class")
    kind = load_object(path, "--model.objective")
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise InputError(f"--model.objective {path}: not a subclass of clipos_lightning.Objective")
    try:
        return kind(**({} if isinstance(given, str) else given.get("init_args") or {}))
    except TypeError as error:
        raise InputError(f"--model.objective {path}: {error}") from error
