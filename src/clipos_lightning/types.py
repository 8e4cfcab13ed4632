"""Shared types: arrays with named dimensions, the features of a batch of images, and class maps.

Dimension names: ``batch`` images (B), ``patches`` of the g x g grid (P), ``classes`` (C), ``prompts`` (C, or C + 1 with
"unknown" last), ``dim`` of the joint embedding space (D). All features are L2-normalised.
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
ClassTexts = Float[Tensor, "classes dim"]
WordTexts = Float[Tensor, "words dim"]  # of words that are none of the classes
Pixels = NDArray[np.uint8]  # (H, W, 3), or (N, H, W, 3)
FloatArray = NDArray[np.floating]
CountArray = NDArray[np.integer]

# patches of CLIP, the surgery path, LoCoOp's; attention of the patches to the class token (FoBoR's), and of it to them
PathName = Literal["clip", "vv", "local", "attention", "class_attention"]
OutlierSource = Literal["synthesis", "local_patches", "none"]  # input of an objective's outlier term
OptionsT = TypeVar("OptionsT")
FeaturesT = TypeVar("FeaturesT")


@dataclass
class ImageFeatures:
    """Features of a batch of images from one forward pass of the frozen backbone; L2-normalised, fp32.

    Attributes:
        cls: CLIP's global feature, exactly as CLIP computes it, (B, D).
        patches: CLIP's own patch features, (B, P, D); None where not requested.
        patches_vv: patch features of the surgery path (patch-context and v-v attention), (B, P, D) or None.
        patches_local: LoCoOp's local features (last block without attention), (B, P, D) or None.
        attention: how much each patch attends to the class token in the last block, of sum 1, (B, P) or None.
        class_attention: how much the class token attends to each patch in the last block, mean over heads, (B, P) or
            None; their sum is below 1, as it also attends to itself.

    Example:
        >>> features = ImageFeatures(cls=torch.eye(2), patches=torch.ones(2, 4, 2))
        >>> features.path("clip").shape, features[:1].cls.tolist()
        (torch.Size([2, 4, 2]), [[1.0, 0.0]])
    """

    cls: Features
    patches: Patches | None = None
    patches_vv: Patches | None = None
    patches_local: Patches | None = None
    attention: PatchMap | None = None
    class_attention: PatchMap | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "ImageFeatures":
        """Apply ``function`` to each tensor that is not None."""
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        mapped: dict[str, Any] = {k: None if v is None else function(v) for k, v in values.items()}
        return ImageFeatures(**mapped)

    def __getitem__(self, index: Tensor | slice) -> "ImageFeatures":
        return self.map(lambda t: t[index])

    def path(self, name: PathName) -> Patches:
        """Return the patch features of one path: ``clip``, ``vv`` or ``local``.

        Raises:
            ValueError: the forward pass did not compute this path.
        """
        patches = {"clip": self.patches, "vv": self.patches_vv, "local": self.patches_local}[name]
        if patches is None:
            raise ValueError(f"patches of path {name!r} were not computed: ask encode_image for them")
        return patches


def concatenate(parts: Sequence[FeaturesT]) -> FeaturesT:
    """Concatenate dataclasses of tensors along the first axis; fields that are None stay None.

    Example:
        >>> halves = [ImageFeatures(cls=torch.zeros(2, 3)), ImageFeatures(cls=torch.ones(1, 3))]
        >>> concatenate(halves).cls.shape
        torch.Size([3, 3])
    """
    joined: dict[str, Any] = {
        f.name: None if getattr(parts[0], f.name) is None else torch.cat([getattr(p, f.name) for p in parts])
        for f in fields(parts[0])  # type: ignore[arg-type]
    }
    return type(parts[0])(**joined)


@dataclass
class ClassMaps:
    """Maps of a batch of images, each for one class, on the patch grid.

    Attributes:
        surgery: S, the similarity map of the surgery path, in [0, 1], (B, P).
        clip: S_clip, plain CLIP's similarity map, in [0, 1], (B, P).
        mask: the ID-relevant patches, (B, P).
        difference: distance of each patch to the nearest one of the known images, in [0, 2], (B, P); None with several
            classes.
    """

    surgery: PatchMap
    clip: PatchMap
    mask: PatchMask
    difference: PatchMap | None = None


def as_options(kind: type[OptionsT], value: OptionsT | dict[str, Any]) -> OptionsT:
    """Return options as a dataclass; ``value`` is one already, or the plain dict that a checkpoint holds."""
    return kind(**value) if isinstance(value, dict) else value
