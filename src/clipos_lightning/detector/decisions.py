"""A detector's results: tensors for a batch, and a decision for each image."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..types import Labels

UNKNOWN = "unknown"  # label of an image whose score is below the threshold


@dataclass(frozen=True)
class Decision:
    """A detector's result for one image.

    Attributes:
        label: ``class_name``, or ``unknown`` if the score is below the threshold.
        class_name: the most probable of the C classes, independent of the threshold.
        probability: probability of that class over the C classes, softmax(l / T) with the calibrated temperature T.
        score: the detector's score; higher = more in-distribution.
        threshold: images are accepted if their score is at least this; None: not calibrated, all are accepted.

    Example:
        >>> from clipos_lightning import Decision
        >>> decision = Decision(label="unknown", class_name="cat", probability=0.62, score=11.5, threshold=14.0)
        >>> decision.score < decision.threshold
        True
    """

    label: str
    class_name: str
    probability: float
    score: float
    threshold: float | None


@dataclass
class Prediction:
    """A detector's results for a batch of images, as tensors.

    Attributes:
        predicted: index of the most probable class, (B,).
        probability: probability of that class, (B,).
        score: the detector's score, (B,).
        probabilities: softmax(l / T) over the C classes, (B, C).
    """

    predicted: Labels
    probability: Float[Tensor, " batch"]
    score: Float[Tensor, " batch"]
    probabilities: Float[Tensor, "batch classes"]
