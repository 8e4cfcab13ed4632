"""Each method's training compared with an independent loop: plain Python in double precision, written from the paper.

From the package a loop uses only the backbone's weights, the few-shot images and the order of the batches. Features
come from open_clip's ``encode_image`` and ``encode_text``, with hooks that read the blocks' inputs and insert the
context.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from running import done
from torch import Tensor

from clipos_lightning.data.datamodule import FewShotOOD

SEED, EPOCHS, SHOTS, BATCH = 7, 2, 2, 8  # ten classes: batches of 8, 8 and 4
RATE, MOMENTUM, DECAY = 0.3, 0.9, 0.002
WEIGHT, ALPHA, BETA, TOP_K = 0.5, 0.7, 0.5, 3
WORDS = "a photo of a"


@dataclass
class World:
    """The inputs of training: the frozen CLIP in double precision, and the features of the few-shot images."""

    clip: open_clip.CLIP
    tokenize: Callable[[list[str]], Tensor]
    data: FewShotOOD
    names: list[str]
    labels: list[int]
    scale: float
    plain: Tensor  # "a photo of a {}.", (C, D)
    seen: Tensor  # global features, (N, D)
    local: Tensor  # LoCoOp's local features, (N, P, D)
    own: Tensor  # plain CLIP's patch features, (N, P, D)
    surgery: Tensor  # the surgery path's patch features, (N, P, D)
    masks: Tensor  # the ID-relevant patches, (N, P)
    attention: Tensor  # of the patches to the class token, from 0 to 1 in each image, (N, P)


@pytest.fixture(scope="module")
def world(microclip) -> World:
    clip = copy.deepcopy(microclip.clip).double()
    data = FewShotOOD(id="scenes", shots=SHOTS, seed=SEED, batch_size=BATCH)
    data.image_size = 32
    data.setup("fit")
    labels, names = data.shot_labels.tolist(), data.class_names
    pixels = data.shot_images(torch.arange(len(labels))).permute(0, 2, 3, 1).double() / 255
    pixels = (pixels - torch.tensor(open_clip.OPENAI_DATASET_MEAN)) / torch.tensor(open_clip.OPENAI_DATASET_STD)
    with torch.no_grad():
        plain = clip.encode_text(microclip.tokenizer([f"{WORDS} {name}." for name in names]), normalize=True)
        seen, tokens = look(clip, pixels.permute(0, 3, 1, 2))
        own, surgery = project(clip, tokens[-1]), project(clip, surgery_path(clip, tokens))
        masks = torch.stack([mask_of(own[i], surgery[i], plain[label]) for i, label in enumerate(labels)])
        local = project(clip, local_path(clip, tokens[-2]))
        attention = torch.stack([attention_of(clip, x) for x in tokens[-2]])
    scale = float(clip.logit_scale.exp())
    return World(
        clip, microclip.tokenizer, data, names, labels, scale, plain, seen, local, own, surgery, masks, attention
    )


# ---- features


def look(clip: open_clip.CLIP, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Global features, and the input tokens of each block, followed by the output of the last one."""
    tokens: list[Tensor] = []
    blocks = clip.visual.transformer.resblocks
    hooks = [block.register_forward_pre_hook(lambda _, given: tokens.append(given[0])) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(lambda _, given, out: tokens.append(out)))
    features = clip.encode_image(pixels, normalize=True)
    for hook in hooks:
        hook.remove()
    return features, tokens


def project(clip: open_clip.CLIP, tokens: Tensor) -> Tensor:
    """Patch features of a path's last tokens, (N, P, D)."""
    return F.normalize(clip.visual.ln_post(tokens[:, 1:]) @ clip.visual.proj, dim=-1)


def values(block: torch.nn.Module, x: Tensor) -> Tensor:
    weight, bias = (part.chunk(3)[2] for part in (block.attn.in_proj_weight, block.attn.in_proj_bias))
    return block.ln_1(x) @ weight.T + bias


