"""The registry of data sets: ID sets by name, OOD sets by name, and the OOD sets of each ID set's benchmark.

A new set is one line in each of these tables. Folders of images need none: ``folder:PATH`` works as it is.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import InputError
from ..options.configs import suggest
from . import id_sets, ood_sets
from .classnames import CIFAR10, CIFAR100
from .id_sets import IdSet, Request, id_folder
from .image_sets import ImageSet, MissingSet, folder_images
from .scenes import KINDS
from .styles import PHOTO, STYLES


def in_style(name: str, style: str) -> str:
    """Name of a set of ``scenes`` in a style: ``scenes`` as photos, ``scenes-sketch`` as sketches."""
    return name if style == PHOTO else f"{name}-{style}"


SCENE_STYLES = (PHOTO, *STYLES)
ID_SETS: dict[str, Callable[[Request], IdSet]] = {
    **{(name := in_style("scenes", style)): partial(id_sets.id_scenes, name, style) for style in SCENE_STYLES},
    "cifar10": partial(id_sets.id_cifar, "cifar10", CIFAR10),
    "cifar100": partial(id_sets.id_cifar, "cifar100", CIFAR100),
    "imagenet1k": id_sets.id_imagenet1k,
    "imagenet100": id_sets.id_imagenet100,
    "eurosat": id_sets.id_eurosat,
    "medmnist": id_sets.id_medmnist,
}
FOLDER_ID_SETS = ("imagenet1k", "imagenet100", "eurosat")  # --data.class_list can select among their class folders

OOD_SETS: dict[str, Callable[[Request], ImageSet]] = {
    **{
        in_style(kind, style): partial(ood_sets.ood_scenes, kind, style)
        for style in SCENE_STYLES
        for kind in KINDS
        if kind != "id"
    },
    "textures": ood_sets.ood_textures,
    "places365": ood_sets.ood_places365,
    "svhn": ood_sets.ood_svhn,
    "tiny_imagenet": ood_sets.ood_tiny_imagenet,
    "cifar10": partial(ood_sets.ood_cifar, "cifar10"),
    "cifar100": partial(ood_sets.ood_cifar, "cifar100"),
    **{
        name: partial(ood_sets.ood_folder, name)
        for name in ("lsun_crop", "lsun_resize", "isun", "inaturalist", "sun", "places")
    },
}

CLIPOS_OOD = ["textures", "places365", "lsun_crop", "lsun_resize", "isun"]  # the paper's
MOS_OOD = ["inaturalist", "sun", "places", "textures"]  # Huang and Li 2021
NEAR_SCENES, FAR_SCENES = ["seen_shapes", "new_shapes"], ["texture", "noise", "letters"]

# ID set -> its OOD sets. Near sets have classes of the same kind as the ID classes (OpenOOD's terms), far sets do not.
BENCHMARKS: dict[str, dict[str, list[str]]] = {
    **{
        in_style("scenes", style): {
            "near": [in_style(kind, style) for kind in NEAR_SCENES],
            "far": [in_style(kind, style) for kind in FAR_SCENES],
        }
        for style in SCENE_STYLES
    },
    "cifar10": {"near": ["cifar100", "tiny_imagenet"], "far": [*CLIPOS_OOD, "svhn"]},
    "cifar100": {"near": ["cifar10", "tiny_imagenet"], "far": [*CLIPOS_OOD, "svhn"]},
    "imagenet100": {"near": [], "far": [*CLIPOS_OOD, "inaturalist", "sun", "places"]},
    "imagenet1k": {"near": [], "far": MOS_OOD},
    "eurosat": {"near": [], "far": ["textures", "cifar10", "svhn"]},
    "medmnist": {"near": [], "far": ["textures", "cifar10", "svhn"]},
}


@dataclass
class OodSpec:
    """One entry of ``--data.ood_sets``.

    Attributes:
        name: name of the set in reports.
        source: a key of ``OOD_SETS``, or ``folder:PATH``.
    """

    name: str
    source: str

    @property
    def folder(self) -> str | None:
        """PATH of ``folder:PATH``; None for a set of ``OOD_SETS``."""
        return self.source.removeprefix("folder:") if self.source.startswith("folder:") else None

    @property
    def default_name(self) -> str:
        """The name in reports if the entry gives none: the folder's name, or the set's."""
        return Path(self.folder).name if self.folder is not None else self.source

    @property
    def entry(self) -> str:
        """The entry as written in ``--data.ood_sets``."""
        return self.source if self.name == self.default_name else f"{self.name}={self.source}"


def parse_ood_specs(entries: list[str]) -> list[OodSpec]:
    """Parse the entries of ``--data.ood_sets``: ``NAME``, ``folder:PATH``, or either with ``LABEL=`` in front.

    Raises:
        InputError: an entry has another form, the set is unknown, or two sets have the same name.

    >>> parse_ood_specs(["textures", "digits=folder:svhn/test"])
    [OodSpec(name='textures', source='textures'), OodSpec(name='digits', source='folder:svhn/test')]
    """
    specs: list[OodSpec] = []
    for entry in entries:
        before, mark, after = entry.partition("folder:")  # a path may contain an equals sign
        label, _, source = ("", "", entry) if mark and not before else (before if mark else entry).rpartition("=")
        source = mark + after if mark and before.endswith("=") else source
        spec = OodSpec("", source)
        spec.name = label or spec.default_name
        if spec.folder is None and source not in OOD_SETS:
            plain = [name for name in OOD_SETS if "-" not in name]
            raise InputError(
                f"--data.ood_sets: unknown set {source!r}; use {', '.join(plain)} or folder:PATH (sets of scenes also "
                f"in a style, such as new_shapes-sketch: {', '.join(STYLES)}){suggest(source, OOD_SETS)}"
            )
        if spec.folder == "" or not spec.name or "=" in label:
            raise InputError(f"--data.ood_sets: {entry!r} is not a set; write NAME, folder:PATH or LABEL=folder:PATH")
        if spec.name in {s.name for s in specs} | {"id", "zero_shot"}:
            raise InputError(f"--data.ood_sets: the name {spec.name!r} is taken; write LABEL={source}")
        specs.append(spec)
    return specs


def open_id(
    name: str, root: Path, seed: int, shots: int | str, classes: Sequence[str] | None = None, cache: bool = True
) -> IdSet:
    """Open an ID set.

    Args:
        name: a key of ``ID_SETS``, or ``folder:PATH``.
        root: the data root; named sets and relative paths are below it.
        seed: seed of the few-shot draw, by which ``scenes`` renders its training pictures.
        shots: images per class, or ``all``.
        classes: class folders to use; None: all.
        cache: whether decoded images are cached below the root.

    Raises:
        InputError: the set is unknown, is not below the root, or lacks one of the classes.

    >>> opened = open_id("scenes", Path("data"), seed=1, shots=1)
    >>> opened.class_names[:3], len(opened.train), len(opened.test)
    (['circle', 'square', 'triangle'], 10000, 1000)
    """
    if name.startswith("folder:"):
        return id_folder(root / name.removeprefix("folder:"), classes)
    if name not in ID_SETS:
        folder = f"; for the folder {root / name}: --data.id folder:{name}" if (root / name).is_dir() else ""
        hint = suggest(name, ID_SETS)
        raise InputError(f"--data.id: unknown set {name!r}; use {', '.join(ID_SETS)} or folder:PATH{folder}{hint}")
    if classes is not None and name not in FOLDER_ID_SETS:
        raise InputError(
            f"--data.class_list: {name} has no class folders; omit the option, or use {', '.join(FOLDER_ID_SETS)} or "
            "folder:PATH"
        )
    return ID_SETS[name](Request(root, seed, shots, classes, cache))


def open_ood(spec: OodSpec, root: Path, cache: bool = True) -> ImageSet:
    """Open an OOD set.

    Raises:
        MissingSet: it is not below the root.
        InputError: it cannot be read.
    """
    if spec.folder is not None:
        return folder_images(spec.name, root / spec.folder)
    images = OOD_SETS[spec.source](Request(root, cache=cache))
    images.name = spec.name
    return images


def open_ood_sets(specs: Sequence[OodSpec], root: Path, cache: bool = True) -> dict[str, ImageSet]:
    """Open all OOD sets: name in reports to set.

    Raises:
        InputError: some sets are missing; the message names all of them, the command that downloads them, and the
            ``--data.ood_sets`` without them.
    """
    opened: dict[str, ImageSet] = {}
    missing: list[tuple[OodSpec, MissingSet]] = []
    for spec in specs:
        try:
            opened[spec.name] = open_ood(spec, root, cache)
        except MissingSet as error:
            missing.append((spec, error))
    if missing:
        names = ", ".join(f"{spec.name} ({error.why})" for spec, error in missing)
        downloads = " ".join(dict.fromkeys(error.download for _, error in missing if error.download))
        fetch = f"clipos data download {downloads} --root {shlex.quote(str(root))}, or " if downloads else ""
        rest = ",".join(spec.entry for spec in specs if spec.name in opened)
        raise InputError(
            f"OOD sets missing below {root}: {names}. {fetch}set --data.root (or $CLIPOS_DATA), or continue with "
            f"the others: --data.ood_sets {shlex.quote(f'[{rest}]')}"
        )
    return opened


def kind_of(id_name: str, source: str) -> str | None:
    """``near`` or ``far``, as the benchmark of the ID set marks an OOD set; None if it is not part of the benchmark."""
    marks = BENCHMARKS.get(id_name, {})
    return next((kind for kind in ("near", "far") if source in marks.get(kind, [])), None)
