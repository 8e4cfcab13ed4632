"""Print the tables of ``docs/names.md``: text alone, images alone and their blend, with codes and with true names.

Every image is encoded once; each of the eleven weights is a head on these features. Nothing is trained. Test images are
used, with seeds 1, 2, ….

    python scripts/names_without_meaning.py --data $CLIPOS_DATA
    python scripts/names_without_meaning.py --data $CLIPOS_DATA --only five six --names true --shots 1 --seeds 15
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.data.datamodule import ID, FewShotOOD
from clipos_lightning.data.image_sets import ModelSizeImages
from clipos_lightning.evaluation.heads import Head
from clipos_lightning.evaluation.metrics import auroc
from clipos_lightning.evaluation.scores import ScoreOptions
from clipos_lightning.method.image_weight import VIEWS, WEIGHTS, choose_weight
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.method.prototypes import blend, class_means
from clipos_lightning.types import ImageFeatures

CODES = ("A12", "B47", "C83", "D05", "E91", "F36", "G74", "H28", "K60", "L19")
NATURAL = {
    "id": "folder:intel-scenes",
    "ood_sets": ["cifar10=folder:cifar10-images/test", "folder:textures-10class", "folder:svhn-images"],
}
FIVE = ("airplane", "automobile", "cat", "frog", "ship")  # of CIFAR-10, as ID classes
SIX = (*FIVE, "dog")
TEMPLATE = "a photo of a {}."
Figures = np.ndarray[Any, Any]  # (weights, 2): accuracy and AUROC in percent


@dataclass
class Task:
    """An encoded test.

    Attributes:
        name: of the ID set.
        data: options of ``FewShotOOD``, also for the few-shot draw.
        class_names: true names.
        features: global features of the ID set and of each OOD set.
        labels: classes of the ID images.
    """

    name: str
    data: dict[str, Any]
    class_names: list[str]
    features: dict[str, Tensor]
    labels: np.ndarray[Any, Any]


def encode(backbone: FrozenClip, images: Tensor) -> Tensor:
    """Global features (N, D), some images at a time."""
    return torch.cat([backbone.encode_image(part).cls for part in images.split(250)])


def open_task(backbone: FrozenClip, name: str, options: dict[str, Any]) -> Task:
    """Encode all test images of a data set."""
    data = FewShotOOD(**options, num_workers=0)
    features: dict[str, Tensor] = {}
    labels: np.ndarray[Any, Any] = np.empty(0)
    for key, (images, positions) in data.open_test_sets().items():
        sized, parts = ModelSizeImages(images, positions, backbone.preprocessing), []
        for chunk in torch.arange(len(sized)).split(250):
            parts.append(encode(backbone, torch.stack([sized[int(i)]["image"] for i in chunk])))
        features[key] = torch.cat(parts)
        if key == ID:
            assert images.labels is not None
            labels = images.labels[positions]
    return Task(name, options, data.class_names, features, labels)


def some_of_cifar10(root: Path, folder: Path, known: Sequence[str]) -> dict[str, Any]:
    """Options of a data set of symbolic links: the known classes as ID, the test images of the others as an OOD set."""
    for split in ("train", "test"):
        for images in sorted((root / "cifar10-images" / split).iterdir()):
            place = folder / (f"id/{split}" if images.name in known else f"out/{split}") / images.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(images)
    for name in ("textures-10class", "svhn-images"):
        (folder / name).symlink_to(root / name)
    return {
        "root": str(folder),
        "cache": False,
        "id": "folder:id",
        "ood_sets": ["left-out=folder:out/test", "folder:textures-10class", "folder:svhn-images"],
    }


def id_sets(root: Path | None, links: Path) -> dict[str, dict[str, Any]]:
    """Options of each ID set by its name (``--only`` takes the first word); image folders only with a root."""
    found: dict[str, dict[str, Any]] = {"scenes": {"id": "scenes"}}
    if root:
        found["natural scenes"] = {"root": str(root), "cache": False, **NATURAL}
        found["five of CIFAR-10"] = some_of_cifar10(root, links / "five", FIVE)
        found["six of CIFAR-10"] = some_of_cifar10(root, links / "six", SIX)
    return found


def names_of(kind: str, true: Sequence[str]) -> list[str]:
    """Class names: the true ones, codes, or (``half``) a code for every second class."""
    coded = {"codes": range(len(true)), "half": range(1, len(true), 2), "true": ()}[kind]
    return [CODES[i] if i in coded else name for i, name in enumerate(true)]


def draw_views(backbone: FrozenClip, task: Task, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of the views of the few-shot images (N, V, D), and their labels (N,)."""
    data = FewShotOOD(**task.data, shots=shots, seed=seed, num_workers=0)
    data.image_size = backbone.image_size
    data.setup("fit")
    count = len(data.shot_positions)
    images = data.shot_images(torch.arange(VIEWS * count))
    return encode(backbone, images).view(VIEWS, count, -1).transpose(0, 1), data.shot_labels[:count]


