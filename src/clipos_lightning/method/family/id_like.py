"""ID-like (CVPR 2024): OOD prompts learned from the parts of the few-shot images that are least like their class.

Derived from the formulas of its authors' code. Of 256 random crops of each image, the 32 most like "a photo of a <y>"
are inside, the 32 least like it outside. N = 100 OOD prompts share 16 tokens and have one of their own each. p is the
softmax over the C class prompts and the N OOD prompts:

    L = CE(inside, y) + 0.3 mean over outside of log(sum_{c<=C} p_c + 1e-16) + 0.2 mean over pairs of max(0, cos(o, o'))
"""

from math import log

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...options.schema import Count, NonNegative, Several
from ...types import ClassTexts, Texts
from ..base_scores import Score, energy
from ..feature_store import Crops
from ..logits import ExtraTexts, Logits
from ..losses import ItemLosses, id_loss
from ..objectives import Objective
from ..own_prompts import PromptMaker
from ..step import Step

SMALLEST = 1e-16


def id_like(z: Logits) -> Float[Tensor, "*items"]:
    """The logit of sum_{c<=C} p_c over C + N prompts, logsumexp_c l_c - logsumexp_j l_j: without ties at 0 and 1.

    Example:
        >>> id_like(Logits(torch.tensor([[0.3]]), None, 10.0, negatives=torch.tensor([[0.1]])))
        tensor([2.])
    """
    assert z.negatives is not None, "this detector has no OOD prompts"
    return energy(z) - torch.logsumexp(z.scale * z.negatives, -1)


class IDLike(Objective):
    """ID-like: cross-entropy of the inside crops, less class probability on the outside crops, different OOD prompts.

    Args:
        count: N, the number of OOD prompts, at least 2.
        length: number of tokens that the OOD prompts share; each has one more of its own.
        crops: number of crops that are drawn of each image.
        kept: number of inside crops, and of outside crops.
        diversity_weight: weight of the prompts' likeness relative to ``outlier_weight``.
    """

    negatives = True
    score, scores = "id_like", ("id_like",)

    def __init__(
        self,
        count: Several = 100,
        length: NonNegative = 16,
        crops: Count = 256,
        kept: Count = 32,
        diversity_weight: float = 2 / 3,
    ) -> None:
        self.count, self.length, self.diversity_weight = count, length, diversity_weight
        self.crops = Crops(crops, kept, kept)

    def own_prompts(self, make: PromptMaker) -> nn.Module:
        """N OOD prompts with a shared context."""
        return make.nameless(self.count, shared=self.length, own=1)

    def texts(self, text: Texts, class_text: ClassTexts, own: nn.Module | None) -> tuple[Texts, ExtraTexts]:
        """The class prompts, and the OOD prompts as negatives."""
        assert own is not None
        return text, ExtraTexts(negatives=own())

    def id_term(self, step: Step) -> ItemLosses:
        """Cross-entropy over C + N prompts of each inside crop, (B K,)."""
        labels = step.labels.repeat_interleave(step.inside.shape[1])
        return id_loss(all_logits(step, step.inside.flatten(0, 1)), labels)

    def outlier_terms(self, step: Step) -> list[ItemLosses]:
        """log(sum_{c<=C} p_c) of each outside crop, (B K,), and the likeness of the OOD prompts, (1,)."""
        logits = all_logits(step, step.outside.flatten(0, 1))
        log_p = torch.logsumexp(logits[:, : len(step.text)], 1) - torch.logsumexp(logits, 1)
        floor = torch.full_like(log_p, log(SMALLEST))
        first, second = torch.triu_indices(self.count, self.count, 1)
        cosines = (step.negatives @ step.negatives.T)[first, second]
        return [torch.logaddexp(log_p, floor), self.diversity_weight * cosines.clamp(min=0).mean()[None]]


def all_logits(step: Step, features: Float[Tensor, "items dim"]) -> Float[Tensor, "items prompts"]:
    """Logits over the class prompts, then the OOD prompts."""
    return step.logits_of(features, torch.cat([step.text, step.negatives]))


OBJECTIVE: type[Objective] = IDLike
SCORES = {"id_like": Score(id_like, negatives=True)}
