"""The features of ID images that a detector keeps for the scores ``knn`` and ``mahalanobis``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..method.reference import Reference
from ..types import Features, Labels, Patches, PatchMap, concatenate
from ..utils.chunks import by_chunks

SAME_IMAGE = 1 - 1e-5  # cosine from which two features are of the same image


@dataclass(frozen=True)
class Memory:
    """The features of ID images that a detector keeps for its scores, on its device and in its files.

    Attributes:
        features: global features, (M, D).
        regions: features of the ID-relevant regions of the images, (M, D).
        labels: classes: the true ones of few-shot images, the predicted ones of unlabelled images, (M,).
        patches: of the surgery path, of some images of a single class, (K, D); empty with several classes.

    Example:
        >>> memory = Memory(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.empty(0, 2))
        >>> memory.references(neighbors=1, shrinkage=0.9)[0].likeness(torch.tensor([[0.6, 0.8]]))
        tensor([0.8000])
    """

    features: Features
    regions: Features
    labels: Labels
    patches: Float[Tensor, "patches dim"]

    def to(self, device: torch.device) -> "Memory":
        """A copy on a device."""
        return Memory(**{name: tensor.to(device) for name, tensor in self.tensors.items()})

    def references(self, neighbors: int, shrinkage: float) -> tuple[Reference, Reference]:
        """What scores compare a global feature and a region's feature with."""
        return (
            Reference(self.features, self.labels, neighbors, shrinkage),
            Reference(self.regions, self.labels, neighbors, shrinkage),
        )

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The tensors by name."""
        return {"features": self.features, "regions": self.regions, "labels": self.labels, "patches": self.patches}

    def contains(self, features: Features) -> Bool[Tensor, " batch"]:
        """Whether each image is one of the memory: its global feature is there, up to rounding."""
        return (features @ self.features.T).amax(-1) > SAME_IMAGE

    def without(self, other: "Memory") -> "Memory":
        """The images that ``other`` does not contain."""
        kept = ~other.contains(self.features)
        return Memory(self.features[kept], self.regions[kept], self.labels[kept], self.patches)

    def difference(self, patches: Patches) -> PatchMap:
        """How far each patch is from the nearest one of the memory: 1 - the highest cosine, in [0, 2], (B, P).

        It shows where an image of a single class differs from the known ones, as in PatchCore (Roth et al. 2022,
        arXiv:2106.08265).

        Args:
            patches: of the surgery path, (B, P, D).
        """

        def nearest(chunk: Tensor) -> Tensor:
            return (chunk @ self.patches.T).amax(-1)

        return 1 - by_chunks(nearest, (patches,), 4 * len(self.patches) * patches.shape[1])


def join_memories(parts: Sequence[Memory]) -> Memory:
    """One memory of several. The patches, which maps use and scores do not, are those of the first.

    Example:
        >>> part = Memory(torch.eye(2), torch.eye(2), torch.tensor([0, 0]), torch.ones(3, 2))
        >>> len(join_memories([part, part]).features), len(join_memories([part, part]).patches)
        (4, 3)
    """
    first, *others = parts
    return concatenate([first, *(replace(part, patches=part.patches[:0]) for part in others)])


def invalid_tensors(tensors: Mapping[str, Tensor], classes: int, dim: int) -> list[str]:
    """Names of the tensors of a memory that are missing, do not fit the others, or are not finite.

    Args:
        tensors: name, as in ``Memory.tensors``, to tensor; from a file, so anything is possible.
        classes: C; each has an image.
        dim: D.

    Example:
        >>> memory = Memory(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.empty(0, 2))
        >>> invalid_tensors(memory.tensors, 2, 2), invalid_tensors(memory.tensors, 3, 2)
        ([], ['labels'])
    """
    labels = tensors.get("labels", torch.empty(0))
    if labels.dtype != torch.int64 or labels.ndim != 1 or set(labels.tolist()) != set(range(classes)):
        return ["labels"]
    rows = {"features": len(labels), "regions": len(labels), "patches": None}
    return [name for name, count in rows.items() if not is_matrix(tensors.get(name), count, dim)]


def is_matrix(tensor: Tensor | None, rows: int | None = None, columns: int | None = None) -> bool:
    """Whether this is a finite fp32 matrix of a given size; None: of any size."""
    if tensor is None or tensor.dtype != torch.float32 or tensor.ndim != 2 or not tensor.isfinite().all():
        return False
    return rows in (None, len(tensor)) and columns in (None, tensor.shape[1])
