"""A detector's results: tensors for a batch, and a decision for each image."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from ..types import Labels

UNKNOWN = "unknown"  # label of an image whose score is below the threshold


def unknown_label(class_names: Sequence[str]) -> str:
    """The label of images below the threshold: ``unknown``, in brackets if a class is named so, in any case.

    Example:
        >>> unknown_label(["cat", "dog"]), unknown_label(["cat", "Unknown"])
        ('unknown', '(unknown)')
    """
    label, taken = UNKNOWN, {name.lower() for name in class_names}
    while label in taken:
        label = f"({label})"
    return label


@dataclass(frozen=True)
class Decision:
    """A detector's result for one image.

    Attributes:
        label: ``class_name``, or ``unknown`` if the score is below the threshold (:func:`unknown_label`).
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
