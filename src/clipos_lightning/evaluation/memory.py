"""Features of ID images that the scores ``knn`` and ``mahalanobis`` compare a new feature with.

Sources: k nearest neighbours (Sun et al. 2022, arXiv:2204.06507); Mahalanobis distance to class means with a shared
covariance (Lee et al. 2018, arXiv:1807.03888), shrunk towards a multiple of the identity (Friedman 1989, "Regularized
discriminant analysis").
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..types import Features, Labels, Patches, PatchMap, concatenate
from ..utils.chunks import by_chunks

SAME_IMAGE = 1 - 1e-5  # cosine from which two features are of the same image


@dataclass(frozen=True)
class Reference:
    """What a score compares a feature with: features of one kind of labelled ID images, at least one of each class.

    Attributes:
        features: L2-normalised, (M, D).
        labels: class of each, (M,).
        neighbors: k of ``knn``, at least 1.
        shrinkage: weight in (0, 1] of the identity in the covariance of ``mahalanobis``.

    Example:
        >>> reference = Reference(torch.eye(2), torch.tensor([0, 1]), neighbors=1, shrinkage=0.9)
        >>> reference.likeness(torch.tensor([[0.6, 0.8]])), reference.distances(torch.tensor([[0.6, 0.8]]))
        (tensor([0.8000]), tensor([[0.8944, 0.6325]]))
    """

    features: Features
    labels: Labels
    neighbors: int
    shrinkage: float

    def likeness(self, feature: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items"]:
        """The mean cosine to the k nearest images, (...,); of all images if there are fewer than k."""
        flat = feature.reshape(-1, feature.shape[-1])
        return by_chunks(self.mean_of_nearest, (flat,), 4 * len(self.features)).reshape(feature.shape[:-1])

    def mean_of_nearest(self, feature: Features) -> Float[Tensor, " batch"]:
        """:meth:`likeness` of features in a single batch dimension."""
        return (feature @ self.features.T).topk(min(self.neighbors, len(self.features)), -1).values.mean(-1)

    def distances(self, feature: Float[Tensor, "*items dim"]) -> Float[Tensor, "*items classes"]:
        """Mahalanobis distances to the class means, (..., C)."""
        flat, (whitening, middle, centres) = feature.reshape(-1, feature.shape[-1]), self.gaussians
        white = (flat - middle) @ whitening.T
        squared = white.square().sum(-1, keepdim=True) + centres.square().sum(-1) - 2 * white @ centres.T
        return squared.clamp(min=0).sqrt().reshape(*feature.shape[:-1], len(centres))

    @cached_property
    def gaussians(self) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, " dim"], Float[Tensor, "classes dim"]]:
        """W with Wᵀ W the inverse of the shared covariance, (D, D); the mean m of the class means, (D,); W (means - m).

        The covariance is (1 - a) S + a tr(S) / D I, S the pooled covariance within the classes and a the shrinkage.
        With one image per class, S is 0 and the covariance is I. Computed in double precision on the CPU: the result
        does not depend on the device, and some devices have no double precision.
        """
        features, labels, device = self.features.cpu().double(), self.labels.cpu(), self.features.device
        count = labels.bincount()
        means = torch.zeros(len(count), features.shape[1], dtype=features.dtype)
        means = means.index_add(0, labels, features) / count[:, None]
        within = features - means[labels]
        spread = within.T @ within / max(len(features) - len(count), 1)
        identity = torch.eye(features.shape[1], dtype=features.dtype)
        variance = spread.trace() / len(identity)
        if variance > 1e-12:
            factor = torch.linalg.cholesky((1 - self.shrinkage) * spread + self.shrinkage * variance * identity)
            whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        else:
            whitening = identity
        middle = means.mean(0)  # subtracted first: the squares of distances from the origin are much larger
        tensors = (whitening, middle, (means - middle) @ whitening.T)
        whitening, middle, centres = (tensor.float().to(device) for tensor in tensors)
        return whitening, middle, centres


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
