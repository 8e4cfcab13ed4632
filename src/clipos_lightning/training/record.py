"""Which backbone, weights, classes and options a detector belongs to: one record for every file that holds one."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..clip.backbone import FrozenClip
from ..errors import InputError
from ..evaluation.heads import Head

IDENTITY = {  # keys that must be equal for a detector to be used, and their names in messages
    "backbone": "backbone",
    "fingerprint": "weights (their fingerprint)",
    "activation": "activation",
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
        image_size: pixels a side.
        pretrained: the weights, a tag or a file; None: the backbone's own.
        class_names: C names.
        class_wordings: names and templates of each class where they were given; None: one name each.
        score: the detector's score.
        surgery: of :class:`~clipos_lightning.SurgeryOptions`.
        mask: of :class:`~clipos_lightning.MaskOptions`.
        scoring: of :class:`~clipos_lightning.ScoreOptions`.
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
        head: Head,
        class_names: Sequence[str],
        pretrained: str | None = None,
        class_wordings: list[dict[str, list[str]]] | None = None,
    ) -> "DetectorRecord":
        """The record of a head on its backbone; the head's first score is the detector's."""
        return cls(
            backbone=backbone.name,
            fingerprint=backbone.fingerprint,
            activation=backbone.activation,
            image_size=backbone.image_size,
            pretrained=pretrained,
            class_names=list(class_names),
            class_wordings=class_wordings,
            score=head.scores[0],
            surgery=asdict(head.surgery),
            mask=asdict(head.mask),
            scoring=asdict(head.scoring),
        )


def check_identity(what: str, given: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """A file's detector belongs to this backbone, these weights and these classes.

    Args:
        what: the file, for the message.
        given: the record in the file.
        ours: the record here; the keys of :data:`IDENTITY` that it holds are compared.

    Raises:
        InputError: one differs.
    """
    for key, name in IDENTITY.items():
        if key in ours and given.get(key) != ours[key]:
            raise InputError(
                f"{what} was trained with other {name}: {shorten_value(given.get(key))}, here "
                f"{shorten_value(ours[key])}; use it with those (--model.pretrained or pretrained= for weights), or "
                "train again"
            )


def shorten_value(value: Any) -> str:
    """A value for an error message, cut to 60 characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
