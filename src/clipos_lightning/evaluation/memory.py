"""Features of ID images that the scores ``knn`` and ``mahalanobis`` compare a new feature with.

Sources: k nearest neighbours (Sun et al. 2022, arXiv:2204.06507); Mahalanobis distance to class means with a shared
covariance (Lee et al. 2018, arXiv:1807.03888), shrunk towards a multiple of the identity (Friedman 1989, "Regularized
discriminant analysis").
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..types import Features, Labels, Patches, PatchMap
from ..utils.chunks import by_chunks


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
        flat, (whitening, centres) = feature.reshape(-1, feature.shape[-1]), self.gaussians
        white = flat @ whitening.T
        squared = white.square().sum(-1, keepdim=True) + centres.square().sum(-1) - 2 * white @ centres.T
        return squared.clamp(min=0).sqrt().reshape(*feature.shape[:-1], len(centres))

    @cached_property
    def gaussians(self) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, "classes dim"]]:
        """W with Wᵀ W the inverse of the shared covariance, and the class means times W, (D, D) and (C, D).

        The covariance is (1 - a) S + a tr(S) / D I, S the pooled covariance within the classes and a the shrinkage.
        With one image per class, S says nothing: the covariance is I. Computed in double precision.
        """
        features, count = self.features.double(), self.labels.bincount()
        means = torch.zeros(len(count), features.shape[1], dtype=features.dtype, device=features.device)
        means = means.index_add(0, self.labels, features) / count[:, None]
        within = features - means[self.labels]
        spread = within.T @ within / max(len(features) - len(count), 1)
        identity = torch.eye(features.shape[1], dtype=features.dtype, device=features.device)
        variance = spread.trace() / len(identity)
        if variance > 1e-12:
            factor = torch.linalg.cholesky((1 - self.shrinkage) * spread + self.shrinkage * variance * identity)
            whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        else:
            whitening = identity
        return whitening.float(), (means @ whitening.T).float()


@dataclass(frozen=True)
class Memory:
    """The features of ID images that a detector keeps for its scores, on its device and in its files.

    Attributes:
        features: global features, (M, D).
        regions: features of the ID-relevant regions of the images, (M, D).
        labels: classes: the true ones of few-shot images, the predicted ones of unlabelled images, (M,).
        patches: of the surgery path, of some images of a single class, (K, D); empty with several classes.

    Example:
        >>> from clipos_lightning.types import concatenate
        >>> one = Memory(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.empty(0, 2))
        >>> concatenate([one, one]).labels
        tensor([0, 1, 0, 1])
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
