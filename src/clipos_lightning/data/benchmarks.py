"""Which sets there are: ID sets by name, OOD sets by name, and each ID set's benchmark.

A user adds a set by a line in a table below, or none: ``folder:PATH`` is any folder of images.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torchvision

from ..errors import InputError
from . import scenes
from .classnames import CIFAR10, folder_class_names
from .sets import (
    ArraySet,
    ImageSet,
    SceneSet,
    TorchvisionSet,
    class_folders,
    folder_images,
    labelled_folder,
    read_cifar_batch,
)

SCENE_POOL = 1000  # training pictures per class of `scenes`, at the least
SCENE_ID_COUNT, SCENE_OOD_COUNT = 1000, 600


@dataclass
class IdSet:
    """An in-distribution set.

    Attributes:
        name: as it stands in reports.
        class_keys: class folder names, or class indices as text for sets that come as arrays.
        class_names: as they stand in the prompts.
        train: where the few-shot images come from.
        test: the test set, or None.
    """

    name: str
    class_keys: list[str]
    class_names: list[str]
    train: ImageSet
    test: ImageSet | None


def id_scenes(root: Path, seed: int, shots: int | str) -> IdSet:
    """The embedded procedural set: 10 shapes; the training stream has as many pictures as are asked for."""
    classes = len(scenes.ID_SHAPES)
    pool = max(SCENE_POOL, shots if isinstance(shots, int) else 0)
    train = SceneSet("id", "train", seed, pool * classes)
    test = SceneSet("id", "report", 0, SCENE_ID_COUNT)
    return IdSet("scenes", [str(i) for i in range(classes)], list(scenes.ID_SHAPES), train, test)


def id_cifar10(root: Path, seed: int, shots: int | str) -> IdSet:
    """CIFAR-10 as its own python batches, in ``cifar-10-batches-py`` below the root (or ``cifar10/``)."""
    folder = next((f for f in (root / "cifar-10-batches-py", root / "cifar10/cifar-10-batches-py") if f.is_dir()), None)
    if folder is None:
        raise InputError(
            f"CIFAR-10 is not below {root} (no {root}/cifar-10-batches-py): clipos data download cifar10 --root {root}"
            ", or set --data.root (or $CLIPOS_DATA)"
        )
    train = cifar_batches(folder, [f"data_batch_{i}" for i in range(1, 6)])
    test = cifar_batches(folder, ["test_batch"])
    return IdSet("cifar10", [str(i) for i in range(10)], list(CIFAR10), train, test)


def cifar_batches(folder: Path, names: Sequence[str]) -> ArraySet:
    """CIFAR's batches of these names as one set."""
    try:
        parts = []
        for name in names:
            with open(folder / name, "rb") as file:
                parts.append(read_cifar_batch(file))
    except (OSError, pickle.UnpicklingError, KeyError, ValueError, EOFError, TypeError, AttributeError) as error:
        raise InputError(f"cannot read CIFAR-10 in {folder}: {error}. Unpack cifar-10-python.tar.gz again") from error
    return ArraySet("cifar10", np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))


def id_folder(path: Path) -> IdSet:
    """A folder with ``train/<class>/`` and ``test/<class>/``, or ``<class>/`` alone (then there is no test set)."""
    if not path.is_dir():
        raise InputError(
            f"--data.id: no folder {path}; it must hold train/<class>/ and test/<class>/, or <class>/ (relative paths "
            "lie below --data.root, or $CLIPOS_DATA)"
        )
    split = (path / "train").is_dir()
    train_root = path / "train" if split else path
    classes = class_folders(train_root)
    if len(classes) < 2:
        raise InputError(f"--data.id: {train_root} has {len(classes)} class folders; it takes at least two")
    name = path.resolve().name
    train = labelled_folder(name, train_root, classes)
    test = labelled_folder(name, path / "test", classes) if split and (path / "test").is_dir() else None
    return IdSet(name, classes, folder_class_names(classes), train, test if test is not None and len(test) else None)


