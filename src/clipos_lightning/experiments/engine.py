"""The benchmark's engine: all detectors are trained first, then each test set goes through the backbone once for all.

Training is cheap (frozen features of a few images); the backbone's pass over the test sets is not, and every head can
judge the same features. Each finished piece is a file, so that a killed run goes on where it stopped.
"""

import io
import json
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray

from ..clip.backbone import FrozenClip
from ..clip.loading import shared_weights
from ..data.datamodule import ID, FewShotOOD
from ..data.image_sets import FolderSet, ImageSet
from ..data.splits import digest
from ..detector.detector import Detector
from ..errors import InputError
from ..evaluation.heads import Head, all_paths, all_surgeries
from ..training.module import ClipOS
from ..utils.files import whole, write_json
from ..utils.progress import track
from .places import file_name, find_cell
from .plan import UNTRAINED, Cell, make_parser

Scores = dict[str, NDArray[Any]]
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class Bench:
    """A folder of cells: ``cells/<id>/detector.safetensors``, ``cell.json`` and ``<set>.npz`` of each.

    Args:
        folder: where they are, and are written.
        cells: those to see to.
    """

    def __init__(self, folder: Path, cells: Sequence[Cell]) -> None:
        self.folder, self.cells = folder, cells
        self.parser = make_parser()
        self.seconds: dict[str, float] = {"training": 0.0, "features": 0.0, "judging": 0.0}
        self.images = 0
        self.origins: dict[str, dict[str, Any]] = {}

    def run(self) -> None:
        """Train what is not trained, then score what is not scored."""
        for accelerator in {str(cell.config.trainer.accelerator) for cell in self.cells}:
            device_of(accelerator)  # said before anything is trained
        with shared_weights():
            for cell in track([c for c in self.cells if not self.trained(c)], "training detectors"):
                self.train(cell)
            for group in self.groups():
                self.score(group)

    # ---- training

    def place(self, cell: Cell) -> Path:
        """The cell's folder."""
        return find_cell(self.folder, cell.id) or self.folder / "cells" / cell.id

    def trained(self, cell: Cell) -> bool:
        """Its detector is there, of these very classes and images: ``cell.json`` is written last.

        Raises:
            InputError: it is of others.
        """
        path = self.place(cell) / "cell.json"
        if not path.exists():
            return False
        origin = json.loads(path.read_text(encoding="utf-8")).get("origin")
        if origin is not None and origin != self.origin(cell):
            raise InputError(
                f"benchmark: {path.parent} was trained on other classes or images of the same names: give another --out"
            )
        return origin is not None

    def origin(self, cell: Cell) -> dict[str, Any]:
        """Which classes and few-shot images a cell's options mean here and now."""
        key = json.dumps([cell.draws, cell.config.data.as_dict()], default=str)
        if key not in self.origins:
            data = FewShotOOD(**vars(self.parser.instantiate_classes(cell.config).data))
            if cell.draws:
                data.setup("fit")
            self.origins[key] = origin_of(data)
        return self.origins[key]

    def train(self, cell: Cell) -> None:
        """Train a cell's detector (or take the zero-shot prompts), and write it.

        Raises:
            InputError: what is wrong with its data or options, and which cell it is.
        """
        start = time.perf_counter()
        try:
            data, module, trainer = self.build(cell)
            if cell.train:
                trainer.fit(module, data)
            else:
                module.learn_images(data)
        except (InputError, MisconfigurationException) as error:
            raise InputError(f"benchmark: cell {cell.id}: {' '.join(str(error).split())}") from error
        place = self.place(cell)
        place.mkdir(parents=True, exist_ok=True)
        Detector.of(module).save(place / "detector.safetensors", overwrite=True)
        record = {"id": cell.id, "train": cell.train, "options": cell.plain, "score": module.score}
        record |= {"scores": module.tested_scores, "fingerprint": module.backbone.fingerprint}
        write_json(place / "cell.json", record | {"origin": origin_of(data)})
        self.seconds["training"] += time.perf_counter() - start

    def build(self, cell: Cell) -> tuple[FewShotOOD, ClipOS, Trainer]:
        """The parts that a `clipos fit` of this cell would have."""
        seed_everything(cell.config.model.seed, verbose=False)  # for objectives of one's own that draw by torch
        options = self.parser.instantiate_classes(cell.config)
        data = FewShotOOD(**vars(options.data))
        module = ClipOS(data.class_names, class_wordings=data.class_wordings, **vars(options.model))
        data.image_size = module.backbone.image_size
        if cell.draws:
            data.setup("fit")
        return data, module, Trainer(**{**vars(options.trainer), **QUIET, "devices": 1, "callbacks": []})

    # ---- testing

    def groups(self) -> Iterator[list[Cell]]:
        """Cells that one pass can serve: the same backbone and the same test images."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            model, data = cell.config.model, cell.config.data
            parts = [model.backbone, model.pretrained, model.image_size, cell.config.trainer.precision]
            parts += [data.get(name) for name in ("root", *UNTRAINED["data"])]
            found.setdefault(json.dumps(parts, default=str), []).append(cell)
        yield from found.values()

    def score(self, cells: Sequence[Cell]) -> None:
        """Every test set of these cells, each once, for the cells that lack it."""
        options = self.parser.instantiate_classes(cells[0].config)
        data = FewShotOOD(**vars(options.data))
        device = device_of(options.trainer.accelerator)
        detectors = {cell.id: self.load(cell) for cell in cells}
        backbone = next(iter(detectors.values()))[0].backbone.to(device)
        data.image_size = backbone.image_size
        data.setup("test")
        heads = {name: replace(head, prefix=f"{name}/") for name, (_, head) in detectors.items()}
        for k, (name, (images, positions)) in enumerate(data.tests.items()):
            rows = sorted(positions)
            keys = which(images, rows)
            asked = [heads[cell.id] for cell in cells if not self.scored(cell, name, keys)]
            if asked:
                label = f"{len(asked)} detectors on {name} ({k + 1} of {len(data.tests)})"
                batches = track(data.loader(data.test_images(name)), label)
                table = self.one_pass(backbone, asked, batches, str(options.trainer.precision))
                labels = None if images.labels is None else images.labels[rows]
                for head, values in zip(asked, table, strict=True):
                    self.write(head, name, values, keys, labels)
        tests = {"id": {"name": data.id_set.name, "n": len(data.tests[ID][1])}, "ood": data.ood_kinds}
        tests |= {"limit_per_set": data.limit_per_set, "ood_resolution": data.ood_resolution}
        for cell in cells:
            write_json(self.place(cell) / "tests.json", tests)

    def load(self, cell: Cell) -> tuple[Detector, Head]:
        """A cell's detector, and its head with all the scores that are reported."""
        place = self.place(cell)
        detector = Detector.load(place / "detector.safetensors", "cpu", cell.config.model.pretrained, trust=True)
        record = json.loads((place / "cell.json").read_text(encoding="utf-8"))
        return detector, replace(detector.head, scores=record["scores"])

    def scored(self, cell: Cell, name: str, keys: str) -> bool:
        """This set's scores are there, of these very images."""
        path = self.place(cell) / file_name(name)
        return path.exists() and str(np.load(path)["keys"]) == keys

    @torch.inference_mode()
    def one_pass(
        self, backbone: FrozenClip, heads: Sequence[Head], batches: Iterable[Any], precision: str
    ) -> list[NDArray[np.float32]]:
        """All heads' columns of one set, (N, columns) each, from a single pass of the backbone."""
        paths, surgeries, device = all_paths(heads), all_surgeries(heads), backbone.device
        heads = [head.to(device) for head in heads]
        found: list[list[NDArray[np.float32]]] = [[] for _ in heads]
        start = time.perf_counter()
        for batch in batches:
            with autocast(device, precision):
                features = backbone.encode_surgeries(batch["image"].to(device), paths, surgeries)
            middle = self.now(device)
            for rows, head in zip(found, heads, strict=True):
                rows.append(head.values(features.get(head.surgery, features[surgeries[0]])).cpu().numpy())
            self.images += len(batch["image"])
            end = self.now(device)
            self.seconds["features"] += middle - start
            self.seconds["judging"] += end - middle
            start = end
        return [np.concatenate(rows) for rows in found]

    def now(self, device: torch.device) -> float:
        """Seconds on the clock, when all that was asked of the device is done."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def write(self, head: Head, name: str, values: NDArray[np.float32], keys: str, labels: Any) -> None:
        """One cell's scores of one set."""
        arrays = dict(zip(("predicted", *head.scores), values.T, strict=True))
        arrays["predicted"] = arrays["predicted"].astype(np.int32)
        arrays |= {"keys": np.array(keys)} | ({} if labels is None else {"labels": labels.astype(np.int32)})
        place = find_cell(self.folder, head.prefix.rstrip("/"))
        assert place is not None  # its detector was loaded from there
        with whole(place / file_name(name)) as path, open(path, "wb") as file:
            write_npz(file, arrays)


