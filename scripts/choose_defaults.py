"""Choose MicroCLIP's defaults: the constants of every method, with equal effort, on tuning data only, seeds 11 to 13.

Tuning data: the tuning stream of ``scenes``, and images of CIFAR-10's training folder with four of ten classes left out
(six classes are ID; the left-out classes and the tuning stream's pictures are OOD). Each method has the same number of
trials, and its score is chosen by the same number: AUROC, unweighted mean over the OOD sets of both ID sets and over
seeds. No reported test set or seed is used.

    python scripts/choose_defaults.py --data $CLIPOS_DATA --out tuning-tables.md
"""

import argparse
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.image_sets import ImageSet, ModelSizeImages, SceneSet, folder_images
from clipos_lightning.evaluation.metrics import auroc
from clipos_lightning.evaluation.scores import SCORES, defined_scores
from clipos_lightning.method.prompts import ContextOptions
from clipos_lightning.method.synthesis import SynthesisOptions
from clipos_lightning.training.module import ClipOS
from clipos_lightning.types import ImageFeatures, PathName, concatenate
from clipos_lightning.utils.progress import silence_libraries

SEEDS = (11, 12, 13)
KINDS = ("seen_shapes", "new_shapes", "texture", "noise", "letters")
LEFT_OUT = ("bird", "deer", "horse", "truck")
THIN = 3  # use every third image of CIFAR-10's training folders
REGION_WEIGHTS = (0.5, 1.0, 2.0)
PATHS: frozenset[PathName] = frozenset({"clip", "vv", "local"})
WORDS, RANDOM = ContextOptions(words="a photo of a"), ContextOptions(length=8)


@dataclass
class Trial:
    """One setting of one method.

    Attributes:
        method: row of the table.
        text: the setting, for the table.
        rate: learning rate; 0: no training.
        options: options of ``ClipOS``.
    """

    method: str
    text: str
    rate: float
    options: dict[str, Any]


