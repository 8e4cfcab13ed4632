"""FoBoR (2026): LoCoOp or SCT with a weight per patch, and a term on the patch of the most confusable class.

Derived from the formulas of its authors' code. Two terms join the cross-entropy, the first times lambda_ood = 0.2:

1. LoCoOp's entropy term, patch i weighted by w_i = sigmoid(eta p_y a_i); a_i: how much patch i attends to the class
   token in the last block, scaled to [0, 1] per image; eta = 5.
2. The confusable class c maximises (1 - lambda) l_c + lambda s <t_y, t_c> over c != y, lambda = 0.17. On the one patch
   with the largest l_{i,c}, the entropy of (p_y, p_c), scaled to sum 1 after 1e-4 is added to both, is maximised. Its
   weight is 3, that is 15 lambda_ood.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...options.schema import Fraction
from ...types import Labels
from ..losses import ItemLosses, calibrated_loss, confidence, entropy_loss
from ..objectives import LoCoOp, Objective
from ..step import Step

EPSILON = 1e-4


class FoBoR(LoCoOp):
    """FoBoR on LoCoOp, or on SCT.

    Args:
        calibrated: SCT's factors as well: the ID term times 1 - p_y, the patch weights times p_y.
        sharpness: eta.
        likeness: lambda, the part of the class names' likeness in the choice of the confusable class, in [0, 1].
        confusable_weight: weight of the second term relative to ``outlier_weight``.
    """

    attention = True

    def __init__(
        self,
        calibrated: bool = False,
        sharpness: float = 5.0,
        likeness: Fraction = 0.17,
        confusable_weight: float = 15.0,
    ) -> None:
        self.calibrated, self.sharpness, self.likeness = calibrated, sharpness, likeness
        self.confusable_weight = confusable_weight

    def id_loss(self, logits: Float[Tensor, "items prompts"], labels: Labels) -> ItemLosses:
        """Cross-entropy, with SCT's factor if calibrated."""
        return calibrated_loss(logits, labels) if self.calibrated else super().id_loss(logits, labels)

    def patch_weights(self, step: Step) -> Float[Tensor, "batch patches"]:
        """sigmoid(eta p_y a_i), (B, P), with SCT's factor p_y if calibrated."""
        p_y = confidence(step.logits, step.labels)[:, None]
        weights = torch.sigmoid(self.sharpness * p_y * step.attention)
        return p_y * weights if self.calibrated else weights

    def outlier_terms(self, step: Step) -> list[ItemLosses]:
        """The weighted entropies of LoCoOp's patches, and the term of the confusable class."""
        confusable = confusable_classes(step, self.likeness)
        return [*super().outlier_terms(step), self.confusable_weight * confusable_loss(step, confusable)]


@torch.no_grad()
def confusable_classes(step: Step, likeness: float) -> Int[Tensor, " batch"]:
    """argmax over c != y of (1 - lambda) l_c + lambda s <t_y, t_c>, (B,)."""
    names = step.scale * step.text[step.labels] @ step.text.T
    mixed = (1 - likeness) * step.logits + likeness * names
    return mixed.scatter(1, step.labels[:, None], -torch.inf).argmax(1)


def confusable_loss(step: Step, confusable: Int[Tensor, " batch"]) -> ItemLosses:
    """Minus the entropy of own and confusable class on the patch that is most like the latter, (B,).

    Args:
        step: with local patches.
        confusable: a class of each image that is not its own, (B,).
    """
    with torch.no_grad():
        best = (step.patches @ step.text[confusable][..., None])[..., 0].argmax(1)
    rows = torch.arange(len(best), device=best.device)
    p = step.logits_of(step.patches[rows, best]).softmax(1)
    both = torch.stack([p[rows, step.labels], p[rows, confusable]], 1) + EPSILON
    return entropy_loss(both.log())


OBJECTIVE: type[Objective] = FoBoR
