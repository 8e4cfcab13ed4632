"""What travels between the parts: array types whose shape is their documentation, and image features.

Dimension names used throughout: ``batch`` images, ``patches`` P of the g x g grid, ``classes`` C, ``dim`` D of the
joint embedding space. All features are L2-normalised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

Images = UInt8[Tensor, "batch 3 height width"]
Features = Float[Tensor, "batch dim"]
Patches = Float[Tensor, "batch patches dim"]
PatchMap = Float[Tensor, "batch patches"]
PatchMask = Bool[Tensor, "batch patches"]
Labels = Int[Tensor, " batch"]
Texts = Float[Tensor, "prompts dim"]
FloatArray = NDArray[np.floating]
CountArray = NDArray[np.integer]

PathName = Literal["clip", "vv", "local"]
OutlierSource = Literal["synthesis", "local_patches", "none"]  # what an objective learns unknowns from
OptionsT = TypeVar("OptionsT")
FeaturesT = TypeVar("FeaturesT")


@dataclass
class ImageFeatures:
    """What one forward of the frozen backbone gives for a batch of images; L2-normalised, fp32.

    Attributes:
        cls: CLIP's own global feature, exactly as CLIP computes it, (B, D).
        patches: CLIP's own patch features, (B, P, D); None where not asked for.
        patches_vv: patch features of the surgery path (patch-context, v-v attention), (B, P, D) or None.
        patches_local: LoCoOp's local features (last block without attention), (B, P, D) or None.
    """

    cls: Features
    patches: Patches | None = None
    patches_vv: Patches | None = None
    patches_local: Patches | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        """The same features with ``function`` applied to each tensor that is there."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped: dict[str, Any] = {k: None if v is None else function(v) for k, v in values.items()}
        return ImageFeatures(**mapped)

    def __getitem__(self, index: Tensor | slice) -> "ImageFeatures":
        return self.map(lambda t: t[index])

    def path(self, name: PathName) -> Patches:
        """The patches of one path: ``clip``, ``vv`` or ``local``.

        Raises:
            ValueError: the forward was not asked for this path.
        """
        patches = {"clip": self.patches, "vv": self.patches_vv, "local": self.patches_local}[name]
        if patches is None:
            raise ValueError(f"patches of path {name!r} were not computed: ask encode_image for them")
        return patches


def concatenate(parts: Sequence[FeaturesT]) -> FeaturesT:
    """Join batches of features (a dataclass of tensors, or None for what was not computed) along the first axis."""
    joined: dict[str, Any] = {
        f.name: None if getattr(parts[0], f.name) is None else torch.cat([getattr(p, f.name) for p in parts])
        for f in fields(parts[0])  # type: ignore[arg-type]
    }
    return type(parts[0])(**joined)


@dataclass
class Explanation:
    """What the method thought of a batch of images.

    Attributes:
        predicted: the predicted class, (B,).
        probability: softmax(l) of that class over the C classes, (B,).
        surgery: S, (B, P).
        clip: plain CLIP's S_clip, (B, P).
        mask: the ID-relevant patches, (B, P).
    """

    predicted: Labels
    probability: Tensor
    surgery: PatchMap
    clip: PatchMap
    mask: PatchMask


def as_options(kind: type[OptionsT], value: OptionsT | dict[str, Any]) -> OptionsT:
    """Options from a dataclass, or from the plain dict that a checkpoint holds."""
    return kind(**value) if isinstance(value, dict) else value