def trials() -> list[Trial]:
    """Sixteen settings per method, and the zero-shot detector."""
    rates = (0.0005, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
    found = [Trial("zero-shot", "no training", 0.0, {"context": WORDS})]
    for name, context in (("words", WORDS), ("random 8", RANDOM)):
        found += [Trial("CoOp", name, rate, {"objective": "none", "context": context}) for rate in rates]
        found += patch_trials("LoCoOp", "entropy", name, context)
        found += patch_trials("SCT", "sct", name, context)
    return found + [clipos(*row) for row in CLIPOS]


def patch_trials(method: str, objective: str, name: str, context: ContextOptions) -> list[Trial]:
    """Eight settings of a method that learns from ID-irrelevant patches: two outlier weights × four learning rates."""
    found = []
    for weight in (0.25, 1.0):
        options = {"objective": objective, "context": context, "outlier_weight": weight}
        found += [Trial(method, f"{name}, λ {weight}", rate, options) for rate in (0.0005, 0.002, 0.01, 0.05)]
    return found


CLIPOS = [  # context.learn, initial context, learning rate, outlier weight, synthesis level, patches
    ("shared", "words", 0.01, 0.25, "region", "relevant"),
    ("shared", "words", 0.01, 1.0, "region", "relevant"),
    ("shared", "words", 0.01, 0.25, "region", "irrelevant"),
    ("shared", "words", 0.01, 1.0, "region", "irrelevant"),
    ("shared", "words", 0.01, 0.25, "patch", "relevant"),
    ("shared", "words", 0.01, 0.25, "patch", "irrelevant"),
    ("shared", "random", 0.002, 0.25, "region", "relevant"),
    ("shared", "random", 0.002, 0.25, "region", "irrelevant"),
    ("own", "words", 0.01, 0.25, "region", "relevant"),
    ("own", "words", 0.01, 0.25, "region", "irrelevant"),
    ("unknown_only", "words", 0.01, 1.0, "region", "relevant"),
    ("unknown_only", "words", 0.01, 1.0, "region", "irrelevant"),
    ("unknown_only", "words", 0.1, 1.0, "region", "relevant"),
    ("unknown_only", "words", 0.1, 1.0, "region", "irrelevant"),
    ("unknown_only", "words", 0.1, 1.0, "patch", "irrelevant"),
    ("unknown_only", "words", 0.1, 1.0, "patch", "all"),
]


def clipos(learn: Any, start: str, rate: float, weight: float, level: Any, patches: Any) -> Trial:
    """A setting of CLIP-OS."""
    context = ContextOptions(8 if start == "random" else None, "a photo of a" if start == "words" else None, learn)
    options = {
        "context": context,
        "outlier_weight": weight,
        "synthesis": SynthesisOptions(level=level, patches=patches),
    }
    return Trial("CLIP-OS", f"{learn}, {start}, λ {weight}, {level}, {patches}", rate, options)


@dataclass
class Task:
    """An encoded tuning task.

    Attributes:
        name: of the ID set.
        data: options of ``FewShotOOD``.
        inside: features of the ID images.
        labels: their classes.
        keys: their names, to leave out few-shot images; empty strings if none is among them.
        outside: features by OOD set.
    """

    name: str
    data: dict[str, Any]
    inside: ImageFeatures
    labels: np.ndarray
    keys: list[str]
    outside: dict[str, ImageFeatures]


def encode(backbone: FrozenClip, images: ImageSet, every: int = 1) -> ImageFeatures:
    """All feature paths of every n-th image of a set."""
    sized = ModelSizeImages(images, range(0, len(images), every), backbone.image_size)
    parts = []
    for chunk in torch.arange(len(sized)).split(250):
        parts.append(backbone.encode_image(torch.stack([sized[int(i)]["image"] for i in chunk]), PATHS))
    return concatenate(parts)


def build_tasks(root: Path, scratch: Path, count: int) -> list[Task]:
    """Encode the two tasks; the folder of six classes is made of symbolic links."""
    backbone = load_backbone()
    pictures = {kind: encode(backbone, SceneSet(kind, "tune", 0, count)) for kind in KINDS}
    scenes = SceneSet("id", "tune", 0, 2 * count)
    assert scenes.labels is not None
    first = Task("scenes", {"id": "scenes"}, encode(backbone, scenes), scenes.labels, [""] * len(scenes), pictures)
    train = root / "cifar10-images" / "train"
    for name in sorted(p.name for p in train.iterdir()):
        place = scratch / ("out" if name in LEFT_OUT else "id/train") / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(train / name)
    known = FewShotOOD(root=str(scratch), id="folder:id").id_set.train
    assert known.labels is not None
    left = {"left-out classes": encode(backbone, folder_images("out", scratch / "out"), THIN)}
    data = {"id": "folder:id", "root": str(scratch)}
    return [
        first,
        Task("six of CIFAR-10", data, encode(backbone, known), known.labels, list(known.keys), left | pictures),
    ]


def train(trial: Trial, task: Task, seed: int) -> tuple[ClipOS, FewShotOOD]:
    """Train a detector for fifty epochs, as `clipos fit` does."""
    data = FewShotOOD(**task.data, seed=seed, num_workers=0)
    optimizer = partial(torch.optim.SGD, lr=trial.rate, momentum=0.9, weight_decay=5e-4)
    module = ClipOS(data.class_names, backbone="MicroCLIP", seed=seed, optimizer=optimizer, **trial.options)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    if trial.rate:
        Trainer(max_epochs=50, accelerator="cpu", enable_model_summary=False, **quiet).fit(module, data)
    return module, data


def evaluate(module: ClipOS, data: FewShotOOD, task: Task) -> tuple[float, dict[str, dict[str, float]]]:
    """ID accuracy without the few-shot images, and AUROC by score and OOD set, for every region weight."""
    drawn = {data.id_set.train.keys[i] for i in data.shot_positions} if task.keys[0] else set()
    kept = torch.tensor([i for i, key in enumerate(task.keys) if key not in drawn])
    inside, accuracy = scores_of(module, task.inside[kept], task.labels[kept])
    table: dict[str, dict[str, float]] = {name: {} for name in inside}
    for name, features in task.outside.items():
        outside, _ = scores_of(module, features, None)
        for score, values in outside.items():
            table[score][name] = auroc(inside[score], values)
    return accuracy, table


@torch.no_grad()
def scores_of(module: ClipOS, features: ImageFeatures, labels: Any) -> tuple[dict[str, np.ndarray], float]:
    """All scores, region scores with every region weight as ``name@weight``; and the accuracy in percent."""
    names = defined_scores(module.objective.unknown or not module.trained)
    values, cosine = module.head("", module.text, module.class_text, names).score(features)
    found = {n: v.numpy() for n, v in values.items() if SCORES[n].on != "region"}
    for name in (n for n in names if SCORES[n].on == "region"):
        base = found[name.replace("_region", "")]
        found |= {f"{name}@{w}": base + w * (values[name].numpy() - base) for w in REGION_WEIGHTS}
    accuracy = 100 * float((cosine.argmax(1).numpy() == labels).mean()) if labels is not None else 0.0
    return found, accuracy


def run(trial: Trial, tasks: Sequence[Task]) -> dict[str, Any]:
    """Run a trial: accuracy by task, and AUROC by score and OOD set, as means over seeds."""
    accuracy: dict[str, list[float]] = {task.name: [] for task in tasks}
    values_of: dict[str, dict[str, list[float]]] = {}
    for task in tasks:
        for seed in SEEDS if trial.rate else SEEDS[:1]:
            module, data = train(trial, task, seed)
            correct, table = evaluate(module, data, task)
            accuracy[task.name].append(correct)
            for score, row in table.items():
                for name, value in row.items():
                    values_of.setdefault(score, {}).setdefault(f"{task.name}/{name}", []).append(value)
    means = {score: {name: float(np.mean(v)) for name, v in row.items()} for score, row in values_of.items()}
    return {"trial": trial, "accuracy": {k: float(np.mean(v)) for k, v in accuracy.items()}, "auroc": means}


def best_score(result: dict[str, Any], region: bool) -> tuple[str, float]:
    """The score with the highest mean over all OOD sets, and that mean; region scores only if ``region``."""
    figures = {
        s: float(np.mean(list(row.values()))) for s, row in result["auroc"].items() if region or "region" not in s
    }
    best = max(figures, key=lambda s: figures[s])
    return best, figures[best]


def lines(results: Sequence[dict[str, Any]], tasks: Sequence[Task]) -> Iterator[str]:
    """Markdown tables: all settings, best first within each method; then all scores of each method's best setting."""
    yield (
        "| method | setting | rate | accuracy "
        + " / ".join(t.name for t in tasks)
        + " | best score | AUROC, all sets |"
    )
    yield "|---|---|---:|---|---|---:|"
    methods = list(dict.fromkeys(r["trial"].method for r in results))
    for method in methods:
        own = [r for r in results if r["trial"].method == method]
        for r in sorted(own, key=lambda r: -best_score(r, method == "CLIP-OS")[1]):
            score, figure = best_score(r, method == "CLIP-OS")
            correct = " / ".join(f"{r['accuracy'][t.name]:.1f}" for t in tasks)
            yield f"| {method} | {r['trial'].text} | {r['trial'].rate:g} | {correct} | `{score}` | {figure:.2f} |"
    yield ""
    yield "All scores of the best setting of each method; zero-shot is also CLIP-OS without training:"
    yield ""
    sets = [f"{t.name}/{name}" for t in tasks for name in t.outside]
    yield "| method | score | " + " | ".join(sets) + " | mean |"
    yield "|---|---|" + "---:|" * (len(sets) + 1)
    for method in methods:
        own = [r for r in results if r["trial"].method == method]
        best = max(own, key=lambda r: best_score(r, method == "CLIP-OS")[1])
        for score, row in best["auroc"].items():
            figures = [row[s] for s in sets]
            yield f"| {method} | `{score}` | " + " | ".join(f"{v:.1f}" for v in [*figures, np.mean(figures)]) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all trials; print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CLIPOS_DATA", "data"), help="folder with cifar10-images/")
    parser.add_argument("--count", type=int, default=300, help="pictures of each kind of scenes")
    parser.add_argument("--methods", nargs="*", help="only these methods")
    parser.add_argument("--out", help="Markdown file to write")
    given = parser.parse_args(arguments)
    if given.out and Path(given.out).exists():
        parser.error(f"--out {given.out} exists: give another file, or remove it")
    silence_libraries()
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        tasks = build_tasks(Path(given.data).absolute(), Path(scratch), given.count)
        results = []
        for trial in trials():
            if given.methods and trial.method not in given.methods:
                continue
            results.append(run(trial, tasks))
            score, figure = best_score(results[-1], trial.method == "CLIP-OS")
            print(f"{trial.method:<10}{trial.text:<55}{trial.rate:<8g}{score:<26}{figure:.2f}", flush=True)
    text = "\n".join(lines(results, tasks)) + "\n"
    Path(given.out).write_text(text, encoding="utf-8") if given.out else print(text)


if __name__ == "__main__":
    main()