def ood_textures(root: Path) -> ImageSet:
    """Describable Textures (DTD), all three splits by torchvision's reader: 5,640 images."""
    parts: list[Any] = []
    for split in ("train", "val", "test"):
        try:
            parts.append(torchvision.datasets.DTD(str(root), split=split, download=False))
        except (RuntimeError, OSError) as error:
            raise InputError(
                f"OOD set 'textures' is not below {root} (no {root}/dtd/dtd/images): clipos data download textures "
                f"--root {root}, or leave it out of --data.ood_sets"
            ) from error
    files = [Path(p) for part in parts for p in part._image_files]
    return TorchvisionSet("textures", parts, [f"{p.parent.name}/{p.name}" for p in files])


def scene_kind(kind: str) -> Callable[[Path], ImageSet]:
    """An OOD set of the embedded pictures, from the report stream."""
    return lambda root: SceneSet(kind, "report", 0, SCENE_OOD_COUNT)


ID_SETS: dict[str, Callable[[Path, int, int | str], IdSet]] = {"scenes": id_scenes, "cifar10": id_cifar10}

OOD_SETS: dict[str, Callable[[Path], ImageSet]] = {
    **{kind: scene_kind(kind) for kind in scenes.KINDS if kind != "id"},
    "textures": ood_textures,
}

# ID set -> its OOD sets; a near set has classes of the same kind as the ID set's, a far one has none.
BENCHMARKS: dict[str, dict[str, list[str]]] = {
    "scenes": {"near": ["seen_shapes", "new_shapes"], "far": ["texture", "noise", "letters"]},
    "cifar10": {"near": [], "far": ["textures"]},
}


@dataclass
class OodSpec:
    """One entry of ``--data.ood_sets``: its name in the report, and the set's name or folder."""

    name: str
    source: str

    @property
    def folder(self) -> str | None:
        """The path of ``folder:PATH``, or None."""
        return self.source.removeprefix("folder:") if self.source.startswith("folder:") else None


def parse_ood_specs(entries: list[str]) -> list[OodSpec]:
    """``name``, ``folder:PATH`` or ``label=`` either.

    Raises:
        InputError: unknown set, or a name twice.
    """
    specs: list[OodSpec] = []
    for entry in entries:
        before, mark, after = entry.partition("folder:")  # a path may hold an equals sign
        label, _, source = ("", "", entry) if mark and not before else (before if mark else entry).rpartition("=")
        source = mark + after if mark and before.endswith("=") else source
        spec = OodSpec("", source)
        spec.name = label or (Path(spec.folder).name if spec.folder is not None else source)
        if spec.folder is None and source not in OOD_SETS:
            raise InputError(f"--data.ood_sets: no set {source!r}; take {', '.join(OOD_SETS)} or folder:PATH")
        if spec.folder == "" or not spec.name or "=" in label:
            raise InputError(f"--data.ood_sets: {entry!r} is not a set; write NAME, folder:PATH or LABEL=folder:PATH")
        if spec.name in {s.name for s in specs} | {"id", "zero_shot"}:
            raise InputError(f"--data.ood_sets: the name {spec.name!r} is taken; write other={source}")
        specs.append(spec)
    return specs


def open_id(name: str, root: Path, seed: int, shots: int | str) -> IdSet:
    """The ID set ``name`` or ``folder:PATH`` (below the root where relative)."""
    if name.startswith("folder:"):
        return id_folder(root / name.removeprefix("folder:"))
    if name not in ID_SETS:
        raise InputError(f"--data.id: no set {name!r}; take {', '.join(ID_SETS)} or folder:PATH")
    return ID_SETS[name](root, seed, shots)


def open_ood(spec: OodSpec, root: Path) -> ImageSet:
    """An OOD set by its spec."""
    if spec.folder is not None:
        return folder_images(spec.name, root / spec.folder)
    images = OOD_SETS[spec.source](root)
    images.name = spec.name
    return images


def kind_of(id_name: str, source: str) -> str | None:
    """``near`` or ``far`` where the benchmark marks this OOD set so."""
    marks = BENCHMARKS.get(id_name, {})
    return next((kind for kind in ("near", "far") if source in marks.get(kind, [])), None)
