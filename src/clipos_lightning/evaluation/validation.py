"""Validation without a test OOD set: held-out training images against outliers synthesised from few-shot images."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import MeanMetric

from ..method.logits import NO_EXTRA, ExtraTexts, prompt_logits
from ..method.reference import Reference
from ..types import Features, Labels, Texts
from .metrics import OODMetrics
from .scores import find_score


class Validation:
    """Accuracy on held-out ID images, and how well a score separates them from synthesised outliers; all processes.

    Outliers are global features, so local and region scores are represented by their base score.

    Args:
        text: the detector's prompts, (C, D) or (C + 1, D).
        classes: C.
        score: name of the detector's score.
        scale: s of the model.
        temperature: of the mcm scores.
        memory: ID images that the score compares with; None: none.
        extra: further texts that the score compares with.
        group_size: of neg_label's groups of them.
    """

    def __init__(
        self,
        text: Texts,
        classes: int,
        score: str,
        scale: float,
        temperature: float,
        memory: Reference | None = None,
        extra: ExtraTexts = NO_EXTRA,
        group_size: int = 100,
    ) -> None:
        self.memory, self.extra, self.group_size = memory, extra, group_size
        self.text, self.classes, self.score, self.scale, self.temperature = text, classes, score, scale, temperature
        self.separation, self.accuracy = OODMetrics().to(text.device), MeanMetric().to(text.device)

    def base(self, features: Features) -> Float[Tensor, " batch"]:
        """The base score of global features, (B,)."""
        constants = (self.classes, self.scale, self.temperature, self.memory, self.extra, self.group_size)
        return find_score(self.score).base(prompt_logits(features, self.text, *constants))

    def add_outliers(self, features: Features) -> None:
        """Add synthesised outliers, (M, D)."""
        is_id = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        self.separation.update(self.base(features), is_id)

    def add_images(self, features: Features, labels: Labels) -> None:
        """Add global features (B, D) and classes (B,) of ID images."""
        correct = (features @ self.text[: self.classes].T).argmax(1) == labels
        self.accuracy.update(100 * correct.float())
        self.separation.update(self.base(features), torch.ones_like(correct))

    def compute(self) -> dict[str, float | Tensor]:
        """``val/accuracy`` and ``val/outliers/<metric>``, in percent, over all processes."""
        separation = {f"val/outliers/{name}": value for name, value in self.separation.compute().items()}
        return {"val/accuracy": self.accuracy.compute()} | separation
