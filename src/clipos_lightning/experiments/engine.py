"""Train all detectors of a benchmark, then score each test set in one pass of the backbone for all of them.

Training is cheap (frozen features of a few images); the pass over the test sets is not, and all heads can score the
same features. Every finished step is a file, so an interrupted benchmark can be resumed.
"""

import io
import json
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property, partial
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
from ..data.image_files import shared_listings
from ..data.image_sets import FolderSet, ImageSet
from ..data.splits import digest
from ..detector.detector import Detector
from ..errors import InputError, message_of
from ..evaluation.heads import Head, all_paths, all_surgeries, score_all
from ..training.module import ClipOS
from ..utils.files import atomic_write, make_folder, write_json
from ..utils.progress import advancing, open_bar, print_once, track
from .grid import find_run, scores_file
from .plan import ZERO_SHOT_OPTIONS, GridRun, grid_parser
from .run_files import detector_digest, read_run, read_scores, read_tests, read_trained, unless_broken

NamedArrays = dict[str, NDArray[Any]]
QUIET: dict[str, Any] = dict.fromkeys(
    ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
)


class BenchmarkRunner:
    """Trains and scores runs in a folder: ``runs/<id>/`` with ``detector.safetensors``, ``run.json``, ``<set>.npz``.

    Args:
        folder: the benchmark's folder; finished runs in it are skipped.
        runs: the runs to train and score.
    """

    def __init__(self, folder: Path, runs: Sequence[GridRun]) -> None:
        self.folder, self.runs = folder, runs
        self.parser = grid_parser()
        self.notes: set[str] = set()  # what could not be checked about weights
        self.seconds: dict[str, float] = {"training": 0.0, "features": 0.0, "scoring": 0.0}
        self.images = 0
        self.classes_and_draws: dict[str, tuple[list[str], str | None]] = {}

    def run(self) -> None:
        """Train and score all runs that are not finished."""
        for accelerator in {str(run.config.trainer.accelerator) for run in self.runs}:
            device_of(accelerator)  # fail before anything is trained
        with shared_weights(), shared_listings():
            for group in self.groups() if self.untrained else ():
                self.test_data(group).find_test_sets()  # a missing set is an error before anything is trained
            for run in track(self.untrained, "training detectors", "runs"):
                self.train(run)
            for note in sorted(self.notes):
                print_once(f"note: {note}", sys.stderr)
            for group in self.groups():
                self.score_group(group)

    # ---- training

    @cached_property
    def untrained(self) -> list[GridRun]:
        """The runs that had no detector when this was first used."""
        return [run for run in self.runs if not self.is_trained(run)]

    def folder_of(self, run: GridRun) -> Path:
        """The run's folder, existing or new."""
        return find_run(self.folder, run.id) or self.folder / "runs" / run.id

    def is_trained(self, run: GridRun) -> bool:
        """Whether the run's detector exists, trained on exactly these classes and images.

        Raises:
            InputError: it was trained on other classes or images.
        """
        path = self.folder_of(run) / "run.json"  # written last
        written = unless_broken(lambda: read_trained(path.parent)) if path.exists() else None
        if written is None:
            return False
        if (written["detector"]["class_names"], written["draw"]) != self.classes_and_draw(run):
            raise InputError(
                f"benchmark: {path.parent} was trained on other classes or images with the same names: give another "
                "--out"
            )
        return True

    def classes_and_draw(self, run: GridRun) -> tuple[list[str], str | None]:
        """Class names and digest of the few-shot images that a run's options select on this machine."""
        key = json.dumps([run.needs_shots, run.config.data.as_dict()], default=str)
        if key not in self.classes_and_draws:
            data = FewShotOOD(**vars(self.parser.instantiate_classes(run.config).data))
            if run.needs_shots:
                data.setup("fit")
            self.classes_and_draws[key] = data.class_names, draw_digest(data)
        return self.classes_and_draws[key]

    def train(self, run: GridRun) -> None:
        """Train a run's detector (or build it from the zero-shot prompts) and save it.

        Raises:
            InputError: the run's data or options are wrong; the message names the run.
        """
        start = time.perf_counter()
        try:
            data, module, trainer = self.build(run)
            if run.train:
                trainer.fit(module, data)
            else:
                device = trainer.strategy.root_device
                with autocast(device, str(run.config.trainer.precision)):
                    module.to(device).encode_shots(data)
                module.cpu()  # as after a fit
            folder = self.folder_of(run)
            make_folder(folder)
            Detector.of(module).save(folder / "detector.safetensors", overwrite=True)
        except (InputError, MisconfigurationException) as error:
            raise InputError(f"benchmark: run {run.id}: {message_of(error)}") from error
        written = {"id": run.id, "train": run.train, "options": run.options, "scores": module.tested_scores}
        written |= {"sha256": detector_digest(folder)}
        write_json(folder / "run.json", {**written, "draw": draw_digest(data), "detector": asdict(module.record)})
        self.seconds["training"] += time.perf_counter() - start

    def build(self, run: GridRun) -> tuple[FewShotOOD, ClipOS, Trainer]:
        """Data, module and trainer of a run, as `clipos fit` would build them."""
        seed_everything(run.config.model.seed, verbose=False)  # for user-defined objectives that use torch's RNG
        options = self.parser.instantiate_classes(run.config)
        data = FewShotOOD(**vars(options.data))
        module = ClipOS(data.class_names, class_wordings=data.class_wordings, **vars(options.model))
        data.preprocessing = module.backbone.preprocessing
        self.notes |= {module.backbone.note} - {""}
        if run.needs_shots:
            data.setup("fit")
        return data, module, Trainer(**{**vars(options.trainer), **QUIET, "devices": 1, "callbacks": []})

    # ---- testing

    def groups(self) -> Iterator[list[GridRun]]:
        """Groups of runs with the same backbone and test images, which share one pass."""
        found: dict[str, list[GridRun]] = {}
        for run in self.runs:
            model, data = run.config.model, run.config.data
            key = [model.backbone, model.pretrained, model.image_size, run.config.trainer.precision]
            key += [data.get(name) for name in ("root", *ZERO_SHOT_OPTIONS["data"])]
            found.setdefault(json.dumps(key, default=str), []).append(run)
        yield from found.values()

    def test_data(self, runs: Sequence[GridRun]) -> FewShotOOD:
        """The data of a group of runs, with its test sets not yet opened."""
        return FewShotOOD(**vars(self.parser.instantiate_classes(runs[0].config).data))

    def score_group(self, runs: Sequence[GridRun]) -> None:
        """Score every test set of a group once, for the runs that have no scores of it."""
        trainer = runs[0].config.trainer
        data, device = self.test_data(runs), device_of(trainer.accelerator)
        detectors = {run.id: self.load_detector(run) for run in runs}
        backbone = next(iter(detectors.values()))[0].backbone.to(device)
        data.preprocessing = backbone.preprocessing
        data.setup("test")
        heads = {name: replace(head, prefix=f"{name}/") for name, (_, head) in detectors.items()}
        keys = {name: images_digest(images, sorted(rows)) for name, (images, rows) in data.test_sets.items()}
        missing = {n: [heads[run.id] for run in runs if not self.is_scored(run, n, keys[n])] for n in keys}
        loaders = {name: data.loader(data.test_images(name)) for name, found in missing.items() if found}
        with open_bar("scoring", sum(map(len, loaders.values())), shown=bool(loaders)) as bar:
            for k, (name, batches) in enumerate(loaders.items()):
                bar.set_description(f"{len(missing[name])} detectors on {name} ({k + 1} of {len(loaders)})")
                tables = self.one_pass(backbone, missing[name], advancing(batches, bar), str(trainer.precision))
                images, positions = data.test_sets[name]
                labels = None if images.labels is None else images.labels[sorted(positions)]
                for head, values in zip(missing[name], tables, strict=True):
                    self.write_scores(head, name, values, keys[name], labels)
        tests = {"id": {"name": data.id_set.name, "n": len(data.test_sets[ID][1])}, "ood": data.ood_kinds}
        tests |= {"limit_per_set": data.limit_per_set, "ood_resolution": data.ood_resolution}
        for run in runs:
            path = self.folder_of(run) / "tests.json"
            if path.exists():
                unless_broken(partial(read_tests, path.parent))
            write_json(path, tests)

    def load_detector(self, run: GridRun) -> tuple[Detector, Head]:
        """A run's detector, and its head with all reported scores."""
        folder = self.folder_of(run)
        detector = Detector.load(folder / "detector.safetensors", "cpu", run.config.model.pretrained, trust=True)
        return detector, replace(detector.head, scores=read_run(folder)["scores"])

    def is_scored(self, run: GridRun, name: str, keys: str) -> bool:
        """Whether scores of this detector and exactly these images of a test set exist."""
        folder = self.folder_of(run)
        found = unless_broken(lambda: read_scores(folder, name)) if (folder / scores_file(name)).exists() else None
        if found is None or str(found["keys"]) != keys:
            return False
        return "detector" not in found or str(found["detector"]) == detector_digest(folder)

    @torch.inference_mode()
    def one_pass(
        self, backbone: FrozenClip, heads: Sequence[Head], batches: Iterable[Any], precision: str
    ) -> list[NDArray[np.float32]]:
        """Predictions and scores of all heads on one test set, (N, columns) each, from one pass of the backbone."""
        paths, surgeries, device = all_paths(heads), all_surgeries(heads), backbone.device
        heads = [head.to(device) for head in heads]
        values: list[NDArray[np.float32]] = []
        start = time.perf_counter()
        for batch in batches:
            with autocast(device, precision):
                features = backbone.encode_surgeries(batch["image"].to(device), paths, surgeries)
            encoded = synchronized_time(device)
            values.append(score_all(heads, features).cpu().numpy())
            self.images += len(batch["image"])
            end = synchronized_time(device)
            self.seconds["features"] += encoded - start
            self.seconds["scoring"] += end - encoded
            start = end
        ends = np.cumsum([len(head.columns) for head in heads])[:-1]
        return np.split(np.concatenate(values), ends, axis=1)

    def write_scores(self, head: Head, name: str, values: NDArray[np.float32], keys: str, labels: Any) -> None:
        """Write one run's scores of one test set."""
        arrays = dict(zip(("predicted", *head.scores), values.T, strict=True))
        arrays["predicted"] = arrays["predicted"].astype(np.int32)
        arrays |= {"keys": np.array(keys)} | ({} if labels is None else {"labels": labels.astype(np.int32)})
        folder = find_run(self.folder, head.prefix.rstrip("/"))
        assert folder is not None  # its detector was loaded from there
        arrays |= {"detector": np.array(detector_digest(folder))}
        with atomic_write(folder / scores_file(name)) as path, open(path, "wb") as file:
            write_npz(file, arrays)


