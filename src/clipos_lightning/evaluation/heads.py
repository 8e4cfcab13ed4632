"""Heads: what images are judged by. Many can judge the same features, so one pass of the backbone serves them all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..clip.surgery import SurgeryOptions
from ..method.mask import MaskOptions, relevant_patches, similarity_map
from ..types import ImageFeatures, Labels, PatchMap, PatchMask, PathName, Texts
from .scores import ScoreOptions, compute_scores, needed_paths

ZERO_SHOT = "zero_shot/"  # prefix of the zero-shot detector's columns beside a trained one's
SIDES = {"text": "text/", "images": "images/"}  # prefixes of text alone and images alone beside their blend


@dataclass
class Head:
    """A detector without its backbone: prompts, and the constants of its mask and scores.

    Attributes:
        prefix: of its columns in a table.
        text: (C, D), or (C + 1, D) with "unknown" last.
        class_text: the frozen class prompts of the mask, (C, D).
        scale: s of the model.
        scores: those it reports.
        surgery: the surgery path that its patches come from.
        mask: which patches are the region.
        scoring: temperature and weights.
    """

    prefix: str
    text: Texts
    class_text: Texts
    scale: float
    scores: list[str]
    surgery: SurgeryOptions
    mask: MaskOptions
    scoring: ScoreOptions

    @property
    def paths(self) -> frozenset[PathName]:
        """The backbone's paths that it looks at."""
        return needed_paths(self.scores, self.mask)

    @property
    def columns(self) -> list[str]:
        """Names of what it says of an image: the predicted class, then its scores."""
        return [f"{self.prefix}{column}" for column in ("predicted", *self.scores)]

    def to(self, device: torch.device) -> "Head":
        """The same on a device."""
        return replace(self, text=self.text.to(device), class_text=self.class_text.to(device))

    def score(self, features: ImageFeatures) -> tuple[dict[str, Tensor], Float[Tensor, "batch classes"]]:
        """Scores of a batch, and the class token's cosines, whose argmax is the predicted class."""
        return compute_scores(self.scores, features, self.text, self.class_text, self.scale, self.mask, self.scoring)

    def maps(self, features: ImageFeatures, labels: Labels) -> tuple[PatchMap, PatchMap, PatchMask]:
        """S, S_clip and the ID-relevant patches of a class for each image, (B, P)."""
        own = self.class_text[labels]
        s, clip = similarity_map(features.path("vv"), own), similarity_map(features.path("clip"), own)
        return s, clip, relevant_patches(features, self.class_text, labels, self.mask)

    def values(self, features: ImageFeatures) -> Float[Tensor, "batch columns"]:
        """What ``columns`` names."""
        scores, cosine = self.score(features)
        return torch.stack([column.float() for column in (cosine.argmax(1), *scores.values())], 1)


def all_paths(heads: Sequence[Head]) -> frozenset[PathName]:
    """The paths that at least one head looks at."""
    return frozenset().union(*(head.paths for head in heads))


def all_surgeries(heads: Sequence[Head]) -> list[SurgeryOptions]:
    """The different surgery options whose patches some head looks at; at least one."""
    asked = list(dict.fromkeys(head.surgery for head in heads if "vv" in head.paths))
    return asked or [heads[0].surgery]


def score_all(
    heads: Sequence[Head], features: Mapping[SurgeryOptions, ImageFeatures]
) -> Float[Tensor, "batch columns"]:
    """Every head's values beside each other."""
    some = next(iter(features.values()))
    return torch.cat([head.values(features.get(head.surgery, some)) for head in heads], 1)
