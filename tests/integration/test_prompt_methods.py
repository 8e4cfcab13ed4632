"""Methods with prompts of their own, compared with an independent loop in double precision, as in ``test_methods.py``.

A loop starts from the values that the parameters of the untrained module have, and shares the draws of crops and of
prompt dropout with it.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Trainer
from plain_training import (
    BATCH,
    DECAY,
    EPOCHS,
    MOMENTUM,
    SEED,
    SHOTS,
    WEIGHT,
    WORDS,
    World,
    build_world,
    cross_entropy,
    encode,
    local_path,
    look,
    mean,
    project,
)
from torch import Tensor

from clipos_lightning import ClipOS, ContextOptions, FewShotOOD
from clipos_lightning.data.crops import draw_crops

RATE = 0.05
CROPS, KEPT, COUNT, TOP = 6, 2, 3, 5  # ID-like and Local-Prompt; TOP patches
PROMPTS = 2  # global ones of GalLoP, and local ones

Parameters = dict[str, Tensor]
Loss = Callable[[World, Parameters, list[int], int], Tensor]


@pytest.fixture(scope="module")
def world(microclip) -> World:
    return build_world(microclip)


# ---- texts and crops


def nameless(world: World, tokens: Tensor) -> Tensor:
    """The text feature of "[tokens]."."""
    ids = world.tokenize([" ".join("a" * len(tokens)) + "."])

    def put(_: torch.nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
        return torch.cat([out[:, :1], tokens[None], out[:, 1 + len(tokens) :]], 1)

    with world.clip.token_embedding.register_forward_hook(put):
        return world.clip.encode_text(ids, normalize=True)[0]


def crops_of(world: World, i: int, known: dict[int, tuple[list[Tensor], list[Tensor]]]) -> Any:
    """Global features and local patches of an image's crops, those most like its class first."""
    if i not in known:
        pixels = draw_crops(world.data, i, list(range(CROPS))).permute(0, 2, 3, 1).double() / 255
        pixels = (pixels - torch.tensor(open_clip.OPENAI_DATASET_MEAN)) / torch.tensor(open_clip.OPENAI_DATASET_STD)
        with torch.no_grad():
            seen, tokens = look(world.clip, pixels.permute(0, 3, 1, 2))
            local = project(world.clip, local_path(world.clip, tokens[-2]))
        text = world.plain[world.labels[i]]
        order = sorted(range(CROPS), key=lambda n: -float(seen[n] @ text))
        known[i] = [seen[n] for n in order], [local[n] for n in order]
    return known[i]


def largest(values: Tensor, count: int) -> Tensor:
    return torch.stack(sorted(values, key=float, reverse=True)[:count])


# ---- losses


def gallop(world: World, p: Parameters, batch: list[int], step: int) -> Tensor:
    """Each image trains one of the two global prompts; local prompt m is compared with the 5 m best patches."""
    names = ["prompts.context", *(f"own.further.{k}.context" for k in range(2 * PROMPTS - 1))]
    texts = [encode(world, world.names, p[name]) for name in names]
    draws = np.random.default_rng((SEED, step, 7)).random((len(world.labels), PROMPTS))  # a row for each image
    inside, local = [], []
    for i in batch:
        kept = int(draws[i].argmin())
        inside.append(cross_entropy(world.scale * texts[kept] @ world.seen[i], world.labels[i]))
        mapped = [F.normalize(p["own.local_map"] @ patch, dim=0) for patch in world.local[i]]
        for m, text in enumerate(texts[PROMPTS:], 1):
            logits = world.scale * torch.stack(mapped) @ text.T
            pooled = torch.stack([largest(logits[:, c], 5 * m).mean() for c in range(len(text))])
            local.append(cross_entropy(pooled, world.labels[i]))
    return mean(inside) + WEIGHT * mean(local)