def origin_of(data: FewShotOOD) -> dict[str, Any]:
    """Class names, and the drawn images by class, name and size of the file."""
    labels = data.shot_labels[: len(data.drawn)].tolist()
    return {"classes": data.class_names, "draw": which(data.id_set.train, data.drawn, labels) if data.drawn else None}


def which(images: ImageSet, positions: Sequence[int], labels: Sequence[int] = ()) -> str:
    """A digest of some images: names, sizes of files, labels."""
    names = [images.keys[i] for i in positions]
    if isinstance(images, FolderSet):
        names = [f"{name} {(images.root / name).stat().st_size}" for name in names]
    return digest("\n".join([*names, *map(str, labels)]))


def device_of(accelerator: Any) -> torch.device:
    """The device that the Trainer would take.

    Raises:
        InputError: there is none of this kind.
    """
    try:
        return Trainer(accelerator=accelerator, devices=1, **QUIET).strategy.root_device
    except MisconfigurationException as error:
        raise InputError(f"--trainer.accelerator {accelerator}: {' '.join(str(error).split())}") from error


def autocast(device: torch.device, precision: str) -> Any:
    """Lightning's mixed precisions for the backbone; scores are fp32 whatever it is."""
    short = {"bf16": torch.bfloat16, "16": torch.float16}
    dtype = short.get(precision.removesuffix("-mixed"))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def write_npz(file: Any, arrays: Scores) -> None:
    """As numpy's savez_compressed, but the same bytes for the same arrays: no time of day inside."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)