def local_path(clip: open_clip.CLIP, x: Tensor) -> Tensor:
    """LoCoOp: in the last block each patch attends to itself alone."""
    block = clip.visual.transformer.resblocks[-1]
    x = block.attn.out_proj(values(block, x)) + x
    return x + block.mlp(block.ln_2(x))


def attention_of(clip: open_clip.CLIP, x: Tensor) -> Tensor:
    """FoBoR: each patch's query with the class token's key, after the output projection, in the last block."""
    block = clip.visual.transformer.resblocks[-1]
    width = x.shape[-1]
    q, k, _ = (block.ln_1(x) @ block.attn.in_proj_weight.T + block.attn.in_proj_bias).split(width, dim=-1)
    out = block.attn.out_proj
    products = [(out.weight @ patch + out.bias) @ (out.weight @ k[0] + out.bias) for patch in q[1:]]
    weights = (torch.stack(products) / math.sqrt(width)).softmax(0)
    return (weights - weights.min()) / (weights.max() - weights.min())


def surgery_path(clip: open_clip.CLIP, tokens: list[Tensor]) -> Tensor:
    """CLIP surgery with patch-context: v-v attention in parallel to the last half of the blocks, no MLP."""
    blocks = clip.visual.transformer.resblocks
    half = len(blocks) // 2
    y = tokens[half]
    for block, x in list(zip(blocks, tokens, strict=False))[half:]:
        heads = []
        for v in neighbourly(values(block, x)).chunk(block.attn.num_heads, dim=-1):
            heads.append((v @ v.transpose(1, 2) / math.sqrt(v.shape[-1])).softmax(-1) @ v)
        y = y + block.attn.out_proj(torch.cat(heads, -1))
    return y


def neighbourly(v: Tensor) -> Tensor:
    """v' = (1 - beta) v + beta mean3x3(v) over the existing neighbours; the class token (first) is unchanged."""
    side = math.isqrt(v.shape[1] - 1)
    out = v.clone()
    for row in range(side):
        for column in range(side):
            rows, columns = ([i for i in range(at - 1, at + 2) if 0 <= i < side] for at in (row, column))
            near = [1 + side * r + c for r in rows for c in columns]
            here = 1 + side * row + column
            out[:, here] = (1 - BETA) * v[:, here] + BETA * v[:, near].mean(1)
    return out


def mask_of(own: Tensor, surgery: Tensor, text: Tensor) -> Tensor:
    """Patches of an image where the surgery path's map of the class is above CLIP's; both scaled to 0-1."""
    clip_map, surgery_map = own @ text, surgery @ text
    clip_map = (clip_map - clip_map.min()) / (clip_map.max() - clip_map.min())
    surgery_map = (surgery_map - surgery_map.min()) / (surgery_map.max() - surgery_map.min())
    return surgery_map > clip_map


def encode(world: World, names: list[str], context: Tensor) -> Tensor:
    """Text features of [context][name]., by open_clip's text tower with all 77 tokens."""
    ids = world.tokenize([f"{WORDS} {name}." for name in names])

    def put(_: torch.nn.Module, given: tuple[Tensor], out: Tensor) -> Tensor:
        return torch.cat([out[:, :1], context.expand(len(ids), -1, -1), out[:, 1 + len(context) :]], 1)

    with world.clip.token_embedding.register_forward_hook(put):
        return world.clip.encode_text(ids, normalize=True)


# ---- losses, item by item

Feature = Callable[[World, int, float], Tensor]  # of an image, given a draw in [0, 1): what outliers are mixed from


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return -torch.log(logits.softmax(0)[label])


def energy(logits: Tensor) -> Tensor:
    return -torch.log(torch.exp(logits).sum())


def mean(items: list[Tensor]) -> Tensor:
    return sum(items, torch.zeros((), dtype=torch.float64)) / max(len(items), 1)


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


def start(world: World) -> Tensor:
    """The words' token embeddings."""
    with torch.no_grad():
        return world.clip.token_embedding(world.tokenize([WORDS])[0, 1:5])


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
