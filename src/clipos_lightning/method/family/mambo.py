"""Mambo (2026): SCT with the patches of a background in place of LoCoOp's ID-irrelevant ones.

Derived from the formulas of its authors' code (the background: :mod:`..background_mask`). In that code the background
prompt t_b, 64 tokens, enters the loss through a yes-or-no mask only, so it has no gradient and stays as drawn. Here it
is a frozen prompt in words, which means something from the start.

    L = (1 - p_y) CE - 0.2 mean over background patches of p_y H
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...options.schema import Name
from ...types import ClassTexts, PatchMask, Texts
from ..background_mask import background_patches
from ..base_scores import Score, mcm, mean_of_largest
from ..logits import ExtraTexts, Logits
from ..losses import confidence
from ..objectives import SCT, Objective
from ..own_prompts import PromptMaker
from ..step import Step


def top_shares(z: Logits) -> Float[Tensor, " batch"]:
    """The mean of the 10 largest e^<f_i,t_c> / (sum_c e^<f_i,t_c> + <f_i,t_b>) over patches and classes, (B,).

    As in the authors' code, the cosine to the background has no exponential. Negative ones count as 0 (ours).

    Args:
        z: of local features, (B, P, ...), with the background prompt as the negative.
    """
    assert z.negatives is not None, "this detector has no background prompt"
    scaled = z.cosine / z.temperature
    best = scaled.amax(-1, keepdim=True)  # e^best is left out of numerator and denominator, which may be too large
    e = (scaled - best).exp()
    return mean_of_largest((e / (e.sum(-1, keepdim=True) + z.negatives.clamp(min=0) * (-best).exp())).flatten(1))


class Mambo(SCT):
    """Mambo: entropy of the background's patches, with SCT's factors.

    Args:
        background: the prompt of the background, which does not learn.
    """

    negatives = True
    score, scores = "mambo", ("mambo",)

    def __init__(self, background: Name = "a photo of a background.") -> None:
        self.background = background

    def own_prompts(self, make: PromptMaker) -> nn.Module:
        """The frozen background prompt."""
        return make.frozen([self.background])

    def texts(self, text: Texts, class_text: ClassTexts, own: nn.Module | None) -> tuple[Texts, ExtraTexts]:
        """The class prompts, and the background as a negative."""
        assert own is not None
        return text, ExtraTexts(negatives=own())

    @torch.no_grad()
    def outlier_patches(self, step: Step) -> PatchMask:
        """The patches of the background, (B, P)."""
        p_y = confidence(step.logits, step.labels)
        return background_patches(step.patches, step.text, step.negatives[0], step.labels, p_y)


OBJECTIVE: type[Objective] = Mambo
SCORES = {"mambo": Score(mcm, on="local", negatives=True, pool=top_shares)}
