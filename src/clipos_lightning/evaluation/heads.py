"""Detector heads: prompts, mask and score settings. Several heads share one forward pass of the backbone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..clip.surgery import SurgeryOptions
from ..errors import InputError
from ..method.logits import NO_EXTRA, ExtraTexts
from ..method.mask import MAP_PATHS, MaskOptions, region_feature, relevant_patches, similarity_map, surgery_map
from ..method.reference import Reference
from ..types import ClassMaps, ClassTexts, ImageFeatures, Labels, PathName, Texts
from .memory import Memory
from .scores import ScoreOptions, compute_scores, find_score, needed_paths

ZERO_SHOT = "zero_shot/"  # column prefix of the zero-shot detector next to a trained one
PART_PREFIXES = {"text": "text/", "images": "images/"}  # column prefixes of text and images alone next to their blend
MAX_PATCH_IMAGES = 32  # images whose patches a memory of a single class keeps


@dataclass
class Head:
    """A detector without its backbone: its prompts, and the settings of its mask and scores.

    Attributes:
        prefix: of its column names in a table.
        text: the detector's prompts, (C, D), or (C + 1, D) with "unknown" last.
        class_text: the frozen class prompts of the mask, (C, D).
        scale: s of the model.
        scores: names of the scores that it reports.
        surgery: the surgery path that its patches come from.
        mask: which patches are ID-relevant.
        scoring: constants of the scores.
        memory: ID images that some scores compare with; None: the detector keeps none.
        extra: further texts that some scores compare with.

    Example:
        >>> text = torch.eye(2)
        >>> head = Head("", text, text, 10.0, ["max_logit"], SurgeryOptions(), MaskOptions(), ScoreOptions())
        >>> head.columns, head.values(ImageFeatures(cls=torch.tensor([[0.6, 0.8]])))
        (['predicted', 'max_logit'], tensor([[1., 8.]]))
    """

    prefix: str
    text: Texts
    class_text: ClassTexts
    scale: float
    scores: list[str]
    surgery: SurgeryOptions
    mask: MaskOptions
    scoring: ScoreOptions
    memory: Memory | None = None
    extra: ExtraTexts = NO_EXTRA

    def check(self) -> None:
        """Check that it has what its scores compare with.

        Raises:
            InputError: it has not.
        """
        for name in self.scores:
            score = find_score(name)
            if score.memory and self.memory is None:
                raise InputError(f"the score {name} compares with images, and this detector keeps none: fit it first")
            if score.unknown and len(self.text) == len(self.class_text):
                raise InputError(f"the score {name} needs an unknown prompt, and this detector has none: fit again")
            if score.negatives and self.extra.negatives is None:
                raise InputError(
                    f"the score {name} needs negative words, and this detector has none: fit again with "
                    "--model.negatives"
                )
            if score.further and self.extra.further is None:
                raise InputError(
                    f"the score {name} needs prompts of another --model.objective: fit again with that one"
                )

    @cached_property
    def references(self) -> tuple[Reference, Reference] | None:
        """What scores compare global features with, and regions; computed once."""
        if self.memory is None:
            return None
        return self.memory.references(self.scoring.neighbors, self.scoring.shrinkage)

    @property
    def paths(self) -> frozenset[PathName]:
        """The backbone's paths that its scores need."""
        return needed_paths(self.scores, self.mask)

    @property
    def map_paths(self) -> frozenset[PathName]:
        """The backbone's paths that scores and maps together need."""
        return self.paths | MAP_PATHS | self.mask.paths

    @property
    def memory_paths(self) -> frozenset[PathName]:
        """The backbone's paths that a memory needs."""
        return self.mask.paths | {"vv"}

    @property
    def columns(self) -> list[str]:
        """Column names of its results: the predicted class, then its scores."""
        return [f"{self.prefix}{column}" for column in ("predicted", *self.scores)]

    def to(self, device: torch.device) -> "Head":
        """A copy with its tensors on a device."""
        memory = None if self.memory is None else self.memory.to(device)
        text, class_text = self.text.to(device), self.class_text.to(device)
        return replace(self, text=text, class_text=class_text, extra=self.extra.to(device), memory=memory)

    def score(
        self, features: ImageFeatures
    ) -> tuple[dict[str, Float[Tensor, " batch"]], Float[Tensor, "batch classes"]]:
        """Scores by name, each (B,), and the cosines to the classes, (B, C), whose argmax is the predicted class."""
        prompts = (self.text, self.class_text, self.scale)
        known = self.references, self.extra
        return compute_scores(self.scores, features, *prompts, self.mask, self.scoring, *known)

    def remember(self, features: ImageFeatures, labels: Labels | None = None) -> Memory:
        """The features of a batch of ID images as a memory.

        Args:
            features: with the paths of ``memory_paths``.
            labels: true classes, (B,); None: the predicted ones.
        """
        if labels is None:
            labels = (features.cls @ self.text[: len(self.class_text)].T).argmax(1)
        chosen, patches = relevant_patches(features, self.class_text, labels, self.mask), features.path("vv")
        kept = patches[: MAX_PATCH_IMAGES if len(self.class_text) == 1 else 0].flatten(0, 1)
        return Memory(features.cls, region_feature(patches, chosen), labels, kept)

    def probabilities(self, features: ImageFeatures) -> Float[Tensor, "batch classes"]:
        """softmax(l) over the C classes, without calibration."""
        return (self.scale * features.cls @ self.text[: len(self.class_text)].T).softmax(1)

    def maps(self, features: ImageFeatures, labels: Labels) -> ClassMaps:
        """S, S_clip and the ID-relevant patches of a class for each image; with a single class, where it differs.

        Args:
            features: with the paths of ``map_paths``.
            labels: the class of each image's maps, (B,).
        """
        text, known = self.class_text, self.memory
        return ClassMaps(
            surgery=surgery_map(features, text, labels, self.mask),
            clip=similarity_map(features.path("clip"), text[labels]),
            mask=relevant_patches(features, text, labels, self.mask),
            difference=known.difference(features.path("vv")) if known is not None and len(known.patches) else None,
        )

    def values(self, features: ImageFeatures) -> Float[Tensor, "batch columns"]:
        """The values of ``columns`` for a batch, (B, 1 + scores)."""
        scores, cosine = self.score(features)
        return torch.stack([column.float() for column in (cosine.argmax(1), *scores.values())], 1)


def all_paths(heads: Sequence[Head]) -> frozenset[PathName]:
    """The paths that at least one head needs."""
    return frozenset().union(*(head.paths for head in heads))


def all_surgeries(heads: Sequence[Head]) -> list[SurgeryOptions]:
    """The different surgery options of the heads that need a surgery path; at least one."""
    needed = list(dict.fromkeys(head.surgery for head in heads if "vv" in head.paths))
    return needed or [heads[0].surgery]


def score_all(
    heads: Sequence[Head], features: Mapping[SurgeryOptions, ImageFeatures]
) -> Float[Tensor, "batch columns"]:
    """The values of all heads, concatenated along the columns.

    Args:
        heads: K heads.
        features: surgery options to features; heads that need no surgery path take any of them.

    Raises:
        KeyError: a head needs a surgery path that is missing.
    """
    default = next(iter(features.values()))
    own = (features[head.surgery] if "vv" in head.paths else default for head in heads)
    return torch.cat([head.values(found) for head, found in zip(heads, own, strict=True)], 1)
