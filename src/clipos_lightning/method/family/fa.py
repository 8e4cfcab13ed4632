"""FA (ICCV 2025): a forced prompt, learned against frozen copies of the class prompts.

Derived from the formulas of its authors' code: the logits are those of the C learned prompts, then K times those of the
frozen ones, and the loss is -log softmax(logits)_y at the learned prompt of the class. To lower it, the learned prompts
must be more like the images than "a photo of a ..." is, from which they start. There is no outlier term.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ...options.schema import Count
from ...types import ClassTexts, Texts
from ..base_scores import Score, largest_probability
from ..logits import ExtraTexts, Logits
from ..losses import ItemLosses, id_loss
from ..objectives import Objective
from ..step import Step


def fa(z: Logits) -> Float[Tensor, "*items"]:
    """``mcm`` with the maximum and the sum over all (1 + K) C prompts, learned and frozen, in (0, 1].

    Example:
        >>> fa(Logits(torch.tensor([[0.3]]), None, 10.0, further=torch.tensor([[[0.3]]])))
        tensor([0.5000])
    """
    assert z.further is not None, "this detector has no frozen prompts"
    columns = torch.cat([z.cosine, z.further.flatten(-2)], -1)
    return largest_probability(columns / z.temperature)


class ForcedPrompt(Objective):
    """FA: cross-entropy of the learned prompts over themselves and K frozen copies.

    Args:
        copies: K, at least 1; the authors take 2 to 4.
    """

    score, scores = "gl_fa", ("fa", "gl_fa")

    def __init__(self, copies: Count = 3) -> None:
        self.copies = copies

    def texts(self, text: Texts, class_text: ClassTexts, own: nn.Module | None) -> tuple[Texts, ExtraTexts]:
        """The learned prompts, and K copies of the frozen ones."""
        return text, ExtraTexts(further=class_text.repeat(self.copies, 1))

    def id_term(self, step: Step) -> ItemLosses:
        """-log softmax over (1 + K) C columns at the learned prompt of the class, (B,)."""
        frozen = step.logits_of(step.features.cls, step.extra.further)
        return id_loss(torch.cat([step.logits, frozen], 1), step.labels)


OBJECTIVE: type[Objective] = ForcedPrompt
SCORES = {"fa": Score(fa, further=True), "gl_fa": Score(fa, on="local", further=True)}
