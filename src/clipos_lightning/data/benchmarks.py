"""Which sets there are: ID sets by name, OOD sets by name, and each ID set's benchmark.

A user adds a set by a line in a table below, or none: ``folder:PATH`` is any folder of images.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import InputError
from . import id_sets, ood_sets
from .id_sets import IdSet, Request, id_folder
from .image_sets import ImageSet, MissingSet, folder_images
from .scenes import KINDS

ID_SETS: dict[str, Callable[[Request], IdSet]] = {
    "scenes": id_sets.id_scenes,
    "cifar10": id_sets.id_cifar10,
    "cifar100": id_sets.id_cifar100,
    "imagenet1k": id_sets.id_imagenet1k,
    "imagenet100": id_sets.id_imagenet100,
    "eurosat": id_sets.id_eurosat,
    "medmnist": id_sets.id_medmnist,
}
OF_FOLDERS = ("imagenet1k", "imagenet100", "eurosat")  # --data.class_list picks among their class folders

OOD_SETS: dict[str, Callable[[Request], ImageSet]] = {
    **{kind: partial(ood_sets.scene_kind, kind) for kind in KINDS if kind != "id"},
    "textures": ood_sets.textures,
    "places365": ood_sets.places365,
    "svhn": ood_sets.svhn,
    "tiny_imagenet": ood_sets.tiny_imagenet,
    "cifar10": partial(ood_sets.cifar_test, "cifar10"),
    "cifar100": partial(ood_sets.cifar_test, "cifar100"),
    **{
        name: partial(ood_sets.folder, name)
        for name in ("lsun_crop", "lsun_resize", "isun", "inaturalist", "sun", "places")
    },
}

FIVE = ["textures", "places365", "lsun_crop", "lsun_resize", "isun"]  # the paper's
MOS = ["inaturalist", "sun", "places", "textures"]  # Huang and Li 2021

# ID set -> its OOD sets; a near set has classes of the same kind as the ID set's, a far one has none.
BENCHMARKS: dict[str, dict[str, list[str]]] = {
    "scenes": {"near": ["seen_shapes", "new_shapes"], "far": ["texture", "noise", "letters"]},
    "cifar10": {"near": ["cifar100", "tiny_imagenet"], "far": [*FIVE, "svhn"]},
    "cifar100": {"near": ["cifar10", "tiny_imagenet"], "far": [*FIVE, "svhn"]},
    "imagenet100": {"near": [], "far": [*FIVE, "inaturalist", "sun", "places"]},
    "imagenet1k": {"near": [], "far": MOS},
    "eurosat": {"near": [], "far": ["textures", "cifar10", "svhn"]},
    "medmnist": {"near": [], "far": ["textures", "cifar10", "svhn"]},
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

    @property
    def default_name(self) -> str:
        """Its name in the report where none is given."""
        return Path(self.folder).name if self.folder is not None else self.source

    @property
    def entry(self) -> str:
        """As it is written in ``--data.ood_sets``."""
        return self.source if self.name == self.default_name else f"{self.name}={self.source}"


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
        spec.name = label or spec.default_name
        if spec.folder is None and source not in OOD_SETS:
            raise InputError(f"--data.ood_sets: no set {source!r}; take {', '.join(OOD_SETS)} or folder:PATH")
        if spec.folder == "" or not spec.name or "=" in label:
            raise InputError(f"--data.ood_sets: {entry!r} is not a set; write NAME, folder:PATH or LABEL=folder:PATH")
        if spec.name in {s.name for s in specs} | {"id", "zero_shot"}:
            raise InputError(f"--data.ood_sets: the name {spec.name!r} is taken; write other={source}")
        specs.append(spec)
    return specs


def open_id(
    name: str, root: Path, seed: int, shots: int | str, classes: Sequence[str] | None = None, cache: bool = True
) -> IdSet:
    """The ID set ``name`` or ``folder:PATH`` (below the root where relative), of these class folders or of all.

    Raises:
        InputError: no such set, not there, or classes that it has not.
    """
    if name.startswith("folder:"):
        return id_folder(root / name.removeprefix("folder:"), classes)
    if name not in ID_SETS:
        folder = f"; for the folder {root / name}, --data.id folder:{name}" if (root / name).is_dir() else ""
        raise InputError(f"--data.id: no set {name!r}; take {', '.join(ID_SETS)} or folder:PATH{folder}")
    if classes is not None and name not in OF_FOLDERS:
        raise InputError(
            f"--data.class_list: {name} has no class folders; leave it out, or take {', '.join(OF_FOLDERS)} or "
            "folder:PATH"
        )
    return ID_SETS[name](Request(root, seed, shots, classes, cache))


def open_ood(spec: OodSpec, root: Path, cache: bool = True) -> ImageSet:
    """An OOD set by its spec."""
    if spec.folder is not None:
        return folder_images(spec.name, root / spec.folder)
    images = OOD_SETS[spec.source](Request(root, cache=cache))
    images.name = spec.name
    return images


def open_every_ood(specs: Sequence[OodSpec], root: Path, cache: bool = True) -> dict[str, ImageSet]:
    """All OOD sets, name to set.

    Raises:
        InputError: some are not there: one line that names each, what to download, and how to go on without.
    """
    opened: dict[str, ImageSet] = {}
    lacking: list[tuple[OodSpec, MissingSet]] = []
    for spec in specs:
        try:
            opened[spec.name] = open_ood(spec, root, cache)
        except MissingSet as error:
            lacking.append((spec, error))
    if lacking:
        names = ", ".join(f"{spec.name} ({error.why})" for spec, error in lacking)
        wanted = " ".join(dict.fromkeys(error.download for _, error in lacking if error.download))
        fetch = f"clipos data download {wanted} --root {shlex.quote(str(root))}, or " if wanted else ""
        rest = ",".join(spec.entry for spec in specs if spec.name in opened)
        raise InputError(
            f"OOD sets missing below {root}: {names}. {fetch}set --data.root (or $CLIPOS_DATA), or go on with those "
            f"that are there: --data.ood_sets {shlex.quote(f'[{rest}]')}"
        )
    return opened


def kind_of(id_name: str, source: str) -> str | None:
    """``near`` or ``far`` where the benchmark marks this OOD set so."""
    marks = BENCHMARKS.get(id_name, {})
    return next((kind for kind in ("near", "far") if source in marks.get(kind, [])), None)
