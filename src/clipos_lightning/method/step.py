"""What an objective sees of a training step."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..types import ClassTexts, Labels, Patches, Texts, WordTexts
from .feature_store import ShotFeatures
from .logits import NO_EXTRA, ExtraTexts
from .losses import irrelevant_locals


@dataclass
class Step:
    """A process's share of a training step: few-shot images, outliers, and the prompts that they are compared with.

    Attributes:
        features: frozen features of B few-shot images; those that the objective asks for.
        labels: their classes, (B,).
        text: the detector's prompts, (C, D), or (C + 1, D) with "unknown" last; it and ``extra`` have gradients.
        class_text: the frozen class prompts, (C, D).
        scale: s of the model.
        top_k: LoCoOp's K as a fraction of the classes.
        outliers: synthesised outliers, (M, D); none unless the objective's ``outliers`` is ``synthesis``.
        extra: the objective's further texts.
        number: of the step, from 0.
        images: rows of the few-shot images, (B,), the same whatever the number of processes.

    Example:
        >>> import torch
        >>> text = torch.eye(2)
        >>> step = Step(ShotFeatures(cls=text), torch.tensor([0, 1]), text, text, 10.0, 0.5, text[:0])
        >>> step.logits
        tensor([[10.,  0.],
                [ 0., 10.]])
    """

    features: ShotFeatures
    labels: Labels
    text: Texts
    class_text: ClassTexts
    scale: float
    top_k: float
    outliers: Float[Tensor, "outliers dim"]
    extra: ExtraTexts = NO_EXTRA
    number: int = 0
    images: Int[Tensor, " batch"] = field(default_factory=lambda: torch.empty(0, dtype=torch.long))

    @cached_property
    def logits(self) -> Float[Tensor, "batch prompts"]:
        """l = s <f, t> of the images' global features, (B, C), or (B, C + 1)."""
        return self.logits_of(self.features.cls)

    def logits_of(
        self, features: Float[Tensor, "*items dim"], text: Texts | None = None
    ) -> Float[Tensor, "*items prompts"]:
        """l = s <f, t> of other features, and of other texts than ``text``."""
        return self.scale * features @ (self.text if text is None else text).T

    @property
    def further(self) -> Float[Tensor, "groups classes dim"]:
        """The further prompts of the classes, (G, C, D)."""
        assert self.extra.further is not None, "give further prompts in the objective's texts()"
        return self.extra.further.unflatten(0, (-1, len(self.class_text)))

    @property
    def negatives(self) -> WordTexts:
        """The texts that are none of the classes, (N, D)."""
        assert self.extra.negatives is not None, "give negatives in the objective's texts()"
        return self.extra.negatives

    @property
    def inside(self) -> Float[Tensor, "batch crops *patches dim"]:
        """Crops that are most like their image's class, (B, K, D), or their patches, (B, K, P, D)."""
        assert self.features.inside is not None, "set the objective's crops"
        return self.features.inside

    @property
    def outside(self) -> Float[Tensor, "batch crops *patches dim"]:
        """Crops that are least like their image's class, as ``inside``."""
        assert self.features.outside is not None, "set the objective's crops"
        return self.features.outside

    @property
    def patches(self) -> Patches:
        """The images' local features, (B, P, D), for an objective on ``local_patches``."""
        assert self.features.patches is not None, "set the objective's outliers to 'local_patches'"
        return self.features.patches

    @property
    def irrelevant(self) -> Bool[Tensor, "batch patches"]:
        """LoCoOp's ID-irrelevant patches, (B, P)."""
        return irrelevant_locals(self.patches, self.text, self.labels, self.top_k)

    @property
    def attention(self) -> Float[Tensor, "batch patches"]:
        """How much the class token is attended to by each patch, in [0, 1], (B, P), for ``attention = True``."""
        assert self.features.attention is not None, "set attention to True"
        return self.features.attention
