"""Choose MicroCLIP's defaults: the constants of every method, with equal effort, on tuning data only, seeds 11 to 13.

The tuning tasks are in `tuning_tasks.py`: no reported test set, style or seed is used. The rule:

1. Each method has the same number of settings (`trials`), each trained and evaluated with every seed: 24 over a wide
   range, then 8 near the best of these.
2. AUROC is averaged over seeds and over the OOD sets of a kind: near and far of each ID set.
3. A setting is admissible with a score if on each kind of photos it is at most 0.3 points behind the best score of the
   literature without training (the one with the highest mean over the kinds of photos; no region score). Scores without
   an admissible setting are out, unless all are.
4. For each score, the admissible setting with the highest mean over all kinds. Region scores are CLIP-OS's, trained or
   not.
5. Of these scores, the one with the best mean rank over the kinds: no single kind decides.

    python scripts/choose_defaults.py --data $CLIPOS_DATA --photos $CLIPOS_PRETRAIN --results tuning --out tables.md
"""

import argparse
import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lightning.pytorch import Trainer
from scipy.stats import rankdata
from tuning_tasks import Task, build_tasks

from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.evaluation.metrics import auroc
from clipos_lightning.evaluation.score_names import defined_scores
from clipos_lightning.evaluation.scores import find_score
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.method.prompts import ContextOptions
from clipos_lightning.method.synthesis import SynthesisOptions
from clipos_lightning.training.module import ClipOS
from clipos_lightning.training.shots import Shots
from clipos_lightning.types import ImageFeatures
from clipos_lightning.utils.files import write_text
from clipos_lightning.utils.progress import silence_libraries

SEEDS = (11, 12, 13)
REGION_WEIGHTS = (0.25, 0.5, 1.0)
DEPTH = 3
SLACK = 0.3  # points of AUROC that a setting may lose on photos
RATES = (0.0005, 0.01, 0.1, 0.5, 2.0, 5.0)
WORDS = "a photo of a"

Figures = dict[str, dict[str, float]]  # score to OOD set, or to kind of OOD sets, to AUROC in percent


@dataclass
class Trial:
    """One setting of one method.

    Attributes:
        method: row of the table.
        text: the setting, for the table.
        rate: learning rate; 0: no training.
        options: options of `ClipOS`.
        epochs: of one step each.
    """

    method: str
    text: str
    rate: float
    options: dict[str, Any]
    epochs: int = 50

    @property
    def name(self) -> str:
        """Name of its file of results."""
        return "".join(c if c.isalnum() or c in ".-" else "_" for c in f"{self.method}-{self.text}-{self.rate:g}")


def start(name: str, learn: Any = "shared") -> ContextOptions:
    """A context that starts from words, or from eight random tokens."""
    return ContextOptions(words=WORDS, learn=learn) if name == "words" else ContextOptions(length=8, learn=learn)


def trials() -> list[Trial]:
    """32 settings per method, and the zero-shot detector."""
    return wide() + near_the_best() + family_trials()


def wide() -> list[Trial]:
    """24 settings per method over a wide range, and the zero-shot detector."""
    found = [Trial("zero-shot", "no training", 0.0, {"context": start("words")})]
    for name in ("words", "random 8"):
        options = {"objective": "none", "context": start(name)}
        found += [Trial("CoOp", name, rate, options) for rate in RATES]
        found += [Trial("CoOp", f"{name}, 200 steps", rate, options, 200) for rate in RATES]
        for method, objective in (("LoCoOp", "entropy"), ("SCT", "sct")):
            for weight in (0.25, 1.0):
                options = {"objective": objective, "context": start(name), "outlier_weight": weight}
                found += [Trial(method, f"{name}, λ {weight}", rate, options) for rate in RATES]
    return found + [clipos(*row) for row in CLIPOS]


def near_the_best() -> list[Trial]:
    """8 more settings per method, near the best of the first 24: small rates, from words."""
    found, rates = [], (0.002, 0.005, 0.02, 0.05)
    for epochs, text in ((50, "words"), (100, "words, 100 steps")):
        options = {"objective": "none", "context": start("words")}
        found += [Trial("CoOp", text, rate, options, epochs) for rate in rates]
    for method, objective in (("LoCoOp", "entropy"), ("SCT", "sct")):
        for weight in (0.1, 0.25):
            options = {"objective": objective, "context": start("words"), "outlier_weight": weight}
            found += [Trial(method, f"words, λ {weight}", rate, options) for rate in rates]
    return found + [clipos(*row) for row in NEAR_THE_BEST]


