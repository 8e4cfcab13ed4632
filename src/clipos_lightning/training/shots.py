"""Features of the few-shot images from the frozen backbone."""

from dataclasses import dataclass, replace
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..data.crops import draw_crops
from ..data.datamodule import FewShotOOD
from ..evaluation.heads import Head
from ..evaluation.memory import Memory, join_memories
from ..method.feature_store import ENCODE_BATCH, Crops, FeatureStore, ShotFeatures
from ..method.image_weight import VIEWS, WeightChoice, choose_weight
from ..method.mask import MaskOptions
from ..method.prototypes import class_means
from ..method.synthesis import SynthesisOptions, shot_features
from ..types import Features, Images, Labels, OutlierSource, PathName, Texts
from ..utils.progress import track


@dataclass(frozen=True)
class Shots:
    """The few-shot images and their features, on the backbone's device.

    There are V views of N images; row v N + i is view v of image i, and view 0 is the image itself.

    Attributes:
        backbone: the frozen CLIP.
        data: the DataModule, after ``setup("fit")``.
    """

    backbone: FrozenClip
    data: FewShotOOD

    @property
    def labels(self) -> Labels:
        """Class index of each row, (V N,)."""
        return self.data.shot_labels.to(self.backbone.device)

    @property
    def image_labels(self) -> Labels:
        """Class index of each of the N images, (N,)."""
        return self.labels[: len(self.data.shot_positions)]

    @property
    def shown(self) -> bool:
        """Whether to show the progress: not with ``--trainer.enable_progress_bar false``."""
        trainer = self.data.trainer
        return trainer is None or trainer.progress_bar_callback is not None

    def images(self, rows: Int[Tensor, " batch"]) -> Images:
        """The images of these rows, uint8, (n, 3, H, W)."""
        return self.data.shot_images(rows).to(self.backbone.device)

    def encode(self, count: int) -> Features:
        """Global features of the first ``count`` rows, (count, D)."""
        batches = track(torch.arange(count).split(ENCODE_BATCH), "encoding few-shot images", shown=self.shown)
        return torch.cat([self.backbone.encode_image(self.images(batch)).cls for batch in batches])

    def means(self, classes: int) -> Texts:
        """The normalised mean feature of the views of each of ``classes`` classes, (C, D)."""
        labels = self.labels
        return class_means(self.encode(len(labels)), labels, classes)

    @torch.no_grad()
    def image_weight(self, text: Texts, scale: float) -> WeightChoice:
        """Choose the weight of image features in the class features by :func:`~.image_weight.choose_weight`.

        Args:
            text: features of the frozen class prompts, (C, D).
            scale: s of the model.
        """
        count = len(self.data.shot_positions)
        views = self.encode(VIEWS * count).view(VIEWS, count, -1).transpose(0, 1)
        with torch.autocast(text.device.type, enabled=False):  # fp32, also if the encoder ran in mixed precision
            return choose_weight(views, self.image_labels, text, scale)

    @torch.no_grad()
    def memory(self, head: Head) -> Memory:
        """The unchanged images as the memory of a head, with their true classes."""
        rows = torch.arange(len(self.data.shot_positions)).split(ENCODE_BATCH)
        parts = []
        for batch in track(rows, "encoding few-shot images", shown=self.shown):
            features = self.backbone.encode_image(self.images(batch), head.memory_paths)
            with torch.autocast(head.text.device.type, enabled=False):
                parts.append(head.remember(features, self.labels[batch]))
        return join_memories(parts)

    @torch.no_grad()
    def choose_crops(
        self, crops: Crops, class_text: Texts
    ) -> tuple[Int[Tensor, "images inside"], Int[Tensor, "images outside"]]:
        """The numbers of the crops of each image that are most, and least, like its class; the extreme ones first.

        Args:
            crops: how many are drawn and kept.
            class_text: the frozen class features, (C, D).
        """
        labels = self.image_labels
        inside, outside, all_numbers = [], [], torch.arange(crops.count)[None]
        for image in track(list(range(len(labels))), "choosing crops", shown=self.shown):
            features = self.encode_crops(torch.tensor([image]), all_numbers, patches=False)[0]
            with torch.autocast(class_text.device.type, enabled=False):
                order = (features @ class_text[labels[image]]).argsort(descending=True, stable=True).cpu()
            inside.append(order[: crops.inside])
            outside.append(order.flip(0)[: crops.outside])
        return torch.stack(inside), torch.stack(outside)

    def encode_crops(
        self, images: Int[Tensor, " images"], numbers: Int[Tensor, "images crops"], patches: bool
    ) -> Float[Tensor, "images crops *patches dim"]:
        """Global features of crops, (n, K, D), or their local patches, (n, K, P, D).

        Args:
            images: positions in the draw, (n,).
            numbers: of the crops of each, (n, K).
            patches: which of both.
        """
        found = []
        for image, of_image in zip(images.tolist(), numbers.tolist(), strict=True):
            pixels = draw_crops(self.data, image, of_image).to(self.backbone.device)
            paths = frozenset[PathName](["local"] if patches else [])
            parts = [self.backbone.encode_image(part, paths) for part in pixels.split(ENCODE_BATCH)]
            found.append(torch.cat([part.path("local") if patches else part.cls for part in parts]))
        return torch.stack(found)

    def store(
        self,
        class_text: Texts,
        outliers: OutlierSource,
        mask: MaskOptions,
        synthesis: SynthesisOptions,
        budget: int,
        attention: bool = False,
        crops: Crops | None = None,
    ) -> FeatureStore:
        """The features that training needs, kept in memory if they fit the budget.

        Args:
            class_text: the frozen class features of the mask, (C, D).
            outliers: input of the objective's outlier term.
            mask: which patches are ID-relevant.
            synthesis: how outliers are made.
            budget: bytes that may be kept.
            attention: whether the objective needs it.
            crops: the crops that the objective needs; None: none.
        """
        labels = self.data.shot_labels
        chosen = None if crops is None else self.choose_crops(crops, class_text)

        def encode(rows: Int[Tensor, " batch"]) -> ShotFeatures:
            classes = labels[rows].to(self.backbone.device)
            given = self.backbone, self.images(rows), classes, class_text, outliers, mask, synthesis, attention
            features = shot_features(*given)
            if crops is None or chosen is None:
                return features
            images = rows % len(self.data.shot_positions)
            found = self.encode_crops(images, torch.cat(chosen, 1)[images], crops.patches)
            return replace(features, inside=found[:, : crops.inside], outside=found[:, crops.inside :])

        progress = partial(track, description="encoding few-shot images", shown=self.shown)
        return FeatureStore(encode, len(labels), budget, progress)