def id_like(world: World, p: Parameters, batch: list[int], step: int, known: dict[int, Any]) -> Tensor:
    """Cross-entropy of the crops most like the class, log of the classes' share of the least, and different prompts."""
    text = encode(world, world.names, p["prompts.context"])
    ood = [nameless(world, torch.cat([p["own.shared"], own])) for own in p["own.own"]]
    every = world.scale * torch.cat([text, torch.stack(ood)])
    inside, outside = [], []
    for i in batch:
        seen, _ = crops_of(world, i, known)
        inside += [cross_entropy(every @ f, world.labels[i]) for f in seen[:KEPT]]
        outside += [torch.log((every @ f).softmax(0)[: len(text)].sum() + 1e-16) for f in seen[-KEPT:]]
    alike = [torch.relu(ood[j] @ ood[k]) for j in range(COUNT) for k in range(j + 1, COUNT)]
    return mean(inside) + WEIGHT * (mean(outside) + 2 / 3 * mean(alike))


def local_prompt(world: World, p: Parameters, batch: list[int], step: int, known: dict[int, Any]) -> Tensor:
    """Patches of a positive view with a context for each class; those of the negative view are like the negatives."""
    text = [encode(world, [name], c)[0] for name, c in zip(world.names, p["prompts.context"], strict=True)]
    negatives = [nameless(world, own) for own in p["own.own"]]
    inside, outside = [], []
    for i in batch:
        _, local = crops_of(world, i, known)
        label, positive, negative = world.labels[i], local[step % KEPT], local[-1]
        best = [torch.exp(largest(world.scale * positive @ t, TOP)).sum() for t in (*text, *negatives)]
        inside.append(-torch.log(best[label] / sum(best)))
        chosen = sorted(range(len(negative)), key=lambda k: -float(negative[k] @ text[label]))[:TOP]
        share = sum(torch.exp(world.scale * negative[k] @ n) for k in chosen for n in negatives)
        classes = sum(torch.exp(largest(world.scale * negative @ t, TOP)).sum() for t in text)
        outside.append(-torch.log(share / (share + classes)))
    alike = sum(a @ b for a in negatives for b in negatives) / (COUNT * (COUNT - 1))
    return mean(inside) + WEIGHT * (mean(outside) + 0.1 * alike)


METHODS: dict[str, tuple[Callable[..., Tensor], dict[str, Any], bool]] = {
    "gallop": (gallop, {"count": PROMPTS, "dropout": 0.75}, False),
    "id_like": (id_like, {"count": COUNT, "length": 2, "crops": CROPS, "kept": KEPT}, False),
    "local_prompt": (
        local_prompt,
        {"count": COUNT, "length": 2, "top": TOP, "crops": CROPS, "positives": KEPT},
        True,
    ),
}


# ---- training


def train(world: World, loss: Loss, parameters: Parameters) -> Parameters:
    """The parameters after all epochs of SGD."""
    parameters = {name: value.double().clone().requires_grad_() for name, value in parameters.items()}
    optimizer = torch.optim.SGD(parameters.values(), lr=RATE, momentum=MOMENTUM, weight_decay=DECAY)
    for step in range(EPOCHS * world.data.steps_per_epoch):
        optimizer.zero_grad()
        loss(world, parameters, world.data.global_batch(step)["index"].tolist(), step).backward()
        optimizer.step()
    return {name: value.detach() for name, value in parameters.items()}


def learned(model: ClipOS) -> Parameters:
    return {name: value.detach().clone() for name, value in model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("name", METHODS)
def test_fit_learns_what_the_methods_own_loop_learns(name: str, world: World, tmp_path: Path) -> None:
    loss, arguments, specific = METHODS[name]
    data = FewShotOOD(id="scenes", shots=SHOTS, seed=SEED, batch_size=BATCH)
    model = ClipOS(
        data.class_names,
        backbone="MicroCLIP",
        objective={"class_path": name, "init_args": arguments},
        context=ContextOptions(words=WORDS, class_specific=specific),
        outlier_weight=WEIGHT,
        seed=SEED,
        optimizer=lambda p: torch.optim.SGD(p, lr=RATE, momentum=MOMENTUM, weight_decay=DECAY),
    )
    before = learned(model)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    Trainer(accelerator="cpu", max_epochs=EPOCHS, default_root_dir=tmp_path, **quiet).fit(model, data)
    expected = train(world, loss if name == "gallop" else partial(loss, known={}), before)
    found = learned(model)
    assert set(found) == set(expected) and len(found) > 1
    for key, last in expected.items():
        way = (last - before[key].double()).norm()
        assert way > 0.001 * before[key].norm(), key
        assert (found[key].double() - last).norm() < 1e-4 * way, key