IRRELEVANT, RELEVANT = {"patches": "irrelevant"}, {"patches": "relevant"}
CLIPOS: list[tuple[Any, ...]] = [  # context.learn, its start, λ, learning rate, synthesis, other options
    *(("own", "words", 0.25, rate, IRRELEVANT) for rate in (0.01, 0.1, 0.5, 2.0, 5.0)),
    *(("own", "words", 1.0, rate, IRRELEVANT) for rate in (0.1, 0.5, 2.0, 5.0)),
    *(("own", "words", 0.25, rate, RELEVANT) for rate in (0.1, 0.5, 2.0)),
    ("own", "words", 1.0, 2.0, RELEVANT),
    *(("shared", "words", 0.25, rate, IRRELEVANT) for rate in (0.01, 0.5, 2.0)),
    ("shared", "words", 0.25, 0.5, RELEVANT),
    ("own", "random 8", 0.25, 0.5, IRRELEVANT),
    ("unknown_only", "words", 1.0, 0.5, IRRELEVANT),
    ("own", "words", 1.0, 0.5, {"patches": "irrelevant", "level": "patch"}),
    ("own", "words", 1.0, 0.5, {"patches": "all"}),
    ("own", "words", 1.0, 0.5, IRRELEVANT, {"mask": MaskOptions(threshold=0.2)}),
    ("own", "words", 1.0, 0.5, IRRELEVANT, {"mask": MaskOptions(kind="surgery")}),
    ("own", "words", 1.0, 0.5, IRRELEVANT, {"surgery": SurgeryOptions(depth=4)}),
]

NEAR_THE_BEST: list[tuple[Any, ...]] = [
    *(("own", "words", 0.25, rate, IRRELEVANT) for rate in (0.005, 0.02, 0.05)),
    ("own", "words", 1.0, 0.01, IRRELEVANT),
    ("own", "words", 0.25, 0.01, RELEVANT),
    ("own", "words", 0.25, 0.01, IRRELEVANT, {"mask": MaskOptions(threshold=0.2)}),
    ("own", "words", 0.25, 0.01, IRRELEVANT, {"mask": MaskOptions(kind="surgery")}),
    ("own", "words", 0.25, 0.01, IRRELEVANT, {"surgery": SurgeryOptions(depth=4)}),
]


def clipos(learn: str, begin: str, weight: float, rate: float, mixed: dict[str, Any], other: Any = None) -> Trial:
    """A setting of CLIP-OS."""
    options = {
        "context": start(begin, learn),
        "outlier_weight": weight,
        "synthesis": SynthesisOptions(**mixed),
        "surgery": SurgeryOptions(depth=DEPTH),
    }
    text = [learn, begin, f"λ {weight}", *mixed.values()]
    for name, value in (other or {}).items():
        options[name] = value
        if name == "surgery":
            text.append(f"depth {value.depth}")
        else:
            text.append("S > 0.5" if value.kind == "surgery" else f"τ {value.threshold}")
    return Trial("CLIP-OS", ", ".join(text), rate, options)


def family_trials() -> list[Trial]:
    """32 settings of each method of the family: 24 over a wide range, then 8 near the best of these."""
    found = []
    for method, (objective, weights, variants, near) in FAMILY.items():
        settings = [(begin, w, 50, rate) for begin in ("words", "random 8") for w in weights for rate in RATES]
        for begin, weight, epochs, rate in [*settings, *near]:
            for text, arguments in variants.items():
                options = {
                    "objective": {"class_path": objective, "init_args": arguments},
                    "context": replace(start(begin), class_specific=method == "Local-Prompt"),
                    "outlier_weight": weight,
                }
                parts = [begin, text, f"λ {weight}", f"{epochs} steps" if epochs != 50 else ""]
                found.append(Trial(method, ", ".join(filter(None, parts)), rate, options, epochs))
    return found


