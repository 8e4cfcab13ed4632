"""Print the tables behind the defaults for user-defined classes: the rule of ``image_weight auto``, and the score.

Tuning data only, seeds from 11: pictures of the tuning stream of ``scenes``, and images of the training folders of
CIFAR-10 and of natural scenes. Each task takes some classes of a pool as ID, with their true names or with codes, and
1 to 16 images of each; other classes of the pool are near-OOD, other pools are far-OOD. Nothing is trained.

    python scripts/choose_own_class_defaults.py --data $CLIPOS_DATA --table weight
    python scripts/choose_own_class_defaults.py --data $CLIPOS_DATA --table score
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.data.scenes import COLORS, ID_SHAPES, NEW_SHAPES, SEEN_SHAPES, STREAMS, render, render_scene
from clipos_lightning.data.transforms import to_model_size, view, view_rng
from clipos_lightning.evaluation.heads import Head
from clipos_lightning.evaluation.metrics import auroc
from clipos_lightning.evaluation.score_names import defined_scores
from clipos_lightning.evaluation.scores import SCORES, ScoreOptions
from clipos_lightning.method.image_weight import VIEWS, WEIGHTS, best_weight, choose_weight, measure_weights
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.method.prototypes import blend, class_means
from clipos_lightning.types import ImageFeatures, concatenate

FIRST_SEED, SHOTS, HELD_BACK, REMEMBERED, MOST = 11, (1, 2, 4, 8, 16), 16, 300, 400
REGION_WEIGHT = 0.5  # MicroCLIP's (docs/tuning.md)
Picture = tuple[Image.Image, str, str]  # image, class, key
Rule = Callable[[Tensor], float]


@dataclass
class Pool:
    """Encoded images: all paths (N), and the global features of the views (N, V, D) of labelled ones; classes (N)."""

    features: ImageFeatures
    views: Tensor
    labels: np.ndarray[Any, Any]

    @property
    def classes(self) -> list[str]:
        """The classes, sorted."""
        return sorted(set(self.labels.tolist()))


@dataclass
class Task:
    """ID classes of a pool, by how many; the pools that are far-OOD."""

    name: str
    pool: str
    classes: int
    outside: tuple[str, ...]


TASKS = (
    Task("two shapes", "shapes", 2, ("seen", "texture", "letters")),
    Task("ten shapes", "shapes", 10, ("seen", "new", "texture", "noise", "letters")),
    Task("two of CIFAR-10", "cifar", 2, ("texture", "shapes")),
    Task("six of CIFAR-10", "cifar", 6, ("texture", "shapes", "noise")),
    Task("20 coloured shapes", "coloured", 20, ("new", "texture", "letters")),
    Task("100 coloured shapes", "coloured", 100, ("new", "texture", "letters")),
    Task("two new shapes", "new", 2, ("shapes", "texture", "letters")),
    Task("ten new shapes", "new", 10, ("shapes", "texture", "letters")),
    Task("two natural scenes", "natural", 2, ("cifar", "shapes", "texture")),
    Task("six natural scenes", "natural", 6, ("cifar", "shapes", "texture")),
)


# ---- pools


def shapes(names: Sequence[str], count: int, kind: int) -> Iterator[Picture]:
    """Pictures of each shape from the tuning stream."""
    for i, name in enumerate(names):
        for n in range(count):
            rng = np.random.default_rng((STREAMS["tune"], 1, kind, i, n))
            yield Image.fromarray(render_scene(rng, name).image), name, str(n)


def coloured(count: int) -> Iterator[Picture]:
    """Pictures of each of twenty shapes in each of five colours; the class is "red star"."""
    for (i, name), color in product(enumerate(ID_SHAPES + SEEN_SHAPES), list(COLORS)[:5]):
        found, attempt = 0, 0
        while found < count:
            rng = np.random.default_rng((STREAMS["tune"], 2, list(COLORS).index(color), i, attempt))
            scene, attempt = render_scene(rng, name), attempt + 1
            if scene.color == color:
                yield Image.fromarray(scene.image), f"{color} {name}", str(found)
                found += 1


def folder(root: Path, count: int) -> Iterator[Picture]:
    """The first images of each class folder."""
    for place in sorted(path for path in root.iterdir() if path.is_dir()):
        for file in sorted(place.iterdir())[:count]:
            yield Image.open(file).convert("RGB"), place.name.replace("_", " "), file.name


def without_class(kind: str, count: int) -> Iterator[Picture]:
    """Pictures of a kind of ``scenes`` that are no class."""
    for n in range(count):
        yield Image.fromarray(render(kind, "tune", 0, n).image), "", str(n)


def encode_pool(backbone: FrozenClip, pictures: Iterator[Picture]) -> Pool:
    """Encode images, and their views if they have classes."""
    preprocessing, given = backbone.preprocessing, list(pictures)
    batches = torch.stack([to_model_size(image, preprocessing) for image, _, _ in given]).split(250)
    features = concatenate([backbone.encode_image(batch, frozenset({"clip", "vv"})) for batch in batches])
    views = [features.cls]
    for v in range(1, VIEWS if given[0][1] else 1):
        rngs = (view_rng(1, label, key, v) for _, label, key in given)
        crops = torch.stack([view(image, preprocessing, rng) for (image, *_), rng in zip(given, rngs, strict=True)])
        views.append(torch.cat([backbone.encode_image(batch).cls for batch in crops.split(250)]))
    return Pool(features, torch.stack(views, 1), np.array([label for _, label, _ in given]))


def encode_pools(backbone: FrozenClip, data: Path) -> dict[str, Pool]:
    """All pools by name."""
    pictures = {
        "shapes": shapes(ID_SHAPES, 60, 0),
        "seen": shapes(SEEN_SHAPES, 30, 1),
        "new": shapes(NEW_SHAPES, 60, 2),
        "coloured": coloured(24),
        "cifar": folder(data / "cifar10-images/train", 150),
        "natural": folder(data / "intel-scenes/train", 40),
        **{kind: without_class(kind, 300) for kind in ("texture", "noise", "letters")},
    }
    return {name: encode_pool(backbone, images) for name, images in pictures.items()}


# ---- draws


@dataclass
class Draw:
    """A task with its names, few-shot images and test images, by position in its pool.

    Attributes:
        task: the task.
        named: ``true`` or ``codes``.
        shots: images per class.
        text: class prompts, (C, D).
        shot, shot_labels: few-shot images and their classes.
        known, known_labels: other images of the classes, in random order.
        near: some images of the pool's other classes.
    """

    task: Task
    named: str
    shots: int
    text: Tensor
    shot: np.ndarray[Any, Any]
    shot_labels: Tensor
    known: np.ndarray[Any, Any]
    known_labels: np.ndarray[Any, Any]
    near: np.ndarray[Any, Any]


def codes(count: int) -> list[str]:
    """Class names without meaning."""
    rng = np.random.default_rng(5)
    return [f"{chr(65 + int(rng.integers(26)))}{int(rng.integers(10, 999))}" for _ in range(count)]


def draws(backbone: FrozenClip, pools: dict[str, Pool], seeds: Sequence[int], shots: Sequence[int]) -> Iterator[Draw]:
    """Every task with true names and codes, each number of shots, and each seed."""
    for task, seed, named in product(TASKS, seeds, ("true", "codes")):
        pool = pools[task.pool]
        rng = np.random.default_rng((seed, task.classes))
        chosen = [pool.classes[i] for i in rng.choice(len(pool.classes), task.classes, replace=False)]
        names = chosen if named == "true" else codes(task.classes)
        text = backbone.encode_text([f"a photo of a {name}." for name in names])
        order = [rng.permutation(np.flatnonzero(pool.labels == name)) for name in chosen]
        known = [(i, c) for c, rows in enumerate(order) for i in rows[HELD_BACK:]]
        rng.shuffle(known)
        near = np.flatnonzero(~np.isin(pool.labels, chosen))[::3][:MOST]
        for k in shots:
            shot = np.concatenate([rows[:k] for rows in order])
            labels = torch.arange(task.classes).repeat_interleave(k)
            rest = np.array(known)
            yield Draw(task, named, k, text, shot, labels, rest[:, 0], rest[:, 1], near)


def outside(draw: Draw, pools: dict[str, Pool]) -> Iterator[tuple[str, ImageFeatures]]:
    """``near`` or ``far``, and features of the OOD images."""
    if len(draw.near):
        yield "near", pools[draw.task.pool].features[torch.from_numpy(draw.near)]
    for name in draw.task.outside:
        yield "far", pools[name].features[:MOST]


# ---- the rule of the image weight


def nearest_end(quality: Tensor, margin: float) -> float:
    """Images alone if they are better than text alone by more than ``margin`` standard errors, else text alone."""
    gap = quality[-1] - quality[0]
    return float(gap.mean() > margin * gap.std(correction=0) / len(gap) ** 0.5 + 1e-6)


RULES: dict[str, Rule] = {
    "the rule": best_weight,
    "better end": lambda quality: nearest_end(quality, 0),
    "images only if better by 1 standard error": lambda quality: nearest_end(quality, 1),
    "images only if better by 2 standard errors": lambda quality: nearest_end(quality, 2),
    "best of the eleven": lambda quality: WEIGHTS[int(quality.mean(1).argmax())],
    "text alone": lambda quality: 0.0,
    "images alone": lambda quality: 1.0,
}


def true_worth(draw: Draw, pools: dict[str, Pool], scale: float) -> np.ndarray[Any, Any]:
    """Accuracy and AUROC of the energy at each weight on other images, (11, 2), in percent."""
    pool = pools[draw.task.pool]
    means = class_means(pool.features.cls[draw.shot], draw.shot_labels, draw.task.classes)
    rows = []
    for weight in WEIGHTS:
        text = blend(draw.text, means, weight)
        logits = scale * pool.features.cls[draw.known] @ text.T
        inside = logits.logsumexp(1).numpy()
        areas = [auroc(inside, (scale * f.cls @ text.T).logsumexp(1).numpy()) for _, f in outside(draw, pools)]
        rows.append((100 * (logits.argmax(1).numpy() == draw.known_labels).mean(), np.mean(areas)))
    return np.array(rows)


def weight_tables(backbone: FrozenClip, pools: dict[str, Pool], seeds: Sequence[int]) -> Iterator[str]:
    """Rules compared; then the rule on every task."""
    scale, found = float(backbone.scale), []
    for draw in draws(backbone, pools, seeds, SHOTS):
        views = pools[draw.task.pool].views[draw.shot]
        quality = measure_weights(views, draw.shot_labels, draw.text, scale).mean(-1)
        found.append((draw, quality, true_worth(draw, pools, scale)))
    yield f"{len(found)} draws. Loss: (accuracy + AUROC) / 2, that of the better of text and images minus the rule's."
    yield ""
    yield "| rule | accuracy | AUROC | loss | true names, 1 / 2 / 4 / 8 / 16 shots | codes | worst 5 % of draws |"
    yield "|---|---:|---:|---:|---|---|---:|"
    for name, rule in RULES.items():
        got = np.array([worth[WEIGHTS.index(rule(quality))] for _, quality, worth in found])
        loss = np.array([worth[[0, -1]].mean(1).max() for _, _, worth in found]) - got.mean(1)
        parts = [
            " / ".join(f"{loss[[d.named == kind and d.shots == k for d, _, _ in found]].mean():.1f}" for k in SHOTS)
            for kind in ("true", "codes")
        ]
        worst = np.sort(loss)[-max(1, len(loss) // 20) :].mean()
        yield f"| {name} | {got[:, 0].mean():.1f} | {got[:, 1].mean():.1f} | {loss.mean():.2f} | " + " | ".join(
            [*parts, f"{worst:.1f} |"]
        )
    yield ""
    yield "| ID classes | names | shots | text alone | images alone | the rule | its weights |"
    yield "|---|---|---:|---:|---:|---:|---|"
    groups: dict[tuple[str, str, int], list[tuple[float, np.ndarray[Any, Any]]]] = defaultdict(list)
    for draw, quality, worth in found:
        groups[draw.task.name, draw.named, draw.shots].append((best_weight(quality), worth))
    for (task, named, k), rows in groups.items():
        ends = [np.mean([worth[i] for _, worth in rows], 0) for i in (0, -1)]
        got = np.mean([worth[WEIGHTS.index(weight)] for weight, worth in rows], 0)
        weights = ", ".join(f"{w:g} × {n}" for w, n in sorted(Counter(weight for weight, _ in rows).items()))
        yield f"| {task} | {named} | {k} | {pair(ends[0])} | {pair(ends[1])} | **{pair(got)}** | {weights} |"


def pair(values: Sequence[float]) -> str:
    """``accuracy / AUROC`` as text."""
    return f"{values[0]:.1f} / {values[1]:.1f}"


# ---- the score


def score_aurocs(backbone: FrozenClip, pools: dict[str, Pool], draw: Draw) -> dict[str, dict[str, float]]:
    """Score to AUROC near and far, with the few-shot images alone and, as ``… + memory``, with unlabelled ID images."""
    pool, scale = pools[draw.task.pool], float(backbone.scale)
    chosen = choose_weight(pool.views[draw.shot], draw.shot_labels, draw.text, scale)
    shot = pool.features[torch.from_numpy(draw.shot)]
    text = blend(draw.text, class_means(shot.cls, draw.shot_labels, draw.task.classes), chosen.weight)
    options = (backbone.surgery, MaskOptions(), ScoreOptions(region_weight=REGION_WEIGHT))
    empty = Head("", text, text, scale, [], *options)
    half = min(len(draw.known) // 2, REMEMBERED)
    memory = empty.remember(shot, draw.shot_labels)
    more = concatenate([memory, empty.remember(pool.features[torch.from_numpy(draw.known[:half])])])
    inside = pool.features[torch.from_numpy(draw.known[half : half + MOST])]
    found: dict[str, dict[str, float]] = {}
    for suffix, known in (("", memory), (" + memory", more)):
        names = [n for n in defined_scores(False, has_memory=True) if SCORES[n].on != "local"]
        names = names if not suffix else [n for n in names if SCORES[n].memory]
        for name, areas in head_aurocs(
            Head("", text, text, scale, names, *options, known), inside, draw, pools
        ).items():
            found[name + suffix] = areas
    return found


def head_aurocs(head: Head, inside: ImageFeatures, draw: Draw, pools: dict[str, Pool]) -> dict[str, dict[str, float]]:
    """Score to mean AUROC near and far."""
    known, areas = head.score(inside)[0], {name: defaultdict[str, list[float]](list) for name in head.scores}
    for kind, features in outside(draw, pools):
        for name, values in head.score(features)[0].items():
            areas[name][kind].append(auroc(known[name].numpy(), values.numpy()))
    return {name: {kind: float(np.mean(v)) for kind, v in part.items()} for name, part in areas.items()}


def score_table(backbone: FrozenClip, pools: dict[str, Pool], seeds: Sequence[int]) -> Iterator[str]:
    """Scores by mean AUROC over tasks, seeds, names and shots; near and far count the same."""
    found = [(draw, score_aurocs(backbone, pools, draw)) for draw in draws(backbone, pools, seeds, SHOTS)]
    yield f"{len(found)} draws, region weight {REGION_WEIGHT}, up to {REMEMBERED} unlabelled ID images as memory."
    yield ""
    yield "| score | AUROC | near | far | 1 / 2 / 4 / 8 / 16 shots | true names | codes |"
    yield "|---|---:|---:|---:|---|---:|---:|"

    def mean(score: str, value: object = None, kinds: Sequence[str] = ("near", "far")) -> float:
        kept = [areas[score] for draw, areas in found if value in (None, draw.shots, draw.named)]
        parts = [[areas[kind] for kind in kinds if kind in areas] for areas in kept]
        return float(np.mean([np.mean(part) for part in parts if part]))

    for score in sorted(found[0][1], key=mean, reverse=True):
        by_shots = " / ".join(f"{mean(score, k):.1f}" for k in SHOTS)
        figures = [f"{x:.1f}" for x in (mean(score), mean(score, kinds=["near"]), mean(score, kinds=["far"]))]
        by_name = [f"{mean(score, named):.1f}" for named in ("true", "codes")]
        yield f"| {score} | {' | '.join([*figures, by_shots, *by_name])} |"


@torch.no_grad()
def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "folder with cifar10-images/train/ and intel-scenes/train/"
    parser.add_argument("--data", type=Path, required=True, help=text)
    parser.add_argument("--table", choices=["weight", "score"], required=True)
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds, from 11 (default 10)")
    given = parser.parse_args(arguments)
    for name in ("cifar10-images/train", "intel-scenes/train"):
        if not (given.data / name).is_dir():
            parser.error(f"--data {given.data} has no folder {name}/")
    backbone = load_backbone()
    pools = encode_pools(backbone, given.data)
    tables = {"weight": weight_tables, "score": score_table}
    for line in tables[given.table](backbone, pools, range(FIRST_SEED, FIRST_SEED + given.seeds)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
