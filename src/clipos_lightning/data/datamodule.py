"""The LightningDataModule: few-shot ID images for training, the ID test set and the OOD sets for testing."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int, UInt8
from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import InputError
from ..options.finite import check_finite
from ..types import Images, Labels
from ..utils.cores import default_workers
from ..utils.files import expand_home
from .benchmarks import BENCHMARKS, kind_of, open_id, open_ood_sets, parse_ood_specs
from .class_prompts import Wording, one_name_each, read_wordings
from .classnames import read_class_list
from .decoding import DEFAULT, Decoding
from .image_sets import ImageSet, ModelSizeImages, unreadable_in
from .preprocessing import Preprocessing
from .sampler import ShardSampler, check_world_size
from .shielded_loader import ShieldedLoader
from .splits import draw_shots, find_shots, limit_positions, manifest, read_shots
from .test_sets import Tests, downscale, readable_images, select_images
from .transforms import to_model_size, view, view_rng

ID = "id"  # key of the ID test set among the test sets


def absolute(path: str | None) -> str | None:
    """The absolute path, so that a later command finds the file from another working directory; None stays None."""
    return None if path is None else str(Path(expand_home(path)).absolute())


class FewShotOOD(LightningDataModule):
    """Few-shot in-distribution images and OOD test sets.

    The few-shot images are selected by hashes (:func:`~clipos_lightning.data.splits.draw_shots`): the same images on
    every machine. Data sets are never downloaded here; ``clipos data download`` does that.

    Args:
        root: folder of the data sets, which relative paths start from; null: $CLIPOS_DATA if set, else ./data.
        id: the ID set: scenes (embedded; in another style: scenes-sketch, …), cifar10, cifar100, imagenet100,
            imagenet1k, eurosat, medmnist, or folder:PATH with train/<class>/ and test/<class>/ (or only <class>/, which
            is enough for fit and predict).
        ood_sets: OOD test sets: names, folder:PATH, or LABEL=folder:PATH; null: the benchmark of the ID set.
        shots: labelled training images per class, or all.
        shots_file: shots.json of an earlier run, to use its images; null: draw by shots and seed.
        seed: seed of the few-shot draw, the order of batches and the views; null: --seed_everything (1 in Python).
        batch_size: training images per step, over all processes together.
        eval_batch_size: images per step in validation and testing, over all processes together.
        num_workers: worker processes per process that decode images (0: none); null: half of the cores, at most 8.
        limit_per_set: maximal number of images of each test set, and of the held-out images of validation, selected by
            hashes of their names; null: all.
        class_names: YAML file with names and templates for the prompts (docs/own_classes.md); null: the names that come
            with the set, or the folder names with _ as space.
        class_list: text file with one class folder per line, to use only these classes; null: all classes (imagenet100:
            the 100 classes of MCM's list).
        views: number of views of each few-shot image: the image, and views - 1 random crops, half of them mirrored.
        ood_resolution: native keeps the size of OOD images; id first scales them down to the size of the ID images.
        resize: how images are resized to the model's input: pil is the reference; torch resizes sets of arrays in
            batches, faster, with differences up to 2/255; device resizes arrays of square images on the backbone's
            device, with differences of 1/255.
        cache: keep sets of small images decoded in .clipos-cache below the root; false: decode them each time.
        validate: fit validates on held-out training images, every trainer.check_val_every_n_epoch epochs, and logs
            val/accuracy and val/outliers/auroc, for EarlyStopping and ModelCheckpoint; false: it does not validate.
        background: colour behind transparent pixels, a name or #rrggbb; detectors keep it.
        max_pixels: images with more pixels are unreadable, to limit the memory.
        unreadable: error stops when an image cannot be read; skip leaves such images out of test and validation, and
            the report counts them. The few-shot images must be readable.

    Raises:
        InputError: an option is out of range, a file of options cannot be read, or the ID set is missing or unknown.

    Example:
        >>> from clipos_lightning import FewShotOOD
        >>> data = FewShotOOD(id="scenes", ood_sets=["noise"], shots=2, limit_per_set=100, num_workers=0)
        >>> data.class_names[:3]
        ['circle', 'square', 'triangle']
        >>> data.setup("fit")
        >>> data.shot_labels[:6]
        tensor([0, 0, 1, 1, 2, 2])
        >>> data.image_size = 32  # otherwise set by the Trainer, from the backbone
        >>> data.shot_images(torch.arange(4)).shape
        torch.Size([4, 3, 32, 32])
        >>> data.setup("test")
        >>> {name: len(loader.dataset) for name, loader in data.test_dataloader().items()}
        {'id': 100, 'noise': 100}
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
        validate: bool = False,
        background: str = DEFAULT.background,
        max_pixels: int = DEFAULT.max_pixels,
        unreadable: Literal["error", "skip"] = "error",
    ) -> None:
        super().__init__()
        self.allow_zero_length_dataloader_with_multiple_devices = True  # there may be more processes than images
        self.root = Path(expand_home(root or os.environ.get("CLIPOS_DATA") or "data"))
        id, ood_sets = expand_home(id), None if ood_sets is None else [expand_home(entry) for entry in ood_sets]
        shots_file, class_names, class_list = absolute(shots_file), absolute(class_names), absolute(class_list)
        self.seed = 1 if seed is None else seed
        counts = {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "views": views}
        smallest = dict.fromkeys(counts, 1) | {"seed": 0, "num_workers": 0}
        counts |= {"seed": self.seed} | ({} if num_workers is None else {"num_workers": num_workers})
        for option, value in counts.items():
            if value < smallest[option]:
                raise InputError(f"--data.{option} is {value}: it must be at least {smallest[option]}")
        check_finite(counts, "--data")
        if limit_per_set is not None and limit_per_set < 1:
            raise InputError(f"--data.limit_per_set is {limit_per_set}: it must be at least 1, or null for all")
        if isinstance(shots, int) and shots < 1:
            raise InputError(f"--data.shots is {shots}: take at least 1 image per class, or all")
        self.shots, self.shots_file = shots, shots_file
        self.batch_size, self.eval_batch_size, self.limit_per_set = batch_size, eval_batch_size, limit_per_set
        self.views, self.ood_resolution, self.resize, self.cache = views, ood_resolution, resize, cache
        self.validate, self.skip_unreadable = validate, unreadable == "skip"
        self.decoding = Decoding(background, max_pixels).check("--data.")
        self.num_workers = default_workers() if num_workers is None else num_workers
        classes = read_class_list(class_list) if class_list else None
        self.draw_options: tuple[int, int | str] = (self.seed, shots)  # a shots_file's own, if there is one
        if shots_file:
            with suppress(InputError):  # setup("fit") reports a broken file; testing does not need it
                self.draw_options = read_shots(shots_file)[1:]
        self.id_set = open_id(id, self.root, *self.draw_options, classes, cache)
        self.id_set.train.decoding = self.decoding  # test sets get it from select_images
        marks = BENCHMARKS.get(id, {})
        chosen = [*marks.get("near", []), *marks.get("far", [])] if ood_sets is None else ood_sets
        self.ood_specs = parse_ood_specs(chosen)
        self.ood_kinds = {spec.name: kind_of(id, spec.source) for spec in self.ood_specs}
        names = self.id_set.class_names
        wordings = read_wordings(class_names, self.id_set.class_keys, names) if class_names else []
        self.class_names: list[str] = [wording["names"][0] for wording in wordings] or names
        self.class_wordings: list[Wording] | None = None if one_name_each(wordings) else wordings
        self.test_sets: Tests = {}
        self.left_out: dict[str, int] = {}  # test set to number of unreadable images
        self.shot_positions: list[int] = []  # of the few-shot images in id_set.train
        self.preprocessing = Preprocessing(0)  # set by the Trainer, from the backbone
        options: dict[str, Any] = {"root": str(self.root.absolute()), "id": id, "ood_sets": chosen, "shots": shots}
        options |= {"seed": self.seed, "shots_file": shots_file, "limit_per_set": limit_per_set}
        options |= {"class_names": class_names, "class_list": class_list}
        options |= {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "views": views}
        options |= {"ood_resolution": ood_resolution, "resize": resize, "cache": cache, "validate": validate}
        options |= {"background": background, "max_pixels": max_pixels, "unreadable": unreadable}
        self.save_hyperparameters(options, logger=False)

    @property
    def image_size(self) -> int:
        """Side of the model's input in pixels; setting it gives the preprocessing of OpenAI's CLIP at this size."""
        return self.preprocessing.size

    @image_size.setter
    def image_size(self, size: int) -> None:
        self.preprocessing = Preprocessing(size)

    def setup(self, stage: str) -> None:
        """Draw the few-shot images (``fit``, ``validate``), or open the test sets (``test``).

        Raises:
            InputError: a set or an image is missing, a class has too few images, or ``shots_file`` is of another set.
        """
        backbone: Any = getattr(self.trainer and self.trainer.lightning_module, "backbone", None)
        self.preprocessing = self.preprocessing if backbone is None else backbone.preprocessing
        if stage in ("fit", "validate") and not self.shot_positions:
            self.shot_positions = self.read_draw() if self.shots_file else self.draw()
        if stage == "fit" and self.validate:
            self.held_out()  # raises before anything is encoded
        if stage == "test" and not self.test_sets:
            self.test_sets = self.open_test_sets()
            with suppress(InputError):  # only for the manifest: testing needs no training images
                self.shot_positions = self.shot_positions or (self.read_draw() if self.shots_file else self.draw())

    def draw(self) -> list[int]:
        """Positions of the few-shot images in the training set, drawn by ``shots`` and ``seed``."""
        train = self.id_set.train
        assert train.labels is not None
        return draw_shots(train.shot_keys(), train.labels.tolist(), self.id_set.class_keys, self.shots, self.seed)

    def read_draw(self) -> list[int]:
        """Positions of the images of ``shots_file`` in the training set."""
        train = self.id_set.train
        assert train.labels is not None
        file, keys, labels = str(self.shots_file), train.shot_keys(), train.labels.tolist()
        return find_shots(read_shots(file), file, keys, labels, self.id_set.class_keys, self.id_set.name)

    def manifest(self) -> dict[str, Any]:
        """The content of the run's ``shots.json``: which images were drawn, by class, and a digest."""
        train = self.id_set.train
        assert train.labels is not None
        drawn = [(int(train.labels[i]), train.shot_key(i)) for i in self.shot_positions]
        return manifest(self.id_set.name, *self.draw_options, self.id_set.class_keys, drawn, self.views)

    def find_test_sets(self) -> dict[str, ImageSet]:
        """The ID test set and the OOD sets, by name, the ID set first; no image is read.

        Raises:
            InputError: the ID set has no test images, or an OOD set is missing.
        """
        if self.id_set.test is None:
            raise InputError(
                f"the ID set {self.id_set.name!r} has no test images: clipos test requires train/<class>/ and "
                "test/<class>/ (fit, calibrate and predict do not)"
            )
        return {ID: self.id_set.test} | open_ood_sets(self.ood_specs, self.root, self.cache)

    def open_test_sets(self) -> Tests:
        """The sets of :meth:`find_test_sets` with the positions of the images to test, after checking those.

        Raises:
            InputError: a set is missing, or an image cannot be read.
        """
        sets = self.find_test_sets()
        tests = select_images(sets, self.limit_per_set, self.root if self.cache else None, self.decoding)
        tests, self.left_out = readable_images(tests, self.skip_unreadable, self.num_workers)
        return tests if self.ood_resolution == "native" else downscale(tests, ID, self.preprocessing)

    @property
    def shot_labels(self) -> Labels:
        """Class indices of the N few-shot images in V views, view by view (V N)."""
        assert self.id_set.train.labels is not None
        return torch.from_numpy(np.tile(self.id_set.train.labels[self.shot_positions], self.views))

    def shot_images(self, index: Int[Tensor, " batch"]) -> Images:
        """Few-shot images at the model's input size.

        Args:
            index: rows (n); row i is view i // N of image i % N of the draw. Rows beyond ``views`` are further views.

        Returns:
            uint8 (n, 3, image_size, image_size).
        """
        try:
            with ThreadPoolExecutor(max(1, self.num_workers)) as pool:  # decoding releases the interpreter's lock
                pixels = list(pool.map(self.shot_view, index.tolist()))
        except InputError as error:
            raise unreadable_in(self.id_set.train, self.shot_positions) from error
        return torch.stack(pixels) if pixels else torch.empty(0, 3, self.image_size, self.image_size, dtype=torch.uint8)

    def shot_view(self, row: int) -> UInt8[Tensor, "3 {self.image_size} {self.image_size}"]:
        """One row of :meth:`shot_images`: uint8 (3, image_size, image_size); view 0 is not augmented."""
        number, i = divmod(row, len(self.shot_positions))
        train, position = self.id_set.train, self.shot_positions[i]
        image = train.read(position).image
        if number == 0:
            return to_model_size(image, self.preprocessing)
        assert train.labels is not None
        name = self.id_set.class_keys[train.labels[position]]
        return view(image, self.preprocessing, view_rng(self.seed, name, train.shot_key(position), number))

    def global_batch(self, step: int) -> dict[str, Any]:
        """The batch of a training step over all processes: a pure function of (seed, step).

        Each epoch is a new permutation of all views of the few-shot images; its last batch may be smaller.

        Returns:
            ``step``; ``index``: rows for :meth:`shot_images` (batch_size); ``label``: their class indices (batch_size).
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng((self.seed, epoch, 1)).permutation(len(self.shot_positions) * self.views)
        index = torch.from_numpy(order[position * self.batch_size : (position + 1) * self.batch_size].copy())
        return {"step": step, "index": index, "label": self.shot_labels[index]}

    @property
    def steps_per_epoch(self) -> int:
        """Training steps per epoch: ceil(V N / batch_size)."""
        return -(-len(self.shot_positions) * self.views // self.batch_size)

    def train_dataloader(self) -> DataLoader[int]:
        """A loader over the steps of an epoch; :meth:`on_before_batch_transfer` replaces them by their batches."""
        steps: Any = range(self.steps_per_epoch)
        generator = torch.Generator()  # otherwise each epoch would draw from the global one, a resumed one earlier
        return DataLoader(steps, batch_size=None, sampler=ShardSampler(len(steps)), generator=generator)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """In training, replace the batch by the :meth:`global_batch` of the current step, also in a resumed run."""
        if self.trainer is not None and self.trainer.training:
            done = self.trainer.fit_loop.epoch_loop.batch_progress.current.completed
            return self.global_batch(self.trainer.current_epoch * self.steps_per_epoch + done)
        return batch

    def held_out(self) -> list[int]:
        """Positions of the held-out images in the training set: those that were not drawn, at most ``limit_per_set``.

        Raises:
            InputError: all training images were drawn.
        """
        drawn = set(self.shot_positions)
        positions = [i for i in range(len(self.id_set.train)) if i not in drawn]
        if not positions:
            raise InputError(
                f"{'--data.validate true' if self.validate else 'validate'} has no held-out images: every training "
                "image was drawn. Lower --data.shots, or add images"
            )
        keys = [self.id_set.train.keys[i] for i in positions]
        return [positions[i] for i in limit_positions(keys, self.limit_per_set)]

    def val_dataloader(self) -> Any:
        """The held-out ID images; empty in a ``fit`` without ``validate``.

        Raises:
            InputError: all training images were drawn.
        """
        if self.trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and not self.validate:
            return []
        held_out: Tests = {"train": (self.id_set.train, self.held_out())}
        images, positions = readable_images(held_out, self.skip_unreadable, self.num_workers)[0]["train"]
        check_world_size(len(positions), self.process[1])
        return self.loader(ModelSizeImages(images, positions, self.preprocessing))

    @property
    def process(self) -> tuple[int, int]:
        """The rank of this process, and the number of processes."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def test_dataloader(self) -> dict[str, DataLoader[Any]]:
        """One loader per test set, by name: the ID test set (``id``) first, then the OOD sets."""
        check_world_size(max(len(positions) for _, positions in self.test_sets.values()), self.process[1])
        return {name: self.loader(self.test_images(name)) for name in self.test_sets}

    def test_images(self, name: str) -> ModelSizeImages:
        """The images of a test set at the model's input size."""
        images, positions = self.test_sets[name]
        batched, raw = self.resize == "torch", self.resize == "device"
        return ModelSizeImages(images, positions, self.preprocessing, batched, raw)

    def loader(self, images: Dataset[dict[str, Tensor]]) -> DataLoader[Any]:
        """A loader over this process's shard of a set (:class:`ShardSampler`)."""
        rank, world = self.process
        return ShieldedLoader(
            images,
            batch_size=max(1, self.eval_batch_size // world),
            sampler=ShardSampler(len(images), rank, world),  # type: ignore[arg-type]
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # otherwise validation would draw from the generator that training uses
        )