def near_words(weights: Sequence[float], steps: Sequence[int] = (50,)) -> list[tuple[str, float, int, float]]:
    """Small rates, from words."""
    rates = (0.002, 0.005, 0.02, 0.05)
    return [("words", weight, epochs, rate) for weight in weights for epochs in steps for rate in rates]


# method: its objective, weights of the outlier term, variants of the arguments, settings near the best
FAMILY: dict[str, tuple[str, tuple[float, ...], dict[str, dict[str, Any]], list[tuple[str, float, int, float]]]] = {
    "FoBoR": ("fobor", (0.25, 1.0), {"": {}}, near_words((0.1, 0.25))),
    "FA": ("fa", (1.0,), {"K 1": {"copies": 1}, "K 3": {"copies": 3}}, near_words((1.0,))),
    "GalLoP": ("gallop", (0.25, 1.0), {"": {}}, near_words((0.1, 0.25))),
    "Mambo": ("mambo", (0.25, 1.0), {"": {"background": "a photo of an unknown object."}}, near_words((0.1, 0.25))),
    "ID-like": (
        "id_like",
        (0.3, 1.0),
        {"": {"count": 20, "length": 8, "crops": 64, "kept": 16}},
        near_words((0.1, 0.3)),
    ),
    "Local-Prompt": (
        "local_prompt",
        (1.0, 5.0),
        {"": {"count": 50, "length": 8, "top": 16, "crops": 16, "positives": 8}},
        near_words((0.3, 1.0)),
    ),
}


# -------------------------------------------------------------------------------------------------- one trial


@contextmanager
def shared_crops(known: dict[Any, torch.Tensor], *where: Any) -> Iterator[None]:
    """Keep the frozen features of crops, which are the same for all trials of a task and a seed."""
    encode = Shots.encode_crops

    def kept(shots: Shots, images: torch.Tensor, numbers: torch.Tensor, patches: bool) -> torch.Tensor:
        key = (*where, tuple(images.tolist()), tuple(numbers.flatten().tolist()), patches)
        if key not in known:
            known[key] = encode(shots, images, numbers, patches)
        return known[key]

    with patch.object(Shots, "encode_crops", kept):
        yield


CROPS: dict[Any, torch.Tensor] = {}


def train(trial: Trial, task: Task, seed: int) -> tuple[ClipOS, FewShotOOD]:
    """Train a detector, as `clipos fit` does."""
    data = FewShotOOD(**task.data, seed=seed, num_workers=0)
    optimizer = partial(torch.optim.SGD, lr=trial.rate, momentum=0.9, weight_decay=5e-4)
    model: dict[str, Any] = {
        "backbone": "MicroCLIP",
        "pretrained": task.pretrained,
        "seed": seed,
        "optimizer": optimizer,
    }
    module = ClipOS(data.class_names, **model, **trial.options)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    if trial.rate:
        with shared_crops(CROPS, task.name, seed):
            Trainer(max_epochs=trial.epochs, accelerator="cpu", enable_model_summary=False, **quiet).fit(module, data)
    return module, data


def evaluate(module: ClipOS, data: FewShotOOD, task: Task) -> tuple[float, Figures]:
    """ID accuracy without the few-shot images, and AUROC by score and OOD set, for every region weight."""
    features = task.encoded(module.backbone.surgery.depth or DEPTH)
    drawn = {data.id_set.train.keys[i] for i in data.shot_positions} if task.drawn else set()
    kept = torch.tensor([i for i, key in enumerate(task.known.keys) if key not in drawn])
    inside, accuracy = scores_of(module, features.inside[kept], task.labels[kept])
    found: Figures = {name: {} for name in inside}
    for name, images in features.outside.items():
        outside, _ = scores_of(module, images, None)
        for score, values in outside.items():
            found[score][name] = auroc(inside[score], values)
    return accuracy, found


