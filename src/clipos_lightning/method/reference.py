"""What the scores ``knn`` and ``mahalanobis`` compare a feature with: features of labelled ID images.

Sources: k nearest neighbours (Sun et al. 2022, arXiv:2204.06507); Mahalanobis distance to class means with a shared
covariance (Lee et al. 2018, arXiv:1807.03888), shrunk towards a multiple of the identity (Friedman 1989, "Regularized
discriminant analysis").
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..types import Features, Labels
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
