"""GalLoP (ECCV 2024): several global and several local prompts of each class, and a linear map of local features.

Derived from the formulas of its authors' code. There are M = 4 global and M local prompts of each class, all of which
start as the words of the context ("a photo of a"), and a matrix W, at first the identity. The local logit of prompt m
is the mean of the k_m largest s <W f_i, t_m,c> over the patches (W f_i L2-normalised), k_m = 5, 10, 15, 20.

    L = CE of the global prompt that prompt dropout keeps (0.75: one of four, drawn for each image)
        + mean over m of CE of the local logits of prompt m
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...options.schema import BelowOne, Count
from ...types import ClassTexts, Texts
from ...utils.chunks import by_chunks
from ..base_scores import Score, largest_probability, mcm
from ..logits import ExtraTexts, Logits
from ..losses import ItemLosses, id_loss
from ..objectives import Objective
from ..own_prompts import PromptMaker
from ..step import Step

TOP_STEP = 5  # k_m = 5 m


def best_local_mean(z: Logits) -> Float[Tensor, " batch"]:
    """``mcm`` of the mean of the local prompts at the best patch, (B,).

    Args:
        z: of local features, (B, P, ...), with M global, then M local prompts of each class as further ones.
    """
    assert z.further is not None, "this detector has no local prompts"
    local = z.further[..., z.further.shape[-2] // 2 :, :].mean(-2)
    return largest_probability(local / z.temperature).amax(-1)


class OwnPrompts(nn.Module):
    """M - 1 further global prompts, M local ones, and W."""

    def __init__(self, make: PromptMaker, count: int) -> None:
        super().__init__()
        self.further = nn.ModuleList(make.classes(number) for number in range(1, 2 * count))
        self.local_map = nn.Parameter(torch.eye(make.dim))

    def forward(self) -> Texts:
        """The prompts of all classes, one after another, ((2 M - 1) C, D)."""
        return torch.cat([prompts() for prompts in self.further])


class GalLoP(Objective):
    """GalLoP: cross-entropies of global prompts with prompt dropout, and of local prompts on their best patches.

    Args:
        count: M, the number of global prompts, and of local ones.
        dropout: part of the global prompts that each image leaves out in a step, in [0, 1); one is always kept.
    """

    outliers, images = "local_patches", False
    score, scores = "gallop", ("gallop",)

    def __init__(self, count: Count = 4, dropout: BelowOne = 0.75) -> None:
        self.count, self.dropout, self.seed = count, dropout, 1

    def own_prompts(self, make: PromptMaker) -> nn.Module:
        """The prompts beside the first global one, and W."""
        self.seed = make.seed
        return OwnPrompts(make, self.count)

    def texts(self, text: Texts, class_text: ClassTexts, own: nn.Module | None) -> tuple[Texts, ExtraTexts]:
        """The mean of the global prompts; global, then local prompts as further ones."""
        assert isinstance(own, OwnPrompts)
        further = torch.cat([text, own()])
        mean = further.unflatten(0, (2 * self.count, -1))[: self.count].mean(0)
        return mean, ExtraTexts(further=further, local_map=own.local_map)

    def id_term(self, step: Step) -> ItemLosses:
        """Cross-entropy over the global prompts that each image keeps, (B,)."""
        logits = torch.stack([step.logits_of(step.features.cls, text) for text in step.further[: self.count]], 1)
        kept = self.kept(step).to(logits.device)
        mean = (logits * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return id_loss(mean, step.labels)

    def kept(self, step: Step) -> Float[Tensor, "batch global"]:
        """1 for the global prompts that each image keeps in this step, (B, M); the same in one process and several."""
        rows = int(step.images.max()) + 1 if len(step.images) else 0
        draws = np.random.default_rng((self.seed, step.number, 7)).random((rows, self.count))[step.images.cpu().numpy()]
        number = max(self.count - int(self.dropout * self.count), 1)
        ranks = torch.from_numpy(draws).argsort(1).argsort(1)
        return (ranks < number).float()

    def outlier_terms(self, step: Step) -> list[ItemLosses]:
        """The mean of the cross-entropies of the local prompts, (B,); their weight is ``outlier_weight``."""
        size = 4 * step.patches.shape[1] * self.count * len(step.class_text)

        def pooled(patches: Tensor) -> Float[Tensor, "batch local classes"]:
            found = []
            for m, text in enumerate(step.further[self.count :], 1):
                logits = step.logits_of(step.extra.mapped(patches), text)
                found.append(logits.topk(min(m * TOP_STEP, logits.shape[1]), 1).values.mean(1))
            return torch.stack(found, 1)

        logits = by_chunks(pooled, (step.patches,), size)
        losses = id_loss(logits.flatten(0, 1), step.labels.repeat_interleave(self.count))
        return [losses.unflatten(0, (-1, self.count)).mean(1)]


OBJECTIVE: type[Objective] = GalLoP
SCORES = {"gallop": Score(mcm, on="local", further=True, pool=best_local_mean)}