@torch.no_grad()
def scores_of(module: ClipOS, features: ImageFeatures, labels: Any) -> tuple[dict[str, np.ndarray], float]:
    """All scores, region scores with every region weight as `name@weight`; and the accuracy in percent."""
    names = [*defined_scores(module.objective.unknown or not module.trained), *module.objective.scores]
    text, extra = module.texts
    values, cosine = module.head("", text, module.class_text, names, extra).score(features)
    found = {n: v.numpy() for n, v in values.items() if find_score(n).on != "region"}
    for name in (n for n in names if find_score(n).on == "region"):
        base = found[name.replace("_region", "")]
        found |= {f"{name}@{w}": base + w * (values[name].numpy() - base) for w in REGION_WEIGHTS}
    accuracy = 100 * float((cosine.argmax(1).numpy() == labels).mean()) if labels is not None else 0.0
    return found, accuracy


def run(trial: Trial, tasks: Sequence[Task]) -> dict[str, Any]:
    """Run a trial: accuracy by task, and AUROC by score and OOD set (`task/set`), as means over seeds."""
    accuracy: dict[str, list[float]] = {task.name: [] for task in tasks}
    values_of: dict[str, dict[str, list[float]]] = {}
    for task in tasks:
        for seed in SEEDS if trial.rate else SEEDS[:1]:
            module, data = train(trial, task, seed)
            correct, figures = evaluate(module, data, task)
            accuracy[task.name].append(correct)
            for score, row in figures.items():
                for name, value in row.items():
                    values_of.setdefault(score, {}).setdefault(f"{task.name}/{name}", []).append(value)
    means = {score: {name: float(np.mean(v)) for name, v in row.items()} for score, row in values_of.items()}
    return {"accuracy": {k: float(np.mean(v)) for k, v in accuracy.items()}, "auroc": means}


# -------------------------------------------------------------------------------------------------- the rule


def by_kind(row: dict[str, float], kinds: dict[str, str]) -> dict[str, float]:
    """Means over the OOD sets of each kind."""
    found: dict[str, list[float]] = {}
    for name, value in row.items():
        found.setdefault(kinds[name], []).append(value)
    return {kind: float(np.mean(values)) for kind, values in found.items()}


def mean(row: dict[str, float], kinds: Sequence[str] | None = None) -> float:
    """Unweighted mean over some kinds, or all."""
    return float(np.mean([row[kind] for kind in (row if kinds is None else kinds)]))


def admissible(row: dict[str, float], best: dict[str, float], photos: Sequence[str]) -> bool:
    """Whether a setting loses at most `SLACK` points on each kind of photos."""
    return all(row[kind] >= best[kind] - SLACK for kind in photos)


def choose(
    settings: dict[str, Figures], best: dict[str, float], photos: Sequence[str], region: bool
) -> tuple[str, str]:
    """Steps 3 to 5 of the rule.

    Args:
        settings: of one method, name to score to kind to AUROC.
        best: figures of the best score without training, by kind.
        photos: the kinds of photos.
        region: whether region scores may be chosen.

    Returns:
        The chosen setting and score.
    """
    chosen: dict[str, str] = {}
    scores = [s for s in next(iter(settings.values())) if region or "region" not in s]
    good = {s: [n for n, rows in settings.items() if admissible(rows[s], best, photos)] for s in scores}
    scores = [s for s in scores if good[s]] or scores
    for score in scores:
        chosen[score] = max(good[score] or settings, key=lambda name: mean(settings[name][score]))
    rows = np.array([list(settings[chosen[score]][score].values()) for score in scores])
    ranks = np.stack([rankdata(-column.round(2)) for column in rows.T]).mean(0)
    score = scores[int(np.argmin(ranks))]
    return chosen[score], score


def table(kinds: Sequence[str], rows: Sequence[tuple[str, dict[str, float]]], title: str) -> Iterator[str]:
    """A Markdown table of figures by kind and their mean."""
    yield f"| {title} | " + " | ".join(kinds) + " | mean |"
    yield "|---|" + "---:|" * (len(kinds) + 1)
    for name, row in rows:
        yield f"| {name} | " + " | ".join(f"{row[kind]:.1f}" for kind in kinds) + f" | {mean(row):.1f} |"
    yield ""


