"""Local-Prompt (ICLR 2025): prompts for patches, of the classes and of none of them, learned from crops.

Derived from the formulas of its authors' code. The global prompts stay frozen. The learned class prompts t (a context
for each class: ``--model.context.class_specific true``) and N negatives n are compared with local features f_i. Of 16
random crops of each image, the 8 most like its class are used one after another as the positive view, and the least
like it as the negative view. With lse_c = log of the sum over the k = 50 patches with the largest l_{i,c} of e^{l_ic}:

    L_pos = -log(e^{lse_y} / (sum_c e^{lse_c} + sum_j e^{lse_j}))                         on the positive view
    L_neg = -log(M / (M + sum_c e^{lse_c})), M = sum over S and j of e^{s <f_i, n_j>}     on the negative view
    L = L_pos + 5 L_neg + 0.5 sum_{j,m} cos(n_j, n_m) / (N (N - 1))

S are the k patches of the negative view with the largest l_{i,y}.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ...options.schema import Count, Several
from ...types import ClassTexts, Patches, Texts
from ...utils.chunks import by_chunks
from ..base_scores import Score, mcm, mean_of_largest
from ..feature_store import Crops
from ..logits import ExtraTexts, Logits
from ..losses import ItemLosses, id_loss
from ..objectives import Objective
from ..own_prompts import PromptMaker
from ..step import Step


def top_probabilities(z: Logits) -> Float[Tensor, " batch"]:
    """The mean of the 10 largest e^<f_i,t_c> / (sum_c e^<f_i,t_c> + sum_j e^<f_i,n_j>) over patches and classes, (B,).

    Args:
        z: of local features, (B, P, ...), with the local class prompts as the first further ones.
    """
    assert z.further is not None and z.negatives is not None, "this detector has no local prompts"
    local = z.further[..., 0, :]
    p = (torch.cat([local, z.negatives], -1) / z.temperature).softmax(-1)[..., : local.shape[-1]]
    return mean_of_largest(p.flatten(1))


class LocalPrompt(Objective):
    """Local-Prompt: class prompts and negatives for patches.

    Args:
        count: N, the number of negatives, at least 2.
        length: number of tokens of each negative.
        top: k, number of patches, at least 1; all of them if an image has fewer.
        crops: number of crops that are drawn of each image.
        positives: number of them that are used as positive views.
        diversity_weight: weight of the negatives' likeness relative to ``outlier_weight``.
    """

    negatives = True
    score, scores = "local_prompt", ("local_prompt",)

    def __init__(
        self,
        count: Several = 300,
        length: Count = 16,
        top: Count = 50,
        crops: Count = 16,
        positives: Count = 8,
        diversity_weight: float = 0.1,
    ) -> None:
        self.count, self.length, self.top, self.diversity_weight = count, length, top, diversity_weight
        self.crops = Crops(crops, positives, 1, patches=True)

    def own_prompts(self, make: PromptMaker) -> nn.Module:
        """N prompts without a name."""
        return make.nameless(self.count, shared=0, own=self.length)

    def texts(self, text: Texts, class_text: ClassTexts, own: nn.Module | None) -> tuple[Texts, ExtraTexts]:
        """The frozen class prompts for global features; the learned ones and the negatives for patches."""
        assert own is not None
        return class_text, ExtraTexts(further=text, negatives=own())

    def id_term(self, step: Step) -> ItemLosses:
        """L_pos of each image's positive view in this step, (B,)."""
        view = step.inside[:, step.number % step.inside.shape[1]]
        return id_loss(self.pooled(step, view, torch.cat([step.further[0], step.negatives])), step.labels)

    def outlier_terms(self, step: Step) -> list[ItemLosses]:
        """L_neg of each image's negative view, (B,), and the likeness of the negatives, (1,)."""
        view, texts = step.outside[:, 0], step.further[0]
        own = (view @ texts[step.labels][..., None])[..., 0]
        chosen = own.topk(min(self.top, own.shape[1]), 1).indices[..., None]
        most_alike = view.gather(1, chosen.expand(-1, -1, view.shape[2]))
        size = 4 * most_alike.shape[1] * self.count

        def negative_part(part: Patches) -> Float[Tensor, " batch"]:
            return torch.logsumexp(step.logits_of(part, step.negatives).flatten(1), 1)

        gap = by_chunks(negative_part, (most_alike,), size) - torch.logsumexp(self.pooled(step, view, texts), 1)
        likeness = (step.negatives @ step.negatives.T).sum() / (self.count * (self.count - 1))
        return [-F.logsigmoid(gap), self.diversity_weight * likeness[None]]

    def pooled(self, step: Step, view: Patches, texts: Texts) -> Float[Tensor, "batch prompts"]:
        """lse of each text over its own k best patches, (B, texts), within the memory budget."""

        def pool(part: Patches) -> Float[Tensor, "batch prompts"]:
            return torch.logsumexp(step.logits_of(part, texts).topk(min(self.top, part.shape[1]), 1).values, 1)

        return by_chunks(pool, (view,), 4 * view.shape[1] * len(texts))


OBJECTIVE: type[Objective] = LocalPrompt
SCORES = {"local_prompt": Score(mcm, on="local", further=True, negatives=True, pool=top_probabilities)}
