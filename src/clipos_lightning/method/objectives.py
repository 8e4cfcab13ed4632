"""Objectives: the ID term and the outlier term of each method, one value per item.

An ``Objective`` selects the losses (see :mod:`.losses`, with their sources) that a method uses. A term is a vector with
one value per item (image, outlier or patch); the module takes its mean over all processes, so several train as one.
Further methods of the line are in :mod:`.family`, one file each.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..types import ClassTexts, Labels, OutlierSource, PatchMap, Texts
from ..utils.chunks import by_chunks
from .feature_store import Crops
from .logits import NO_EXTRA, ExtraTexts
from .losses import (
    ItemLogits,
    ItemLosses,
    calibrated_loss,
    confidence,
    energy_id_loss,
    energy_outlier_loss,
    entropy_loss,
    focal_loss,
    id_loss,
    uniform_loss,
    unknown_loss,
)
from .own_prompts import PromptMaker
from .step import Step


class Objective:
    """Base class, and CoOp's objective: cross-entropy over the C classes alone (Zhou et al. 2022).

    A subclass overrides terms. Every term is a vector with one value per item. The module takes its mean over all
    processes and multiplies all but the ID term by ``outlier_weight``. How to add one: docs/extend.md.

    Attributes:
        unknown: whether there is a prompt for "unknown", the last of C + 1.
        outliers: input of the outlier term: ``synthesis`` (synthesised outliers), ``local_patches`` (LoCoOp's
            ID-irrelevant patches) or ``none``.
        attention: whether ``outlier_terms`` needs ``Step.attention``; only with ``local_patches``.
        crops: random crops of the few-shot images for ``Step.inside`` and ``Step.outside``; None: not needed.
        negatives: whether ``texts`` gives negatives, so that ``--model.negatives`` is refused.
        images: whether ``--model.image_weight`` may be above 0: not with several prompts of a class.
        score: name of the method's score, the default of ``--model.score``; None: msp_unknown or msp.
        scores: names of the scores that only this method has.

    Example:
        >>> from clipos_lightning import Objective
        >>> class SmallLogits(Objective):
        ...     outliers = "synthesis"
        ...
        ...     def outlier_loss(self, logits):
        ...         return logits.square().mean(1)
        >>> SmallLogits().outlier_loss(torch.tensor([[1.0, 3.0]]))
        tensor([5.])
    """

    unknown: bool = False
    outliers: OutlierSource = "none"
    attention: bool = False
    crops: Crops | None = None
    negatives: bool = False
    images: bool = True
    score: str | None = None
    scores: tuple[str, ...] = ()

    def own_prompts(self, make: PromptMaker) -> nn.Module | None:
        """Further prompts that learn, or tensors that do not; by default none.

        Args:
            make: makes them for the detector's backbone and classes.

        Returns:
            A module whose parameters the optimizer gets and checkpoints hold.
        """
        return None

    def texts(self, text: Texts, class_text: ClassTexts, own: nn.Module | None) -> tuple[Texts, ExtraTexts]:
        """The texts that the detector and ``Step`` compare images with, in training and in use.

        Args:
            text: the learned class prompts, (C, D), or (C + 1, D) with "unknown" last.
            class_text: the frozen class prompts, (C, D).
            own: the module of :meth:`own_prompts`.

        Returns:
            The detector's prompts, as ``text``, and what some scores compare with beside them.
        """
        return text, NO_EXTRA

    def prepare(self, id_logits: ItemLogits, outlier_logits: Float[Tensor, "outliers prompts"]) -> None:
        """Called once before training; does nothing by default.

        Args:
            id_logits: zero-shot logits of the few-shot images over the C classes.
            outlier_logits: those of 1,000 synthesised outliers; of none unless ``outliers`` is ``synthesis``.
        """

    def id_loss(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """The ID term of each image, (B,)."""
        return id_loss(logits, labels)

    def id_term(self, step: Step) -> ItemLosses:
        """The ID term of each item: by default ``id_loss`` of each image, (B,)."""
        return self.id_loss(step.logits, step.labels)

    def outlier_terms(self, step: Step) -> list[ItemLosses]:
        """The terms that are multiplied by ``outlier_weight``: by default those of the methods below."""
        terms = [self.id_penalty(step.logits)]
        if self.outliers == "synthesis":
            terms.append(self.outlier_loss(step.logits_of(step.outliers)))
        elif self.outliers == "local_patches":
            terms.append(self.patch_losses(step))
        return terms

    def patch_losses(self, step: Step) -> ItemLosses:
        """The weighted ``outlier_loss`` of each outlier patch, (M,), computed within the memory budget."""
        chosen = self.outlier_patches(step)
        patches, weights = step.patches[chosen], self.patch_weights(step)[chosen]
        size = patches.element_size() * len(step.text)
        return weights * by_chunks(lambda part: self.outlier_loss(step.logits_of(part)), (patches,), size)

    def outlier_patches(self, step: Step) -> Bool[Tensor, "batch patches"]:
        """The patches that are outliers, (B, P): by default LoCoOp's ID-irrelevant ones."""
        return step.irrelevant

    def patch_weights(self, step: Step) -> PatchMap:
        """Weight of each patch, (B, P): by default its image's ``patch_weight``."""
        return self.patch_weight(step.logits, step.labels)[:, None].expand(step.patches.shape[:2])

    def id_penalty(self, logits: ItemLogits) -> ItemLosses:
        """The part of the outlier term that runs over the ID images, (B,); 0 by default."""
        return torch.zeros_like(logits[:, 0])

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """The outlier term of each outlier or patch, (M,).

        Raises:
            NotImplementedError: the objective has no outlier term.
        """
        raise NotImplementedError(f"{type(self).__name__} has no outlier_loss: add it, or set outliers to 'none'")

    def patch_weight(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """Weight of each image's ID-irrelevant patches in the outlier term, (B,); 1 by default."""
        return torch.ones_like(logits[:, 0])


class Unknown(Objective):
    """CLIP-OS (section 3): outliers are classified as "unknown" by cross-entropy over C + 1 prompts.

    Example:
        >>> Unknown().outlier_loss(torch.zeros(1, 4))  # log 4
        tensor([1.3863])
    """

    unknown, outliers = True, "synthesis"

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """Cross-entropy to "unknown"."""
        return unknown_loss(logits)


class Focal(Unknown):
    """``Unknown`` with the focal loss (gamma = 2): easy outliers get a small weight.

    Example:
        >>> Focal().outlier_loss(torch.zeros(1, 4))  # (3 / 4)^2 log 4
        tensor([0.7798])
    """

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """Focal loss to "unknown"."""
        return focal_loss(logits)


class UniformKL(Objective):
    """Outlier exposure (Hendrycks et al. 2019): outliers are pulled to the uniform distribution over the C classes.

    Example:
        >>> UniformKL().outlier_loss(torch.zeros(1, 4))
        tensor([0.])
    """

    outliers = "synthesis"

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """KL(uniform || p)."""
        return uniform_loss(logits)


class EnergyMargin(Objective):
    """Squared hinges on the energies E = -logsumexp(l) of ID images and of outliers (Liu et al. 2020, eq. 8).

    Args:
        margins: m_in and m_out; None: the median zero-shot energies of the few-shot images and of their outliers.

    Example:
        >>> objective = EnergyMargin(margins=(-1.0, 2.0))
        >>> objective.id_penalty(torch.zeros(1, 1)), objective.outlier_loss(torch.zeros(1, 1))  # E = 0
        (tensor([1.]), tensor([4.]))
    """

    outliers = "synthesis"

    def __init__(self, margins: tuple[float, float] | None = None) -> None:
        self.given = self.margins = margins

    def prepare(self, id_logits: ItemLogits, outlier_logits: Float[Tensor, "outliers prompts"]) -> None:
        """Set the margins to the median energies if none were given, anew for each fit."""
        if self.given is None:
            sides = (id_logits, outlier_logits if len(outlier_logits) else id_logits)
            m_in, m_out = (float((-torch.logsumexp(logits, 1)).median()) for logits in sides)
            self.margins = (m_in, m_out)

    def id_penalty(self, logits: ItemLogits) -> ItemLosses:
        """max(0, E - m_in)^2."""
        assert self.margins is not None
        return energy_id_loss(logits, self.margins[0])

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """max(0, m_out - E)^2."""
        assert self.margins is not None
        return energy_outlier_loss(logits, self.margins[1])


class LoCoOp(Objective):
    """LoCoOp (Miyai et al. 2023): maximise the entropy of ID-irrelevant local patches.

    Example:
        >>> LoCoOp().outlier_loss(torch.zeros(1, 4))  # -log 4
        tensor([-1.3863])
    """

    outliers = "local_patches"

    def outlier_loss(self, logits: ItemLogits) -> ItemLosses:
        """Minus the entropy."""
        return entropy_loss(logits)


class SCT(LoCoOp):
    """Self-calibrated tuning (Yu et al. 2024): LoCoOp, its ID term times 1 - p_y and its outlier term times p_y.

    Example:
        >>> logits, labels = torch.zeros(1, 4), torch.tensor([2])  # p_y = 1 / 4
        >>> SCT().id_loss(logits, labels), SCT().patch_weight(logits, labels)  # 3 / 4 log 4
        (tensor([1.0397]), tensor([0.2500]))
    """

    def id_loss(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """(1 - p_y) times the cross-entropy: confident images get a small weight."""
        return calibrated_loss(logits, labels)

    def patch_weight(self, logits: ItemLogits, labels: Labels) -> ItemLosses:
        """p_y: the patches of confident images get a large weight."""
        return confidence(logits, labels)