def lines(results: dict[str, dict[str, Any]], every: Sequence[Trial], kinds: dict[str, str]) -> Iterator[str]:
    """Markdown tables: what is chosen; each method's settings with the chosen score; each method's scores."""
    figures = {t.name: {s: by_kind(row, kinds) for s, row in results[t.name]["auroc"].items()} for t in every}
    order = list(dict.fromkeys(kinds.values()))
    photos = [kind for kind in order if not kind.startswith("scenes-")]
    plain = figures[every[0].name]
    best = max((s for s in plain if "region" not in s), key=lambda s: mean(plain[s], photos))
    text = {t.name: f"{t.text}, rate {t.rate:g}" if t.rate else t.text for t in every}
    methods: dict[str, dict[str, Figures]] = {}
    for t in every:
        methods.setdefault(t.method, {})[t.name] = figures[t.name]
    picked = {m: choose(s, plain[best], photos, m in ("CLIP-OS", "zero-shot")) for m, s in methods.items()}
    rows = [(f"{m}: {text[n]}, `{s}`", figures[n][s]) for m, (n, s) in picked.items()]
    yield from table(order, [(f"zero-shot, `{best}` (the limit on photos)", plain[best]), *rows], "chosen")
    for method, (name, score) in picked.items():
        ranked = sorted(methods[method], key=lambda n: -mean(figures[n][score]))
        marked = [
            (f"{text[n]}{'' if admissible(figures[n][score], plain[best], photos) else ' (photos lose)'}", n)
            for n in ranked
        ]
        if len(ranked) > 1:
            yield from table(order, [(t, figures[n][score]) for t, n in marked], f"{method}, `{score}`")
        scores = [(f"`{s}`", row) for s, row in figures[name].items()]
        yield from table(order, scores, f"{method}: {text[name]}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the trials that have no results yet; print or write the tables if all have."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CLIPOS_DATA", "data"), help="folder with cifar10-images/")
    parser.add_argument(
        "--photos", default=os.environ.get("CLIPOS_PRETRAIN"), help="folder with Tiny-ImageNet's shards"
    )
    parser.add_argument("--count", type=int, default=200, help="pictures of each OOD set")
    parser.add_argument("--weights", help="weights file (default: the shipped weights)")
    methods = sorted({trial.method for trial in trials()})
    parser.add_argument("--methods", nargs="*", choices=methods, help="only these methods")
    parser.add_argument("--results", default="tuning", help="folder for the results of the trials; runs can share it")
    parser.add_argument("--out", help="Markdown file to write")
    given = parser.parse_args(arguments)
    if given.out and Path(given.out).exists():
        parser.error(f"--out {given.out} exists: give another file, or remove it")
    if not given.photos:
        parser.error("--photos (or $CLIPOS_PRETRAIN): name the folder with tinyimagenet32-0.npz")
    silence_libraries()
    warnings.filterwarnings("ignore")
    folder = Path(given.results)
    folder.mkdir(parents=True, exist_ok=True)
    made_with = json.dumps({"weights": given.weights, "count": given.count, "data": str(Path(given.data).absolute())})
    record = folder / "settings.txt"
    if record.exists() and record.read_text(encoding="utf-8") != made_with:
        parser.error(f"--results {folder} holds results of other settings ({record}): give another folder")
    write_text(record, made_with)
    every = trials()
    with tempfile.TemporaryDirectory() as scratch:
        root, photos = Path(given.data).absolute(), Path(given.photos)
        tasks = build_tasks(root, photos, Path(scratch), given.count, given.weights)
        for trial in every:
            file = folder / f"{trial.name}.json"
            if not file.exists() and (not given.methods or trial.method in given.methods):
                write_text(file, json.dumps(run(trial, tasks)))
                print(trial.name, flush=True)
        kinds = {f"{task.name}/{name}": task.kind(name) for task in tasks for name in task.outside}
    results = {t.name: json.loads(f.read_text()) for t in every if (f := folder / f"{t.name}.json").exists()}
    missing = sorted({t.method for t in every if t.name not in results})
    if missing:
        print(f"not in the tables, since settings have no results yet: {', '.join(missing)}")
    whole = [trial for trial in every if trial.method not in missing]
    if not whole or whole[0].method != "zero-shot":  # the others are compared with it
        return
    text = "\n".join(lines(results, whole, kinds))
    Path(given.out).write_text(text, encoding="utf-8") if given.out else print(text)


if __name__ == "__main__":
    main()
