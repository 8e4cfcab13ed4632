"""The LightningDataModule: few-shot ID images for training, the ID test set and every OOD set for testing."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from ..errors import InputError
from .benchmarks import BENCHMARKS, kind_of, open_every_ood, open_id, parse_ood_specs
from .cache import cached_folder
from .class_prompts import Wording, one_name_each, read_wordings
from .classnames import read_class_list
from .image_sets import FolderSet, ImageSet, ModelSizeImages
from .resolution import ReducedSet, native_side
from .splits import draw_shots, find_shots, limit_positions, manifest, read_shots
from .transforms import to_model_size, view, view_rng

ID = "id"  # the ID test set's name among the test loaders


def absolute(path: str | None) -> str | None:
    """A path that means the same wherever a later command is run."""
    return None if path is None else str(Path(path).absolute())


class ShardSampler(DistributedSampler[int]):
    """Every ``world``-th position from ``rank`` on: no repeats, so several processes see each image exactly once.

    A DistributedSampler, so that Lightning leaves it alone.
    """

    def __init__(self, count: int, rank: int = 0, world: int = 1) -> None:
        self.share = range(rank, count, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.share)

    def __len__(self) -> int:
        return len(self.share)

    def set_epoch(self, epoch: int) -> None:
        """Nothing is shuffled."""


class FewShotOOD(LightningDataModule):
    """Few-shot in-distribution images and OOD test sets.

    The draw is pinned by rule: the same images on every machine. Nothing is ever downloaded.

    Args:
        root: the folder that relative paths and named sets lie below; null: $CLIPOS_DATA, else ./data.
        id: the in-distribution set: scenes (embedded), cifar10, cifar100, imagenet100, imagenet1k, eurosat, medmnist,
            or folder:PATH with train/<class>/ and test/<class>/ (or <class>/ alone, for fit and predict).
        ood_sets: OOD sets to test against: names, folder:PATH, or name=folder:PATH; null: the ID set's benchmark.
        shots: labelled images per class, or all.
        shots_file: a shots.json of an earlier run: take exactly its images.
        seed: of the few-shot draw; null: that of --seed_everything.
        batch_size: training images per step, over all processes.
        eval_batch_size: images per step when testing, over all processes.
        num_workers: processes that decode images, per process; null: half of the cores, at most 8.
        limit_per_set: at most so many images of each test set (the report's title says so).
        class_names: a YAML file that maps class folders to the wording in the prompts (docs/own_classes.md).
        class_list: a text file of class folders, one a line: the ID set is these classes alone (imagenet100: instead of
            its own list).
        views: each few-shot image counts so many times: as it is, and as random crops of it, mirrored or not.
        ood_resolution: native, or id: each OOD image is first scaled down to the ID images' own size.
        resize: pil, or for sets that lie in memory torch: many at once, faster, but up to 2/255 from PIL's; or device:
            by the backbone on its device, up to 1/255.
        cache: sets of small images are kept decoded in .clipos-cache below the root.
    """

    def __init__(
        self,
        root: str | None = None,
        id: str = "scenes",
        ood_sets: list[str] | None = None,
        shots: int | Literal["all"] = 1,
        shots_file: str | None = None,
        seed: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int = 128,
        num_workers: int | None = None,
        limit_per_set: int | None = None,
        class_names: str | None = None,
        class_list: str | None = None,
        views: int = 1,
        ood_resolution: Literal["native", "id"] = "native",
        resize: Literal["pil", "torch", "device"] = "pil",
        cache: bool = True,
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # a small test set on many processes
        self.root = Path(root or os.environ.get("CLIPOS_DATA") or "data").expanduser()
        self.seed = 1 if seed is None else seed
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "views": views}
        for option, value in counts.items():
            if value < 1:
                raise InputError(f"--data.{option} is {value}: at least 1")
        if self.seed < 0:
            raise InputError(f"--data.seed is {self.seed}: at least 0")
        if num_workers is not None and num_workers < 0:
            raise InputError(f"--data.num_workers is {num_workers}: at least 0")
        if limit_per_set is not None and limit_per_set < 1:
            raise InputError(f"--data.limit_per_set is {limit_per_set}: at least 1, or null for all")
        if isinstance(shots, int) and shots < 1:
            raise InputError(f"--data.shots is {shots}: take at least 1 image per class, or all")
        self.shots, self.shots_file = shots, shots_file
        self.batch_size, self.eval_batch_size, self.limit_per_set = batch_size, eval_batch_size, limit_per_set
        self.views, self.ood_resolution, self.resize, self.cache = views, ood_resolution, resize, cache
        self.num_workers = min(8, (os.cpu_count() or 1) // 2) if num_workers is None else num_workers
        classes = read_class_list(class_list) if class_list else None
        self.drawn_as: tuple[int, int | str] = (self.seed, shots)
        if shots_file:
            with suppress(InputError):  # setup says what is wrong with it; a test goes on without
                self.drawn_as = read_shots(shots_file)[1:]
        self.id_set = open_id(id, self.root, *self.drawn_as, classes, cache)
        marks = BENCHMARKS.get(id, {})
        chosen = [*marks.get("near", []), *marks.get("far", [])] if ood_sets is None else ood_sets
        self.ood_specs = parse_ood_specs(chosen)
        self.ood_kinds = {spec.name: kind_of(id, spec.source) for spec in self.ood_specs}
        names = self.id_set.class_names
        wordings = read_wordings(class_names, self.id_set.class_keys, names) if class_names else []
        self.class_names: list[str] = [wording["names"][0] for wording in wordings] or names
        self.class_wordings: list[Wording] | None = None if one_name_each(wordings) else wordings
        self.tests: dict[str, tuple[ImageSet, list[int]]] = {}
        self.drawn: list[int] = []
        self.image_size = 0
        options: dict[str, Any] = {"root": str(self.root.absolute()), "id": id, "ood_sets": chosen, "shots": shots}
        options |= {"seed": self.seed, "shots_file": absolute(shots_file), "limit_per_set": limit_per_set}
        options |= {"class_names": absolute(class_names), "class_list": absolute(class_list)}
        options |= {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "views": views}
        options |= {"ood_resolution": ood_resolution, "resize": resize, "cache": cache}
        self.save_hyperparameters(options, logger=False)

    def setup(self, stage: str) -> None:
        """Draw the few-shot images (fit, validate); open the test sets (test)."""
        backbone: Any = getattr(self.trainer and self.trainer.lightning_module, "backbone", None)
        self.image_size = self.image_size if backbone is None else backbone.image_size
        if stage in ("fit", "validate") and not self.drawn:
            self.drawn = self.read_draw() if self.shots_file else self.draw()
        if stage == "test" and not self.tests:
            self.tests = self.open_tests()
            with suppress(InputError):  # for the manifest alone: testing needs no training images
                self.drawn = self.drawn or (self.read_draw() if self.shots_file else self.draw())

    def draw(self) -> list[int]:
        """The few-shot draw of this seed."""
        train = self.id_set.train
        assert train.labels is not None
        return draw_shots(train.shot_keys(), train.labels.tolist(), self.id_set.class_keys, self.shots, self.seed)

    def read_draw(self) -> list[int]:
        """The images that ``shots_file`` names."""
        train = self.id_set.train
        assert train.labels is not None
        file, keys, labels = str(self.shots_file), train.shot_keys(), train.labels.tolist()
        return find_shots(read_shots(file), file, keys, labels, self.id_set.class_keys, self.id_set.name)

    def manifest(self) -> dict[str, Any]:
        """The draw as it is written beside a run."""
        train = self.id_set.train
        assert train.labels is not None
        drawn = [(int(train.labels[i]), train.shot_key(i)) for i in self.drawn]
        return manifest(self.id_set.name, *self.drawn_as, self.id_set.class_keys, drawn, self.views)

    def open_tests(self) -> dict[str, tuple[ImageSet, list[int]]]:
        """The ID test set first, then every OOD set, with the positions that are tested."""
        if self.id_set.test is None:
            raise InputError(
                f"the ID set {self.id_set.name!r} has no test images: test takes train/<class>/ and test/<class>/ "
                "(fit, calibrate and predict work without)"
            )
        sets = {ID: self.id_set.test} | open_every_ood(self.ood_specs, self.root, self.cache)
        side = native_side(self.id_set.test) if self.ood_resolution == "id" else None
        tests = {}
        for name, images in sets.items():
            positions = limit_positions(images.keys, self.limit_per_set)
            if self.cache and isinstance(images, FolderSet) and not images.has_masks:
                images = cached_folder(images, self.root, len(positions))
            tests[name] = (images if side is None or name == ID else ReducedSet(images, side), positions)
        return tests

    @property
    def shot_labels(self) -> Tensor:
        """Class index of each few-shot image of each view, view after view, (V N,)."""
        assert self.id_set.train.labels is not None
        return torch.from_numpy(np.tile(self.id_set.train.labels[self.drawn], self.views))

    def shot_images(self, index: Tensor) -> Tensor:
        """Few-shot images, uint8 (n, 3, H, W), by rows: row i is view i // N of the image at i % N in the draw."""
        with ThreadPoolExecutor(max(1, self.num_workers)) as pool:  # decoding leaves the interpreter free
            pixels = list(pool.map(self.shot_view, index.tolist()))
        return torch.stack(pixels) if pixels else torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)

    def shot_view(self, row: int) -> Tensor:
        """One view of one few-shot image, uint8 (3, H, W); view 0 is the image as it is."""
        number, i = divmod(row, len(self.drawn))
        train, position = self.id_set.train, self.drawn[i]
        image = train.read(position).image
        if number == 0:
            return to_model_size(image, self.image_size)
        assert train.labels is not None
        name = self.id_set.class_keys[train.labels[position]]
        return view(image, self.image_size, view_rng(self.seed, name, train.shot_key(position), number))

    def global_batch(self, step: int) -> dict[str, Any]:
        """The batch of a step over all processes, a pure function of (seed, step): ``step``, ``index``, ``label``.

        Each epoch is a new permutation of the few-shot images' views; its last batch may be smaller.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.drawn) * self.views)
        index = torch.from_numpy(order[position * self.batch_size : (position + 1) * self.batch_size].copy())
        return {"step": step, "index": index, "label": self.shot_labels[index]}

    @property
    def steps_per_epoch(self) -> int:
        """Batches that one pass over the few-shot images takes."""
        return -(-len(self.drawn) * self.views // self.batch_size)

    def train_dataloader(self) -> DataLoader[int]:
        """Counts the steps of an epoch; what each step sees is :meth:`global_batch`."""
        steps: Any = range(self.steps_per_epoch)
        return DataLoader(steps, batch_size=None, sampler=ShardSampler(len(steps)))

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """In training: the global batch of this step, in one run and in a resumed one alike."""
        if self.trainer is not None and self.trainer.training:
            return self.global_batch(self.trainer.fit_loop.epoch_loop.batch_progress.total.completed)
        return batch

    def val_dataloader(self) -> Any:
        """The ID images of ``train/`` that were not drawn; nothing while fitting: fit does not validate.

        Raises:
            InputError: every image was drawn.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            return []
        drawn = set(self.drawn)
        rest = [i for i in range(len(self.id_set.train)) if i not in drawn]
        if not rest:
            raise InputError(
                "validate has nothing to look at: every training image was drawn. Lower --data.shots, or add images"
            )
        keys = [self.id_set.train.keys[i] for i in rest]
        positions = [rest[i] for i in limit_positions(keys, self.limit_per_set)]
        self.check_shares(len(positions))
        return self.loader(ModelSizeImages(self.id_set.train, positions, self.image_size))

    def check_shares(self, largest: int) -> None:
        """Every process needs an image of the largest set, or the others wait for it."""
        world = 1 if self.trainer is None else self.trainer.world_size
        if largest < world:
            raise InputError(f"the sets have {largest} images at most, fewer than {world} processes: use fewer devices")

    def test_dataloader(self) -> dict[str, DataLoader[Any]]:
        """Name to loader: the ID test set (``id``) first, then the OOD sets."""
        self.check_shares(max(len(positions) for _, positions in self.tests.values()))
        return {name: self.loader(self.test_images(name)) for name in self.tests}

    def test_images(self, name: str) -> ModelSizeImages:
        """A test set's images at the model's size."""
        images, positions = self.tests[name]
        batched, raw = self.resize == "torch", self.resize == "device"
        return ModelSizeImages(images, positions, self.image_size, batched, raw)

    def loader(self, images: Dataset[dict[str, Tensor]]) -> DataLoader[Any]:
        """This process's share of a set, without repeats."""
        rank, world = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        count = len(images)  # type: ignore[arg-type]
        return DataLoader(
            images,
            batch_size=max(1, self.eval_batch_size // world),
            sampler=ShardSampler(count, rank, world),
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
        )
