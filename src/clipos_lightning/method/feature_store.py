"""The frozen features of the few-shot images that an objective needs, encoded once per run instead of once per step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..errors import InputError
from ..types import Features, Patches, PatchMap, PatchMask, concatenate

ENCODE_BATCH = 256


@dataclass(frozen=True)
class Crops:
    """Random crops of each few-shot image, chosen by their likeness to its frozen class prompt.

    Attributes:
        count: number of crops that are drawn, of 8-100 % of the image's area, mirrored with probability 1/2.
        inside: number of those most like the class that are kept.
        outside: number of those least like it that are kept.
        patches: whether their local patches are needed, in place of their global features.

    Raises:
        InputError: fewer are drawn than kept, or none is kept.
    """

    count: int
    inside: int
    outside: int
    patches: bool = False

    def __post_init__(self) -> None:
        if min(self.inside, self.outside) < 1 or self.inside + self.outside > self.count:
            raise InputError(
                f"--model.objective keeps {self.inside} and {self.outside} of {self.count} crops of an image: keep at "
                "least one of each, and draw at least as many"
            )


@dataclass
class ShotFeatures:
    """Frozen features of few-shot images; fields that the objective does not need are None.

    Attributes:
        cls: CLIP's global feature, (N, D).
        region: normalised sum of the patches that outliers are made from, (N, D).
        patches: single patches, for outliers of level ``patch`` or for LoCoOp's loss, (N, P, D).
        mask: the patches that outliers are made from, bool (N, P).
        attention: how much each patch attends to the class token, in [0, 1], (N, P).
        inside: features of the crops of each image that are most like its class, the most alike first: global ones,
            (N, K, D), or local patches, (N, K, P, D).
        outside: those of the crops that are least like it, the least alike first.
    """

    cls: Features
    region: Features | None = None
    patches: Patches | None = None
    mask: PatchMask | None = None
    attention: PatchMap | None = None
    inside: Float[Tensor, "batch inside *patches dim"] | None = None
    outside: Float[Tensor, "batch outside *patches dim"] | None = None

    def __getitem__(self, index: Tensor) -> "ShotFeatures":
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        chosen: dict[str, Any] = {k: None if v is None else v[index] for k, v in values.items()}
        return ShotFeatures(**chosen)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        tensors = (getattr(self, f.name) for f in fields(self))
        return sum(t.nbytes for t in tensors if t is not None)


class FeatureStore:
    """Features of N images by index: kept if they fit the budget, else encoded again in each step.

    Args:
        encode: maps indices (n,) on the CPU to the features of these images.
        count: N.
        budget: bytes that may be kept.
        progress: wraps the iteration over chunks, for a progress bar.

    Example:
        >>> store = FeatureStore(lambda index: ShotFeatures(cls=torch.eye(4)[index]), count=4, budget=10**6)
        >>> store[torch.tensor([2])].cls
        tensor([[0., 0., 1., 0.]])
    """

    def __init__(
        self,
        encode: Callable[[Tensor], ShotFeatures],
        count: int,
        budget: int,
        progress: Callable[[list[Tensor]], Iterator[Tensor]] = iter,
    ) -> None:
        self._encode = encode
        self.step_features: tuple[Tensor, ShotFeatures] | None = None
        self.kept: ShotFeatures | None = None
        chunks = list(torch.arange(count).split(ENCODE_BATCH))
        first = encode(chunks[0])
        if first.nbytes / len(chunks[0]) * count <= budget:
            self.kept = concatenate([first, *(encode(c) for c in progress(chunks[1:]))])

    def __getitem__(self, index: Int[Tensor, " batch"]) -> ShotFeatures:
        """Features of the images at ``index`` (n,), in that order; repeated images are encoded once."""
        if self.kept is not None:
            return self.kept[index.to(self.kept.cls.device)]
        if self.step_features is None or not torch.isin(index.cpu(), self.step_features[0]).all():
            self.encode_step(index)
        assert self.step_features is not None
        known, features = self.step_features
        return features[torch.searchsorted(known, index.cpu().contiguous()).to(features.cls.device)]

    def encode_step(self, index: Int[Tensor, " batch"]) -> None:
        """Encode the images of a step once if the store is over its budget; otherwise do nothing."""
        if self.kept is None:
            unique = index.cpu().unique()
            batch = unique if len(unique) else torch.zeros(1, dtype=torch.long)  # the encoder needs an image
            features = concatenate([self._encode(chunk) for chunk in batch.split(ENCODE_BATCH)])
            self.step_features = unique, features[torch.arange(len(unique))]
