"""Each method's training compared with an independent loop: plain Python in double precision, written from the paper.

From the package a loop uses only the backbone's weights, the few-shot images and the order of the batches
(``plain_training``). Methods with prompts of their own: ``test_prompt_methods.py``.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from plain_training import (
    ALPHA,
    BATCH,
    BETA,
    DECAY,
    EPOCHS,
    MOMENTUM,
    RATE,
    SEED,
    SHOTS,
    TOP_K,
    WEIGHT,
    WORDS,
    World,
    build_world,
    cross_entropy,
    encode,
    mean,
    start,
)
from running import done
from torch import Tensor


@pytest.fixture(scope="module")
def world(microclip) -> World:
    return build_world(microclip)


# ---- losses, item by item

Feature = Callable[[World, int, float], Tensor]  # of an image, given a draw in [0, 1): what outliers are mixed from


def energy(logits: Tensor) -> Tensor:
    return -torch.log(torch.exp(logits).sum())


def region(world: World, i: int, where: float) -> Tensor:
    """The normalised sum of an image's ID-relevant patches."""
    return F.normalize(world.surgery[i][world.masks[i]].sum(0), dim=0)


def irrelevant_region(world: World, i: int, where: float) -> Tensor:
    return F.normalize(world.surgery[i][~world.masks[i]].sum(0), dim=0)


def plain_region(world: World, i: int, where: float) -> Tensor:
    """The same patches of plain CLIP."""
    return F.normalize(world.own[i][world.masks[i]].sum(0), dim=0)


def one_patch(world: World, i: int, where: float) -> Tensor:
    """One of an image's n ID-relevant patches, the floor(where n)-th."""
    relevant = world.surgery[i][world.masks[i]]
    return relevant[int(where * len(relevant))]


def outliers(world: World, step: int, batch: list[int], count: int, feature: Feature = region) -> list[Tensor]:
    """Mixed features of pairs with different labels: the first image at random, then its partner."""
    rng = np.random.default_rng((SEED, step))
    firsts = [batch[i] for i in rng.integers(len(batch), size=count)]
    by_class = sorted(batch, key=lambda i: world.labels[i])
    partners = [[j for j in by_class if world.labels[j] != world.labels[i]] for i in firsts]
    seconds = [those[k] for those, k in zip(partners, rng.integers([len(p) for p in partners]), strict=True)]
    mixes, places = rng.beta(ALPHA, ALPHA, size=count), rng.random((count, 2))
    rows = []
    for i, j, m, (at_i, at_j) in zip(firsts, seconds, mixes, places, strict=True):
        rows.append(m * feature(world, i, at_i) + (1 - m) * feature(world, j, at_j))
    return [row / row.norm() for row in rows]


