"""The record of a detector in files: backbone, weights, classes and options."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, get_type_hints

from ..clip.backbone import FrozenClip
from ..clip.surgery import SurgeryOptions
from ..data.preprocessing import CLIP_RESIZE, Preprocessing
from ..errors import InputError
from ..evaluation.scores import ScoreOptions, known_scores
from ..method.mask import MaskOptions
from ..options.schema import Count, Fields, Name, Names, Where, fields_of

IDENTITY = {  # keys whose values must be equal for a file to be used, and their names in messages
    "backbone": "backbone",
    "fingerprint": "weights of {backbone} (fingerprint)",
    "activation": "activation of {backbone}",
    "preprocessing": "image preprocessing",
    "class_names": "class names",
    "class_wordings": "class prompts (data.class_names)",
}

GROUPS: dict[str, Fields] = {  # options in records and checkpoints, and those that files of version 0.1.0 lack
    "surgery": fields_of(SurgeryOptions),
    "mask": fields_of(MaskOptions, added=("feature_surgery",)),
    "scoring": fields_of(ScoreOptions, added=("neighbors", "shrinkage", "group_size")),
}


def is_wording(value: Mapping[str, Sequence[str]]) -> bool:
    """Whether a class has at least one name, and only templates that contain ``{}`` once."""
    templates = [*value.get("templates", [])]
    return (
        value.keys() <= {"names", "templates"}
        and bool(value.get("names"))
        and all(template.count("{}") == 1 for template in templates)
    )


WORDINGS = Annotated[
    list[dict[str, list[str]]], Where("names, and templates with {}, of each class", lambda w: all(map(is_wording, w)))
]


@dataclass(frozen=True)
class DetectorRecord:
    """Plain data about a detector, in checkpoints (key ``clipos``), detector files and the runs of a benchmark.

    Attributes:
        backbone: the model's name in open_clip.
        fingerprint: SHA-256 of its weights.
        activation: ``quick_gelu`` or ``gelu``.
        image_size: side of the input images in pixels.
        preprocessing: fields of :class:`~clipos_lightning.data.preprocessing.Preprocessing` without the size.
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
    preprocessing: dict[str, Any]
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
            preprocessing=backbone.preprocessing.plain,
            pretrained=pretrained,
            class_names=list(class_names),
            class_wordings=class_wordings,
            score=score,
            surgery=surgery,
            mask=mask,
            scoring=scoring,
        )


def recorded_preprocessing(record: Mapping[str, Any], backbone: FrozenClip) -> dict[str, Any]:
    """The preprocessing in a record, of its ``preprocessing``; without it, of version 0.1.0.

    That version normalised as the weights declare, but resized the shorter side and cropped for every model.
    """
    return record.get("preprocessing") or backbone.preprocessing.plain | CLIP_RESIZE


KNOWN_SCORE = Annotated[str, Where("a score of this version", lambda name: name in known_scores() or "." in name)]
ADDED: dict[str, Any] = {  # files of version 0.1.0 lack them
    "class_wordings": WORDINGS | None,
    "preprocessing": fields_of(Preprocessing, {"size": None}),
}
RECORD = Fields(
    {
        **{name: kind for name, kind in get_type_hints(DetectorRecord).items() if name not in ADDED},
        **{"backbone": Name, "image_size": Count, "class_names": Names, "score": KNOWN_SCORE, **GROUPS},
    },
    optional=ADDED,
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
            there, here = differing(given.get(key), expected[key])
            raise InputError(
                f"{source} was trained with other {name.format(backbone=given.get('backbone'))}: "
                f"{shorten_value(there)}, here {shorten_value(here)}; use it with those (weights: --model.pretrained, "
                "or pretrained= in Python), or train again"
            )


def differing(one: Any, other: Any) -> tuple[Any, Any]:
    """Two values; of two mappings only the entries that differ, as text.

    >>> differing({"resize_mode": "squash", "fill_color": 0}, {"resize_mode": "shortest", "fill_color": 0})
    ('resize_mode squash', 'resize_mode shortest')
    """
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return one, other
    keys = [key for key in other if one.get(key) != other[key]]
    first, second = (", ".join(f"{key} {given.get(key)}" for key in keys) for given in (one, other))
    return first, second


def shorten_value(value: Any) -> str:
    """A value as text for an error message, at most 60 characters."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