def synchronized_time(device: torch.device) -> float:
    """Clock in seconds after all queued GPU work is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def draw_digest(data: FewShotOOD) -> str | None:
    """Digest of the drawn few-shot images and their classes; None if none were drawn."""
    positions = data.shot_positions
    return (
        images_digest(data.id_set.train, positions, data.shot_labels[: len(positions)].tolist()) if positions else None
    )


def images_digest(images: ImageSet, positions: Sequence[int], labels: Sequence[int] = ()) -> str:
    """Digest of the images at these positions: their names, file sizes and labels."""
    names = [images.keys[i] for i in positions]
    if isinstance(images, FolderSet):
        names = [f"{name} {(images.root / name).stat().st_size}" for name in names]
    return digest("\n".join([*names, *map(str, labels)]))


def device_of(accelerator: Any) -> torch.device:
    """The device that a Trainer with this accelerator uses.

    Raises:
        InputError: this machine has no such accelerator.
    """
    try:
        return Trainer(accelerator=accelerator, devices=1, **QUIET).strategy.root_device
    except MisconfigurationException as error:
        raise InputError(f"--trainer.accelerator {accelerator}: {message_of(error)}") from error


def autocast(device: torch.device, precision: str) -> Any:
    """Context manager for Lightning's mixed precisions, for the backbone only; scores are always fp32."""
    dtypes = {"bf16": torch.bfloat16, "16": torch.float16}
    dtype = dtypes.get(precision.removesuffix("-mixed"))
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def write_npz(file: Any, arrays: NamedArrays) -> None:
    """Like ``numpy.savez_compressed``, but without timestamps: equal arrays give equal bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), buffer.getvalue(), zipfile.ZIP_DEFLATED)
