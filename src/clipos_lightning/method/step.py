"""What an objective sees of a training step."""

from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool, Float
from torch import Tensor

from ..types import ClassTexts, Labels, Patches, Texts
from .feature_store import ShotFeatures
from .losses import irrelevant_locals


@dataclass
class Step:
    """A process's share of a training step: few-shot images, outliers, and the prompts that they are compared with.

    Attributes:
        features: frozen features of B few-shot images; those that the objective asks for.
        labels: their classes, (B,).
        text: the learned prompts, (C, D), or (C + 1, D) with "unknown" last; the only tensor with gradients.
        class_text: the frozen class prompts, (C, D).
        scale: s of the model.
        top_k: LoCoOp's K as a fraction of the classes.
        outliers: synthesised outliers, (M, D); none unless the objective's ``outliers`` is ``synthesis``.

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

    @cached_property
    def logits(self) -> Float[Tensor, "batch prompts"]:
        """l = s <f, t> of the images' global features, (B, C), or (B, C + 1)."""
        return self.logits_of(self.features.cls)

    def logits_of(self, features: Float[Tensor, "items dim"]) -> Float[Tensor, "items prompts"]:
        """l = s <f, t> of other features."""
        return self.scale * features @ self.text.T

    @property
    def patches(self) -> Patches:
        """The images' local features, (B, P, D), for an objective on ``local_patches``."""
        assert self.features.patches is not None, "set outliers to 'local_patches'"
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
