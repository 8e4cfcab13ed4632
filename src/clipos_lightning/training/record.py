"""The record of a detector in files: backbone, weights, classes and options."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..clip.backbone import FrozenClip
from ..clip.surgery import SurgeryOptions
from ..errors import InputError
from ..evaluation.scores import ScoreOptions
from ..method.mask import MaskOptions

IDENTITY = {  # keys whose values must be equal for a file to be used, and their names in messages
    "backbone": "backbone",
    "fingerprint": "weights of {backbone} (fingerprint)",
    "activation": "activation of {backbone}",
    "class_names": "class names",
    "class_wordings": "class prompts (data.class_names)",
}


@dataclass(frozen=True)
class DetectorRecord:
    """Plain data about a detector, in checkpoints (key ``clipos``), detector files and the runs of a benchmark.

    Attributes:
        backbone: the model's name in open_clip.
        fingerprint: SHA-256 of its weights.
        activation: ``quick_gelu`` or ``gelu``.
        image_size: side of the input images in pixels.
        pretrained: tag or file of the weights; None: the default of the backbone.
        class_names: C names.
        class_wordings: names and templates of each class; None: one name each.
        score: name of the detector's score.
        surgery: fields of :class:`~clipos_lightning.SurgeryOptions`.
        mask: fields of :class:`~clipos_lightning.MaskOptions`.
        scoring: fields of :class:`~clipos_lightning.ScoreOptions`.
    """

    backbone: str
    fingerprint: str
    activation: str
    image_size: int
    pretrained: str | None
    class_names: list[str]
    class_wordings: list[dict[str, list[str]]] | None
    score: str
    surgery: dict[str, Any]
    mask: dict[str, Any]
    scoring: dict[str, Any]

    @classmethod
    def of(
        cls,
        backbone: FrozenClip,
        score: str,
        options: tuple[SurgeryOptions, MaskOptions, ScoreOptions],
        class_names: Sequence[str],
        pretrained: str | None = None,
        class_wordings: list[dict[str, list[str]]] | None = None,
    ) -> "DetectorRecord":
        """The record of a detector on a backbone, from its score and its options; no prompt is encoded."""
        surgery, mask, scoring = (asdict(group) for group in options)
        return cls(
            backbone=backbone.name,
            fingerprint=backbone.fingerprint,
            activation=backbone.activation,
            image_size=backbone.image_size,
            pretrained=pretrained,
            class_names=list(class_names),
            class_wordings=class_wordings,
            score=score,
            surgery=surgery,
            mask=mask,
            scoring=scoring,
        )


def check_identity(source: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that the detector in a file belongs to the backbone, weights and classes that it is loaded with.

    Args:
        source: name of the file, for the message.
        given: the record in the file.
        expected: the record of the module; its keys of :data:`IDENTITY` are compared.

    Raises:
        InputError: a value differs.
    """
    for key, name in IDENTITY.items():
        if key in expected and given.get(key) != expected[key]:
            raise InputError(
                f"{source} was trained with other {name.format(backbone=given.get('backbone'))}: "
                f"{shorten_value(given.get(key))}, here "
                f"{shorten_value(expected[key])}; use it with those (weights: --model.pretrained, or pretrained= in "
                "Python), or train again"
            )


def shorten_value(value: Any) -> str:
    """A value as text for an error message, at most 60 characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