def figures(backbone: FrozenClip, task: Task, text: Tensor, means: Tensor) -> Figures:
    """For each weight: ID accuracy, and AUROC of the energy as the mean over OOD sets."""
    rows = []
    for weight in WEIGHTS:
        blended, scale = blend(text, means, weight), float(backbone.scale)
        head = Head("", blended, blended, scale, ["energy"], backbone.surgery, MaskOptions(), ScoreOptions())
        found = {name: head.score(ImageFeatures(cls)) for name, cls in task.features.items()}
        correct = found[ID][1].argmax(1).numpy() == task.labels
        inside = found[ID][0]["energy"].numpy()
        areas = [auroc(inside, scores["energy"].numpy()) for name, (scores, _) in found.items() if name != ID]
        rows.append((100 * correct.mean(), np.mean(areas)))
    return np.array(rows)


def table(
    backbone: FrozenClip, task: Task, named: str, shot_counts: Sequence[int], seeds: Sequence[int]
) -> Iterator[str]:
    """Rows of the table, one for each number of shots, with means over seeds."""
    names = names_of(named, task.class_names)
    text = backbone.encode_text([TEMPLATE.format(name) for name in names])
    for shots in shot_counts:
        each, chosen = [], []
        for seed in seeds:
            views, labels = draw_views(backbone, task, shots, seed)
            each.append(figures(backbone, task, text, class_means(views[:, 0], labels, len(names))))
            chosen.append(WEIGHTS.index(choose_weight(views, labels, text, float(backbone.scale)).weight))
        mean = np.mean(each, 0)
        auto = np.mean([one[i] for one, i in zip(each, chosen, strict=True)], 0)
        best = mean.argmax(0)
        weights = ", ".join(f"{WEIGHTS[i]:g} × {times}" for i, times in sorted(Counter(chosen).items()))
        columns = [pair(mean[0]), pair(mean[-1]), f"**{pair(auto)}**", weights]
        fixed = (f"{mean[i, column]:.1f} ({WEIGHTS[i]:g})" for column, i in enumerate(best))
        yield f"| {task.name} | {named} | {shots} | {' | '.join([*columns, *fixed])} |"


def pair(values: Sequence[float]) -> str:
    """``accuracy / AUROC`` as text."""
    return f"{values[0]:.1f} / {values[1]:.1f}"


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        help="folder with cifar10-images/, intel-scenes/, textures-10class/ and svhn-images/; without it: scenes only",
    )
    parser.add_argument("--limit", type=int, default=1000, help="images of each test set (default 1000)")
    parser.add_argument("--backbone", default="MicroCLIP")
    parser.add_argument(
        "--only", nargs="+", choices=["scenes", "natural", "five", "six"], help="ID sets (default: all)"
    )
    parser.add_argument("--names", nargs="+", choices=["codes", "half", "true"], default=["codes", "half", "true"])
    parser.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8], help="images per class (default 1 2 4 8)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 1 (default 3)")
    given = parser.parse_args(arguments)
    if given.data and not (given.data / "cifar10-images").is_dir():
        parser.error(f"--data {given.data} has no folder cifar10-images/")
    if not given.data and set(given.only or ()) - {"scenes"}:
        parser.error("--only: without --data only scenes is available")
    backbone = load_backbone(given.backbone)
    print("| ID set | names | shots | text alone | images alone | auto | its weights | best accuracy | best AUROC |")
    print("|---|---|---:|---:|---:|---:|---|---:|---:|")
    with tempfile.TemporaryDirectory() as links:
        for name, options in id_sets(given.data and given.data.absolute(), Path(links)).items():
            if given.only and name.split()[0] not in given.only:
                continue
            task = open_task(backbone, name, {**options, "limit_per_set": given.limit})
            for named in given.names:
                for row in table(backbone, task, named, given.shots, range(1, given.seeds + 1)):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