def coop(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    return mean([cross_entropy(world.scale * text @ world.seen[i], world.labels[i]) for i in batch])


def patch_entropies(world: World, text: Tensor, i: int) -> list[Tensor]:
    """Entropies of an image's local patches without its label among their K best classes."""
    found = []
    for patch in world.local[i]:
        logits = world.scale * text @ patch
        if world.labels[i] not in logits.topk(TOP_K).indices:
            p = logits.softmax(0)
            found.append(-(p * torch.log(p)).sum())
    return found


def locoop(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    entropies = [e for i in batch for e in patch_entropies(world, text, i)]
    return coop(world, text, batch, step) - WEIGHT * mean(entropies)


def sct(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    """Gradients flow through p_y."""
    inside, outside = [], []
    for i in batch:
        logits = world.scale * text @ world.seen[i]
        p_y = logits.softmax(0)[world.labels[i]]
        inside.append((1 - p_y) * cross_entropy(logits, world.labels[i]))
        outside += [p_y * e for e in patch_entropies(world, text, i)]
    return mean(inside) - WEIGHT * mean(outside)


def fobor(world: World, text: Tensor, batch: list[int], step: int, calibrated: bool = False) -> Tensor:
    """LoCoOp's entropies weighted by patch, and the confusable class on its best patch; on SCT with its factors."""
    inside, outside, confusable = [], [], []
    for i in batch:
        label, logits = world.labels[i], world.scale * text @ world.seen[i]
        p_y = logits.softmax(0)[label]
        inside.append((1 - p_y if calibrated else 1) * cross_entropy(logits, label))
        mixed = (0.83 * logits + 0.17 * world.scale * text @ text[label]).tolist()
        other = max((c for c in range(len(text)) if c != label), key=mixed.__getitem__)
        rows = [world.scale * text @ patch for patch in world.local[i]]
        for patch, a in zip(rows, world.attention[i], strict=True):
            if label not in patch.topk(TOP_K).indices:
                p = patch.softmax(0)
                weight = 1 / (1 + torch.exp(-5 * p_y * a))
                outside.append((p_y if calibrated else 1) * weight * (p * torch.log(p)).sum())
        p = rows[max(range(len(rows)), key=[float(row[other]) for row in rows].__getitem__)].softmax(0)
        q = (p[label] + 1e-4) / (p[label] + p[other] + 2e-4)
        confusable.append(q * torch.log(q) + (1 - q) * torch.log(1 - q))
    return mean(inside) + WEIGHT * (mean(outside) + 15 * mean(confusable))


def fa(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    """The learned prompts compared with themselves and two copies of the frozen ones."""
    terms = []
    for i in batch:
        learned, frozen = (world.scale * rows @ world.seen[i] for rows in (text, world.plain))
        terms.append(cross_entropy(torch.cat([learned, frozen, frozen]), world.labels[i]))
    return mean(terms)


def mambo(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    """SCT on the patches of the background, which come from a frozen prompt."""
    inside, outside = [], []
    with torch.no_grad():
        background = world.clip.encode_text(world.tokenize(["a photo of a background."]), normalize=True)[0]
    for i in batch:
        label, logits = world.labels[i], world.scale * text @ world.seen[i]
        p_y = logits.softmax(0)[label]
        inside.append((1 - p_y) * cross_entropy(logits, label))
        b, r = world.local[i] @ background, world.local[i] @ text[label]
        r = (r - r.min()) / (r.max() - r.min())
        u = b * (1 - p_y) + p_y * b * (1 - r)
        spread = torch.sqrt(((u - u.mean()) ** 2).mean())
        for patch, value in zip(world.local[i], u, strict=True):
            if value > u.mean() - (2 * p_y - 1) * spread:
                p = (world.scale * text @ patch).softmax(0)
                outside.append(p_y * (p * torch.log(p)).sum())
    return mean(inside) + WEIGHT * mean(outside)


def clip_os(world: World, text: Tensor, batch: list[int], step: int, feature: Feature = region) -> Tensor:
    """The text's last row is "unknown": C + 1 classes in both terms."""
    made = outliers(world, step, batch, len(batch), feature)
    unknown = [cross_entropy(world.scale * text @ o, len(world.names)) for o in made]
    return coop(world, text, batch, step) + WEIGHT * mean(unknown)


def focal(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    terms = []
    for o in outliers(world, step, batch, len(batch)):
        p = (world.scale * text @ o).softmax(0)[-1]
        terms.append(-((1 - p) ** 2) * torch.log(p))
    return coop(world, text, batch, step) + WEIGHT * mean(terms)


def uniform_kl(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    terms, u = [], 1 / len(world.names)
    for o in outliers(world, step, batch, len(batch)):
        p = (world.scale * text @ o).softmax(0)
        terms.append(sum(u * torch.log(u / p_c) for p_c in p))
    return coop(world, text, batch, step) + WEIGHT * mean(terms)


def energy_margin(world: World, text: Tensor, batch: list[int], step: int) -> Tensor:
    """Margins: medians under the zero-shot prompts, of all few-shot images and of 1,000 of their outliers."""
    everyone = list(range(len(world.labels)))
    inside = [energy(world.scale * world.plain @ world.seen[i]) for i in everyone]
    outside = [energy(world.scale * world.plain @ o) for o in outliers(world, 0, everyone, 1000)]
    m_in, m_out = (sorted(float(e) for e in side)[(len(side) - 1) // 2] for side in (inside, outside))
    hinges = [F.relu(energy(world.scale * text @ world.seen[i]) - m_in) ** 2 for i in batch]
    made = outliers(world, step, batch, len(batch))
    hinges_out = [F.relu(m_out - energy(world.scale * text @ o)) ** 2 for o in made]
    return coop(world, text, batch, step) + WEIGHT * (mean(hinges) + mean(hinges_out))


# ---- training

Loss = Callable[[World, Tensor, list[int], int], Tensor]
IRRELEVANT = partial(clip_os, feature=irrelevant_region)
PATCHES = partial(clip_os, feature=one_patch)
PLAIN = partial(clip_os, feature=plain_region)
METHODS: dict[str, tuple[Loss, tuple[str, ...]]] = {
    "CoOp": (coop, ("objective", "none")),
    "LoCoOp": (locoop, ("objective", "entropy", "mask.top_k", "0.3")),
    "SCT": (sct, ("objective", "sct", "mask.top_k", "0.3")),
    "FoBoR": (fobor, ("objective", "fobor", "mask.top_k", "0.3")),
    "FoBoR on SCT": (
        partial(fobor, calibrated=True),
        ("objective", "{class_path: fobor, init_args: {calibrated: true}}", "mask.top_k", "0.3"),
    ),
    "FA": (fa, ("objective", "{class_path: fa, init_args: {copies: 2}}")),
    "Mambo": (mambo, ("objective", "mambo")),
    "CLIP-OS": (clip_os, ("objective", "unknown")),
    "CLIP-OS, irrelevant": (IRRELEVANT, ("objective", "unknown", "synthesis.patches", "irrelevant")),
    "CLIP-OS, patches": (PATCHES, ("objective", "unknown", "synthesis.level", "patch")),
    "CLIP-OS, plain CLIP's path": (PLAIN, ("objective", "unknown", "synthesis.path", "clip")),
    "CLIP-OS, own context": (clip_os, ("objective", "unknown", "context.learn", "own")),
    "focal": (focal, ("objective", "focal")),
    "uniform KL": (uniform_kl, ("objective", "uniform_kl")),
    "energy": (energy_margin, ("objective", "energy")),
}
UNKNOWN = (clip_os, IRRELEVANT, PATCHES, PLAIN, focal)


def train(world: World, loss: Loss, own: bool) -> Tensor:
    """The contexts after all epochs of SGD: one for all prompts, or the classes' and then an own one of "unknown"."""
    shared = start(world)
    contexts = [shared.clone().requires_grad_() for _ in range(1 + own)]
    unknown = ["unknown"] if loss in UNKNOWN else []
    optimizer = torch.optim.SGD(contexts, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for step in range(EPOCHS * world.data.steps_per_epoch):
        optimizer.zero_grad()
        batch = world.data.global_batch(step)["index"].tolist()
        if own:
            text = torch.cat([encode(world, world.names, contexts[0]), encode(world, unknown, contexts[1])])
        else:
            text = encode(world, world.names + unknown, contexts[0])
        loss(world, text, batch, step).backward()
        optimizer.step()
    return torch.cat([context.detach() for context in contexts])


def fit(options: tuple[str, ...], folder: Path) -> Tensor:
    """The contexts that ``clipos fit`` leaves."""
    data = ("--data.id", "scenes", "--data.shots", SHOTS, "--data.batch_size", BATCH, "--seed_everything", SEED)
    model = ["--model.backbone", "MicroCLIP", "--model.context.words", WORDS, "--model.outlier_weight", WEIGHT]
    model += ["--model.synthesis.alpha", ALPHA, "--model.surgery.beta", BETA]
    for name, value in zip(options[::2], options[1::2], strict=True):
        model += [f"--model.{name}", value]
    sgd = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", RATE)
    sgd += ("--model.optimizer.momentum", MOMENTUM, "--model.optimizer.weight_decay", DECAY)
    trainer = ("--trainer.max_epochs", EPOCHS, "--trainer.default_root_dir", folder)
    return done("fit", *data, *model, *sgd, *trainer).context.double()


@pytest.mark.parametrize("method", METHODS)
def test_fit_learns_what_the_methods_own_loop_learns(method: str, world: World, tmp_path: Path) -> None:
    loss, options = METHODS[method]
    own = "own" in options
    before, expected = start(world).repeat(1 + own, 1), train(world, loss, own)
    found = fit(options, tmp_path).view_as(before)
    parts = (contexts.chunk(1 + own) for contexts in (before, expected, found))
    for first, last, ours in zip(*parts, strict=True):
        way = (last - first).norm()
        assert way > 0.01 * first.norm()
        assert (ours - last).norm() < (2e-4 if method == "energy" else 2e-5) * way  # its hinges amplify rounding
