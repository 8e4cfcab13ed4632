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
from dataclasses import asdict, replace
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
from ..utils.files import atomic_write, write_json
from ..utils.progress import track
from .grid import file_name, find_run
from .plan import UNTRAINED, GridRun, grid_parser

NamedArrays = dict[str, NDArray[Any]]
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class Bench:
    """A folder of runs: ``runs/<id>/detector.safetensors``, ``run.json`` and ``<set>.npz`` of each.

    Args:
        folder: where they are, and are written.
        runs: those to see to.
    """

    def __init__(self, folder: Path, runs: Sequence[GridRun]) -> None:
        self.folder, self.runs = folder, runs
        self.parser = grid_parser()
        self.seconds: dict[str, float] = {"training": 0.0, "features": 0.0, "judging": 0.0}
        self.images = 0
        self.data: dict[str, tuple[list[str], str | None]] = {}

    def run(self) -> None:
        """Train what is not trained, then score what is not scored."""
        for accelerator in {str(run.config.trainer.accelerator) for run in self.runs}:
            device_of(accelerator)  # said before anything is trained
        with shared_weights():
            for run in track([c for c in self.runs if not self.trained(c)], "training detectors"):
                self.train(run)
            for group in self.groups():
                self.score(group)

    # ---- training

    def place(self, run: GridRun) -> Path:
        """The run's folder."""
        return find_run(self.folder, run.id) or self.folder / "runs" / run.id

    def trained(self, run: GridRun) -> bool:
        """Whether the run's detector exists, trained on exactly these classes and images.

        Raises:
            InputError: it was trained on others.
        """
        path = self.place(run) / "run.json"  # written last
        if not path.exists():
            return False
        written = json.loads(path.read_text(encoding="utf-8"))
        if "detector" in written and (written["detector"]["class_names"], written["draw"]) != self.data_of(run):
            raise InputError(
                f"benchmark: {path.parent} was trained on other classes or images of the same names: give another --out"
            )
        return "detector" in written

    def data_of(self, run: GridRun) -> tuple[list[str], str | None]:
        """Class names and digest of the few-shot images that a run's options give on this machine."""
        key = json.dumps([run.draws, run.config.data.as_dict()], default=str)
        if key not in self.data:
            data = FewShotOOD(**vars(self.parser.instantiate_classes(run.config).data))
            if run.draws:
                data.setup("fit")
            self.data[key] = data.class_names, draw_digest(data)
        return self.data[key]

    def train(self, run: GridRun) -> None:
        """Train a run's detector (or take the zero-shot prompts), and write it.

        Raises:
            InputError: what is wrong with its data or options, and which run it is.
        """
        start = time.perf_counter()
        try:
            data, module, trainer = self.build(run)
            if run.train:
                trainer.fit(module, data)
            else:
                module.learn_images(data)
        except (InputError, MisconfigurationException) as error:
            raise InputError(f"benchmark: run {run.id}: {' '.join(str(error).split())}") from error
        place = self.place(run)
        place.mkdir(parents=True, exist_ok=True)
        Detector.of(module).save(place / "detector.safetensors", overwrite=True)
        written = {"id": run.id, "train": run.train, "options": run.plain, "scores": module.tested_scores}
        write_json(place / "run.json", {**written, "draw": draw_digest(data), "detector": asdict(module.record)})
        self.seconds["training"] += time.perf_counter() - start

    def build(self, run: GridRun) -> tuple[FewShotOOD, ClipOS, Trainer]:
        """The parts that a `clipos fit` of this run would have."""
        seed_everything(run.config.model.seed, verbose=False)  # for objectives of one's own that draw by torch
        options = self.parser.instantiate_classes(run.config)
        data = FewShotOOD(**vars(options.data))
        module = ClipOS(data.class_names, class_wordings=data.class_wordings, **vars(options.model))
        data.image_size = module.backbone.image_size
        if run.draws:
            data.setup("fit")
        return data, module, Trainer(**{**vars(options.trainer), **QUIET, "devices": 1, "callbacks": []})

    # ---- testing

    def groups(self) -> Iterator[list[GridRun]]:
        """Runs that one pass can serve: the same backbone and the same test images."""
        found: dict[str, list[GridRun]] = {}
        for run in self.runs:
            model, data = run.config.model, run.config.data
            parts = [model.backbone, model.pretrained, model.image_size, run.config.trainer.precision]
            parts += [data.get(name) for name in ("root", *UNTRAINED["data"])]
            found.setdefault(json.dumps(parts, default=str), []).append(run)
        yield from found.values()

    def score(self, runs: Sequence[GridRun]) -> None:
        """Every test set of these runs, each once, for the runs that lack it."""
        options = self.parser.instantiate_classes(runs[0].config)
        data = FewShotOOD(**vars(options.data))
        device = device_of(options.trainer.accelerator)
        detectors = {run.id: self.load(run) for run in runs}
        backbone = next(iter(detectors.values()))[0].backbone.to(device)
        data.image_size = backbone.image_size
        data.setup("test")
        heads = {name: replace(head, prefix=f"{name}/") for name, (_, head) in detectors.items()}
        for k, (name, (images, positions)) in enumerate(data.test_sets.items()):
            rows = sorted(positions)
            keys = images_digest(images, rows)
            asked = [heads[run.id] for run in runs if not self.scored(run, name, keys)]
            if asked:
                label = f"{len(asked)} detectors on {name} ({k + 1} of {len(data.test_sets)})"
                batches = track(data.loader(data.test_images(name)), label)
                table = self.one_pass(backbone, asked, batches, str(options.trainer.precision))
                labels = None if images.labels is None else images.labels[rows]
                for head, values in zip(asked, table, strict=True):
                    self.write(head, name, values, keys, labels)
        tests = {"id": {"name": data.id_set.name, "n": len(data.test_sets[ID][1])}, "ood": data.ood_kinds}
        tests |= {"limit_per_set": data.limit_per_set, "ood_resolution": data.ood_resolution}
        for run in runs:
            write_json(self.place(run) / "tests.json", tests)

    def load(self, run: GridRun) -> tuple[Detector, Head]:
        """A run's detector, and its head with all the scores that are reported."""
        place = self.place(run)
        detector = Detector.load(place / "detector.safetensors", "cpu", run.config.model.pretrained, trust=True)
        record = json.loads((place / "run.json").read_text(encoding="utf-8"))
        return detector, replace(detector.head, scores=record["scores"])

    def scored(self, run: GridRun, name: str, keys: str) -> bool:
        """This set's scores are there, of these very images."""
        path = self.place(run) / file_name(name)
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
        """One run's scores of one set."""
        arrays = dict(zip(("predicted", *head.scores), values.T, strict=True))
        arrays["predicted"] = arrays["predicted"].astype(np.int32)
        arrays |= {"keys": np.array(keys)} | ({} if labels is None else {"labels": labels.astype(np.int32)})
        place = find_run(self.folder, head.prefix.rstrip("/"))
        assert place is not None  # its detector was loaded from there
        with atomic_write(place / file_name(name)) as path, open(path, "wb") as file:
            write_npz(file, arrays)


def draw_digest(data: FewShotOOD) -> str | None:
    """Digest of the drawn few-shot images with their classes; None: none were drawn."""
    positions = data.shot_positions
    return (
        images_digest(data.id_set.train, positions, data.shot_labels[: len(positions)].tolist()) if positions else None
    )


def images_digest(images: ImageSet, positions: Sequence[int], labels: Sequence[int] = ()) -> str:
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


def write_npz(file: Any, arrays: NamedArrays) -> None:
    """As numpy's savez_compressed, but the same bytes for the same arrays: no time of day inside."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)
