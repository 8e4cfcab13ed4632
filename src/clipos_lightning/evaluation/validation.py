"""Validation without any test OOD set: undrawn ID images against outliers that the few-shot images give."""

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from ..types import Features, Labels, Texts
from .metrics import OODMetrics
from .scores import find_score, prompt_logits


class Validation:
    """Accuracy of ID images, and how well a score tells them from synthesised outliers; sums over processes.

    Outliers are global features, so of a local or region score its base counts.

    Args:
        text: the detector's prompts, (C, D) or (C + 1, D).
        classes: C.
        score: the detector's score by name.
        scale: s of the model.
        temperature: of the softmax scores.
    """

    def __init__(self, text: Texts, classes: int, score: str, scale: float, temperature: float) -> None:
        self.text, self.classes, self.score, self.scale, self.temperature = text, classes, score, scale, temperature
        self.separation, self.accuracy = OODMetrics().to(text.device), MeanMetric().to(text.device)

    def base(self, features: Features) -> Tensor:
        """The base of the score, (B,)."""
        return find_score(self.score).base(
            prompt_logits(features, self.text, self.classes, self.scale, self.temperature)
        )

    def add_outliers(self, features: Features) -> None:
        """Synthesised outliers, (M, D)."""
        inside = torch.zeros(len(features), dtype=torch.bool, device=features.device)
        self.separation.update(self.base(features), inside)

    def add_images(self, features: Features, labels: Labels) -> None:
        """Global features (B, D) and classes (B,) of ID images."""
        right = (features @ self.text[: self.classes].T).argmax(1) == labels
        self.accuracy.update(100 * right.float())
        self.separation.update(self.base(features), torch.ones_like(right))

    def compute(self) -> dict[str, float | Tensor]:
        """``val/accuracy`` in percent and ``val/outliers/<metric>``, over all processes."""
        found = {f"val/outliers/{name}": value for name, value in self.separation.compute().items()}
        return {"val/accuracy": self.accuracy.compute()} | found
