"""The tuning tasks of `choose_defaults.py`: ID images and OOD sets of many kinds, none of which is reported.

- `scenes` as photos, and in three styles: sketch and thermal, which MicroCLIP knows, and relief, which it does not.
  (Blueprint, negative and neon are reported, and no tuning task has them.) ID and OOD pictures from the tuning stream.
- CIFAR-10's training folder with four of ten classes left out. OOD: the left-out classes (near), and far: photos of
  things that are unlike the six classes, small crops of landscapes, enlarged (textures), and generated textures and
  letters. The photos and landscapes are Tiny-ImageNet's from MicroCLIP's pretraining data.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pretrain_microclip import read_shard

from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.data import scenes
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.image_sets import ArraySet, ImageSet, ModelSizeImages, SceneSet, folder_images
from clipos_lightning.data.styles import PHOTO
from clipos_lightning.types import ImageFeatures, PathName, concatenate

STYLES = (PHOTO, "sketch", "thermal", "relief")
NEAR = {"seen_shapes", "new_shapes", "left-out classes"}
KINDS = tuple(kind for kind in scenes.KINDS if kind != "id")
LEFT_OUT = ("bird", "deer", "horse", "truck")
THIN = 3  # use every third image of CIFAR-10's training folders
# classes of Tiny-ImageNet by their line in its list: objects unlike the six classes (backpack, beaker, …), landscapes
THINGS = tuple(map(int, "63 72 78 83 92 101 104 113 126 140 149 156 160 176 177 181 184 188 191 193".split()))
LANDSCAPES = (14, 96, 129, 152, 162, 194, 195, 196, 197, 198)
CROP = 12  # side in pixels of the enlarged crops
PATHS: frozenset[PathName] = frozenset({"clip", "vv", "local"})


@dataclass
class Encoded:
    """Features of a task at one depth of the surgery path: of the ID images, and of the images of each OOD set."""

    inside: ImageFeatures
    outside: dict[str, ImageFeatures]


@dataclass
class Task:
    """A tuning task.

    Attributes:
        name: of the ID set.
        data: options of `FewShotOOD`.
        known: the ID images.
        outside: OOD sets by name.
        every: only every n-th image of each set is used.
        pretrained: weights; None: the shipped ones.
        drawn: whether few-shot images are drawn from `known`.
    """

    name: str
    data: dict[str, Any]
    known: ImageSet
    outside: dict[str, ImageSet]
    pretrained: str | None
    every: dict[str, int] = field(default_factory=dict)
    drawn: bool = False
    kept: dict[int, Encoded] = field(default_factory=dict)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes of the ID images."""
        assert self.known.labels is not None
        return self.known.labels

    def kind(self, outside: str) -> str:
        """Kind of one of the OOD sets: the task's name, near or far."""
        return f"{self.name}, {'near' if outside in NEAR else 'far'}"

    def encoded(self, depth: int) -> Encoded:
        """Features at a depth of the surgery path, computed once."""
        if depth not in self.kept:
            outside = {
                name: self.encode(images, depth, self.every.get(name, 1)) for name, images in self.outside.items()
            }
            self.kept[depth] = Encoded(self.encode(self.known, depth, 1), outside)
        return self.kept[depth]

    def encode(self, images: ImageSet, depth: int, every: int) -> ImageFeatures:
        """All feature paths of every n-th image of a set."""
        backbone = load_backbone(pretrained=self.pretrained, surgery=SurgeryOptions(depth=depth))
        sized = ModelSizeImages(images, range(0, len(images), every), backbone.preprocessing)
        parts = []
        for chunk in torch.arange(len(sized)).split(250):
            parts.append(backbone.encode_image(torch.stack([sized[int(i)]["image"] for i in chunk]), PATHS))
        return concatenate(parts)


def build_tasks(root: Path, photos: Path, scratch: Path, count: int, pretrained: str | None) -> list[Task]:
    """The five tasks.

    Args:
        root: folder with `cifar10-images/train`.
        photos: folder with the shards of Tiny-ImageNet.
        scratch: for a folder of six classes, made of symbolic links.
        count: pictures of each OOD set of scenes, and of each set of photos.
        pretrained: weights; None: the shipped ones.
    """
    tasks = [scene_task(style, count, pretrained) for style in STYLES]
    return [*tasks, photo_task(root, photos, scratch, count, pretrained)]


def scene_task(style: str, count: int, pretrained: str | None) -> Task:
    """Ten shapes in a style."""
    name = "scenes" if style == PHOTO else f"scenes-{style}"
    outside: dict[str, ImageSet] = {kind: SceneSet(kind, "tune", 0, count, style) for kind in KINDS}
    return Task(name, {"id": name}, SceneSet("id", "tune", 0, 2 * count, style), outside, pretrained)


def photo_task(root: Path, photos: Path, scratch: Path, count: int, pretrained: str | None) -> Task:
    """Six classes of CIFAR-10."""
    train = root / "cifar10-images" / "train"
    for name in sorted(p.name for p in train.iterdir()):
        place = scratch / ("out" if name in LEFT_OUT else "id/train") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(train / name)
    outside: dict[str, ImageSet] = {
        "left-out classes": folder_images("out", scratch / "out"),
        "things": ArraySet("things", photos_of(photos, THINGS, count), None),
        "crops of landscapes": ArraySet("crops", crops(photos_of(photos, LANDSCAPES, count)), None),
        **{kind: SceneSet(kind, "tune", 0, count) for kind in ("texture", "letters")},
    }
    data: dict[str, Any] = {"id": "folder:id", "root": str(scratch)}
    known = FewShotOOD(**data).id_set.train
    return Task("six of CIFAR-10", data, known, outside, pretrained, {"left-out classes": THIN}, drawn=True)


@cache
def tiny_imagenet(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The first shard of Tiny-ImageNet: images (N, 32, 32, 3) and labels."""
    return read_shard(folder / "tinyimagenet32-0.npz")


def photos_of(folder: Path, classes: Sequence[int], count: int) -> NDArray[np.uint8]:
    """The first photos of some classes: (count, 32, 32, 3)."""
    images, labels = tiny_imagenet(folder)
    return images[np.flatnonzero(np.isin(labels, classes))[:count]]


def crops(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle `CROP` pixels of each image, enlarged to its size: (N, H, W, 3)."""
    size = images.shape[1]
    start = (size - CROP) // 2
    middle = images[:, start : start + CROP, start : start + CROP]
    return np.stack([np.asarray(Image.fromarray(i).resize((size, size), Image.Resampling.BICUBIC)) for i in middle])
