"""The few-shot images of a run as the frozen backbone sees them."""

from dataclasses import dataclass

import torch

from ..clip.backbone import FrozenClip
from ..data.datamodule import FewShotOOD
from ..method.feature_store import ENCODE_BATCH, FeatureStore, ShotFeatures
from ..method.mask import MaskOptions
from ..method.prototypes import VIEWS, WeightChoice, choose_weight, class_means
from ..method.synthesis import SynthesisOptions, shot_features
from ..types import Features, Images, Labels, OutlierSource, Texts
from ..utils.progress import track


@dataclass(frozen=True)
class Shots:
    """Labelled images of each class, seen by a frozen backbone, on its device.

    Attributes:
        backbone: the frozen CLIP.
        data: the DataModule, which has drawn the images.
    """

    backbone: FrozenClip
    data: FewShotOOD

    @property
    def labels(self) -> Labels:
        """Class index of each view of each image, view after view, (V N,)."""
        return self.data.shot_labels.to(self.backbone.device)

    def images(self, rows: torch.Tensor) -> Images:
        """The views at these rows, (n, 3, H, W), uint8."""
        return self.data.shot_images(rows).to(self.backbone.device)

    def encode(self, count: int) -> Features:
        """Global features of the first ``count`` views, (count, D)."""
        parts = torch.arange(count).split(ENCODE_BATCH)
        return torch.cat([self.backbone.encode_image(self.images(part)).cls for part in parts])

    def means(self, classes: int) -> Texts:
        """The normalised mean feature of each class's views, (C, D)."""
        labels = self.labels
        return class_means(self.encode(len(labels)), labels, classes)

    @torch.no_grad()
    def image_weight(self, text: Texts, scale: float) -> WeightChoice:
        """How much the images should count beside the frozen class prompts, by :func:`prototypes.choose_weight`.

        Args:
            text: the class prompts, (C, D).
            scale: s of the model.
        """
        count = len(self.data.shot_positions)
        views = self.encode(VIEWS * count).view(VIEWS, count, -1).transpose(0, 1)
        with torch.autocast(text.device.type, enabled=False):  # fp32 whatever the encoder ran in
            return choose_weight(views, self.labels[:count], text, scale)

    def store(
        self, class_text: Texts, outliers: OutlierSource, mask: MaskOptions, synthesis: SynthesisOptions, budget: int
    ) -> FeatureStore:
        """The features that training reads, kept as far as the budget goes.

        Args:
            class_text: the frozen class features of the mask, (C, D).
            outliers: what they are needed for, an objective's ``outliers``.
            mask: which patches are ID-relevant.
            synthesis: how outliers are made of them.
            budget: bytes that may be kept.
        """
        labels = self.data.shot_labels

        def encode(rows: torch.Tensor) -> ShotFeatures:
            own = labels[rows].to(self.backbone.device)
            return shot_features(self.backbone, self.images(rows), own, class_text, outliers, mask, synthesis)

        return FeatureStore(encode, len(labels), budget, lambda parts: track(parts, "encoding few-shot images"))
