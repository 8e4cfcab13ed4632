"""Train a MicroCLIP: a small CLIP for 32-pixel images, with captions made from class names and words of style.

    python scripts/pretrain_microclip.py --out microclip.safetensors                      # rendered scenes only
    python scripts/pretrain_microclip.py --data "$CLIPOS_PRETRAIN" --out microclip.safetensors   # scenes and photos

In addition to CLIP's loss, `--dense` weights the same loss on the patches of the v-v path, pooled by logsumexp, so that
only the best patches need to match. It makes the surgery path's patches match the text, which those of a large CLIP do
without it. Plain patches behave as in a large CLIP ("opposite visualisation").

The folder `--data` contains `tinyimagenet32-*.npz` with `tinyimagenet_classes.json` ([[wnid, "name, name"], ...]), or
`cifar10-half.npz`, or both. A shard has `jpeg` (all files concatenated, uint8), `offset` (n + 1 values) and `label`.
"""

import argparse
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.transformer import VisionTransformer
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from clipos_lightning.clip.surgery import attend
from clipos_lightning.data.scenes import (
    BACKGROUNDS,
    COLORS,
    ID_SHAPES,
    SEEN_SHAPES,
    SUPERSAMPLE,
    Scene,
    render_scene,
    restyle,
)
from clipos_lightning.data.styles import KNOWN_STYLES, STYLE_WORDS

PHOTO_CAPTIONS = (
    "a photo of a {}.",
    "a {}.",
    "a photo of the {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "a picture of a {}.",
    "a small photo of a {}.",
)
SCENE_CAPTIONS = (
    "a photo of a {color} {shape}.",
    "a {shape}.",
    "a photo of a {shape}.",
    "a photo of a {shape}.",
    "a {color} {shape} on a {background} background.",
    "a picture of a {shape} on a {background} background.",
    "one {color} {shape}.",
)
STYLED_CAPTIONS = (  # a third has no word of style
    "a {style} of a {shape}.",
    "a {style} of a {shape}.",
    "{style}, a {shape}.",
    "a {style} of a {shape} on a {background} background.",
    "a {shape}.",
    "one {shape}.",
)
KNOWN_WORDS = {style: STYLE_WORDS[style] for style in KNOWN_STYLES}
GENERIC_CAPTIONS = (
    "a photo of an object.",
    "an object.",
    "something.",
    "a photo of something.",
    "a picture of a thing.",
    "a photo of an unknown object.",
    "unknown.",
)
CIFAR10_NAMES = (
    ("airplane", "plane", "jet"),
    ("automobile", "car"),
    ("bird",),
    ("cat",),
    ("deer",),
    ("dog",),
    ("frog",),
    ("horse",),
    ("ship", "boat"),
    ("truck", "lorry"),
)
SCENE_STREAM = 100  # different from all streams of clipos_lightning.data.scenes
CHUNK = 1000  # scenes per random generator
SAVE_EVERY = 250

Names = list[tuple[str, ...]]


@dataclass(frozen=True)
class Corpus:
    """The training data.

    Attributes:
        photos: (N, 3, size, size) uint8.
        labels: classes of the photos, (N,).
        names: names of each class.
        order: indices of the photos of one epoch, some repeated.
        scenes: (M, 3, size, size) uint8.
        facts: shape, colour, background and style of each scene, as caption fields; photos have no style.
    """

    photos: Tensor
    labels: NDArray[np.int64]
    names: Names
    order: NDArray[np.int64]
    scenes: Tensor
    facts: list[dict[str, str]]


@dataclass(frozen=True)
class Batch:
    """Images (B, 3, size, size) uint8, one caption each, and keys (B,): pairs with equal keys are positives, too."""

    images: Tensor
    captions: list[str]
    keys: Tensor


# ------------------------------------------------------------------------------------------------------ data


def read_shard(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read images (N, H, W, 3) and labels (N,) of one shard."""
    with np.load(path) as shard:
        jpeg, offset, labels = shard["jpeg"].tobytes(), shard["offset"], shard["label"]
    images = [np.asarray(Image.open(io.BytesIO(jpeg[a:b])).convert("RGB")) for a, b in pairwise(offset)]
    return np.stack(images), labels.astype(np.int64)


def read_photos(folder: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], Names, int]:
    """Read all photos of a folder: images, labels, class names, and the first label of CIFAR-10.

    Raises:
        FileNotFoundError: the folder contains neither kind of shard.
    """
    parts, names = [read_shard(path) for path in sorted(folder.glob("tinyimagenet32-*.npz"))], []
    if parts:
        classes = json.loads((folder / "tinyimagenet_classes.json").read_text())
        names = [tuple(word.strip() for word in words.split(",")) for _, words in classes]
    first_cifar = len(names)
    if (folder / "cifar10-half.npz").is_file():
        images, labels = read_shard(folder / "cifar10-half.npz")
        parts.append((images, labels + first_cifar))
        names += CIFAR10_NAMES
    if not parts:
        raise FileNotFoundError(f"{folder} holds neither tinyimagenet32-*.npz nor cifar10-half.npz")
    return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]), names, first_cifar


def render_scenes(count: int, seed: int, size: int) -> list[Scene]:
    """Render `count` scenes of the twenty shapes; a thousand take about half a second."""
    scenes = []
    for start in range(0, count, CHUNK):
        rng = np.random.default_rng((SCENE_STREAM, seed, start // CHUNK))
        scenes += [render_scene(rng, size=size) for _ in range(min(CHUNK, count - start))]
    return scenes


def render_styled(count: int, seed: int, size: int) -> tuple[list[Scene], list[str]]:
    """Render `count` scenes in the known styles in turn, with their styles; a thousand take about two seconds."""
    scenes, styles = [], [list(KNOWN_STYLES)[i % len(KNOWN_STYLES)] for i in range(count)]
    for i, style in enumerate(styles):
        rng = np.random.default_rng((SCENE_STREAM, seed, 0, i))
        scenes.append(restyle(rng, render_scene(rng, size=SUPERSAMPLE * size, supersample=1), style))
    return scenes, styles


def to_tensor(images: NDArray[np.uint8], device: str) -> Tensor:
    """Move images (N, H, W, 3) to the device as (N, 3, H, W)."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(device)


def build_corpus(options: argparse.Namespace, size: int, device: str) -> Corpus:
    """Read the photos, if any, and render the scenes."""
    photos, labels, names = np.zeros((0, size, size, 3), np.uint8), np.zeros(0, np.int64), list[tuple[str, ...]]()
    order = np.arange(0)
    if options.data:
        photos, labels, names, first_cifar = read_photos(options.data)
        again = [np.flatnonzero(labels >= first_cifar)] * (options.cifar_times - 1)
        order = np.concatenate([np.arange(len(photos)), *again])
    count = round(options.styled * options.scenes)
    scenes, styles = render_styled(count, options.seed, size)
    scenes += render_scenes(options.scenes - count, options.seed, size)
    facts = [{"shape": s.shape, "color": s.color, "background": s.background} for s in scenes]
    for fact, style in zip(facts, styles, strict=False):
        fact["style"] = KNOWN_WORDS[style]
    rendered = to_tensor(np.stack([s.image for s in scenes]), device)
    return Corpus(to_tensor(photos, device), labels, names, order, rendered, facts)


def all_captions(names: Names) -> list[str]:
    """All captions that can be drawn, sorted."""
    captions = {template.format(name) for group in names for name in group for template in PHOTO_CAPTIONS}
    every = product(ID_SHAPES + SEEN_SHAPES, COLORS, BACKGROUNDS, KNOWN_WORDS.values())
    captions |= {
        template.format(shape=shape, color=color, background=background, style=style)
        for shape, color, background, style in every
        for template in (*SCENE_CAPTIONS, *STYLED_CAPTIONS)
    }
    return sorted(captions | set(GENERIC_CAPTIONS))


def augment(images: Tensor) -> Tensor:
    """Shift randomly by up to 4 pixels (reflected at the border) and flip randomly: (B, 3, H, W) uint8."""
    count, _, height, width = images.shape
    padded = F.pad(images.float(), (4, 4, 4, 4), mode="reflect").to(torch.uint8)
    rows = torch.arange(height) + torch.randint(0, 9, (count, 1))
    columns = torch.arange(width) + torch.randint(0, 9, (count, 1))
    flip = torch.rand(count, 1) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    batch = torch.arange(count)[:, None, None]
    return padded[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def crop(images: Tensor, smallest: float) -> Tensor:
    """Crop a random square of at least `smallest` of the area, scale it up, flip it randomly: (B, 3, H, W) uint8."""
    count, device = len(images), images.device
    scale = (smallest + (1 - smallest) * torch.rand(count)).sqrt()
    shift = (1 - scale)[:, None] * (2 * torch.rand(count, 2) - 1)
    flip = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = flip * scale, scale, shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False).to(device)
    moved = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    return moved.round().to(torch.uint8)


def recolour(images: Tensor, strength: float) -> Tensor:
    """Scale brightness, contrast and saturation randomly by 1 - strength to 1 + strength: (B, 3, H, W) uint8."""
    brightness, contrast, saturation = (1 + strength * (2 * torch.rand(3, len(images), 1, 1, 1) - 1)).to(images.device)
    x = images.float() * brightness
    middle = x.mean((1, 2, 3), keepdim=True)
    x = middle + contrast * (x - middle)
    grey = x.mean(1, keepdim=True)
    return (grey + saturation * (x - grey)).round().clamp(0, 255).to(torch.uint8)


def change(photos: Tensor, options: argparse.Namespace) -> Tensor:
    """Augment photos by the options `--crop` and `--colour`."""
    photos = crop(photos, options.crop) if options.crop < 1 else augment(photos)
    return recolour(photos, options.colour) if options.colour else photos


def batches(corpus: Corpus, options: argparse.Namespace) -> Iterator[Batch]:
    """Endless batches, drawn with a generator seeded by `--seed` and with torch's generator."""
    rng = np.random.default_rng(options.seed)
    n_scenes = int(options.batch * options.scene_share) if len(corpus.order) else options.batch
    photos = shuffled(corpus.order, options.batch - n_scenes, rng)
    device = corpus.scenes.device
    while True:
        i, j = next(photos), rng.integers(len(corpus.scenes), size=n_scenes)
        captions = [pick(rng, PHOTO_CAPTIONS).format(pick(rng, corpus.names[k])) for k in corpus.labels[i]]
        captions += [scene_caption(rng, corpus.facts[k]) for k in j]
        captions = [pick(rng, GENERIC_CAPTIONS) if rng.random() < options.generic else c for c in captions]
        keys = np.concatenate([corpus.labels[i], len(corpus.names) + np.arange(n_scenes)])
        images = corpus.scenes[torch.from_numpy(j).to(device)]
        if len(i):
            images = torch.cat([change(corpus.photos[torch.from_numpy(i).to(device)], options), images])
        yield Batch(images, captions, torch.from_numpy(keys).to(device))


def scene_caption(rng: np.random.Generator, facts: dict[str, str]) -> str:
    """Draw a caption of a scene."""
    return pick(rng, STYLED_CAPTIONS if "style" in facts else SCENE_CAPTIONS).format(**facts)


def shuffled(order: NDArray[np.int64], count: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Endless draws of `count` from shuffled epochs; the incomplete last draw of an epoch is dropped."""
    while True:
        epoch = rng.permutation(order)
        for start in range(0, max(len(epoch) - count, 0) + 1, max(count, 1)):
            yield epoch[start : start + count]


def pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Draw one of the words."""
    return words[int(rng.integers(len(words)))]


# ----------------------------------------------------------------------------------------------------- model


class Vocabulary(nn.Module):
    """All captions that can be drawn, and a compact table of the token embeddings that they use.

    About 640 of the 49,408 embeddings are used; the others stay as initialised and cost no time.
    """

    used: Tensor
    tokens: Tensor
    end: Tensor

    def __init__(self, model: open_clip.CLIP, captions: list[str]) -> None:
        super().__init__()
        self.index = {caption: i for i, caption in enumerate(captions)}
        tokens = open_clip.SimpleTokenizer(context_length=model.context_length)(captions)
        used = torch.unique(tokens)
        self.register_buffer("used", used)
        self.register_buffer("tokens", torch.searchsorted(used, tokens))
        self.register_buffer("end", tokens.argmax(-1))
        self.table = nn.Embedding.from_pretrained(model.token_embedding.weight.detach()[used], freeze=False)

    def lookup(self, captions: list[str]) -> Tensor:
        """Indices of captions, (B,)."""
        return torch.tensor([self.index[caption] for caption in captions], device=self.end.device)

    def encode(self, model: open_clip.CLIP, indices: Tensor) -> Tensor:
        """Normalised text features (K, D) of captions by index; padding after the longest caption is not computed."""
        length = int(self.end[indices].max()) + 1
        x = self.table(self.tokens[indices, :length]) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        ends = x[torch.arange(len(indices), device=x.device), self.end[indices]]
        return F.normalize(ends @ model.text_projection, dim=-1)

    @torch.no_grad()
    def write_back(self, model: open_clip.CLIP) -> None:
        """Copy the trained embeddings into the model's table."""
        model.token_embedding.weight[self.used] = self.table.weight


def encode_images(visual: VisionTransformer, images: Tensor, depth: int) -> tuple[Tensor, Tensor]:
    """Global features (B, D) and the v-v path's patches (B, P, D) of the last `depth` blocks, without patch-context."""
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=images.device).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=images.device).view(1, 3, 1, 1)
    x = visual._embeds((images.float() / 255 - mean) / std)
    blocks = visual.transformer.resblocks
    y = x
    for i, block in enumerate(blocks):
        y = x if i == len(blocks) - depth else y
        if i >= len(blocks) - depth:
            y = y + vv_attention(block.attn, block.ln_1(x))
        x = block(x)
    cls, patches = (F.normalize(visual.ln_post(t) @ visual.proj, dim=-1) for t in (x[:, 0], y[:, 1:]))
    return cls, patches


def vv_attention(attention: nn.MultiheadAttention, x: Tensor) -> Tensor:
    """out_proj(softmax(v v^T / sqrt(d)) v), v = W_v x: (B, N, W)."""
    width = x.shape[-1]
    v = F.linear(x, attention.in_proj_weight[2 * width :], attention.in_proj_bias[2 * width :])
    return attention.out_proj(attend(v, v, v, attention.num_heads))


def clip_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """CLIP's loss in both directions with soft targets: all positives of a row (or column) have the same weight."""
    rows = (positive / positive.sum(1, keepdim=True) * logits.log_softmax(1)).sum(1).mean()
    columns = (positive / positive.sum(0, keepdim=True) * logits.log_softmax(0)).sum(0).mean()
    return -(rows + columns) / 2


def loss_of(
    model: open_clip.CLIP,
    vocabulary: Vocabulary,
    batch: Batch,
    options: argparse.Namespace,
    encode: Callable[[VisionTransformer, Tensor, int], tuple[Tensor, Tensor]],
) -> Tensor:
    """CLIP's loss on the global features plus `--dense` times the same loss on the pooled v-v patches.

    Args:
        model: the CLIP to train.
        vocabulary: its captions.
        batch: images, captions and keys.
        options: of the command line.
        encode: `encode_images`, compiled or not.
    """
    unique, inverse = vocabulary.lookup(batch.captions).unique(return_inverse=True)
    kind = batch.images.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):  # on a CPU bf16 made a step longer
        image, patches = encode(model.visual, batch.images, options.depth)
        text = vocabulary.encode(model, unique)
        pooled = torch.logsumexp(options.gamma * (patches @ text.T).float(), 1) / options.gamma
    same = (inverse[:, None] == inverse[None]) | (batch.keys[:, None] == batch.keys[None])
    scale, positive = model.logit_scale.exp(), same.float()
    loss = clip_loss(scale * image.float() @ text[inverse].float().T, positive)
    return loss + options.dense * clip_loss(scale * pooled[:, inverse], positive) if options.dense else loss


# -------------------------------------------------------------------------------------------------- training


def build_model(config: dict[str, Any], options: argparse.Namespace) -> open_clip.CLIP:
    """Build a CLIP with patch dropout, randomly initialised or from the weights of `--init`."""
    vision = {**config["vision_cfg"], "patch_dropout": options.patch_dropout}
    model = open_clip.CLIP(**{**config, "vision_cfg": vision})
    if options.init:
        model.load_state_dict({name: tensor.float() for name, tensor in load_file(options.init).items()})
    return model


def build_optimizer(
    model: open_clip.CLIP, vocabulary: Vocabulary, options: argparse.Namespace
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with weight decay on matrices only, and a one-cycle schedule with 5 % warm-up."""
    named = [(name, p) for name, p in model.named_parameters() if name != "token_embedding.weight"]
    decayed = [p for name, p in named if p.ndim >= 2 and "embedding" not in name]
    free = [p for name, p in named if p.ndim < 2 or "embedding" in name] + [vocabulary.table.weight]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    total = max(options.steps, 4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total, pct_start=max(0.05, 2 / total))
    return optimizer, schedule


def average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int, most: float) -> None:
    """Update an exponential average with decay min(most, (1 + n) / (10 + n)) after n updates."""
    decay = min(most, (1 + int(count)) / (10 + int(count)))
    for kept, new in zip(averaged, current, strict=True):
        kept.lerp_(new, 1 - decay)


def save(model: open_clip.CLIP, config: dict[str, Any], step: int, path: Path) -> None:
    """Write fp16 weights atomically; open_clip loads the file with `pretrained=`."""
    weights = {name: tensor.detach().half().cpu().contiguous() for name, tensor in model.state_dict().items()}
    unfinished = path.with_name(path.name + ".tmp")
    metadata = {"microclip": json.dumps({"step": step, "config": config})}  # one key: several would be in random order
    unfinished.write_bytes(serialise(weights, metadata))  # save_file would make it readable by the owner only
    os.replace(unfinished, path)


def train(config: dict[str, Any], options: argparse.Namespace) -> list[float]:
    """Train, print progress, and save the weights regularly and at the end; returns the loss of each step."""
    torch.manual_seed(options.seed)
    device = options.device
    corpus = build_corpus(options, config["vision_cfg"]["image_size"], device)
    print(f"{len(corpus.photos)} photos, {len(corpus.scenes)} scenes, on {device}", flush=True)
    model = build_model(config, options).to(device)
    vocabulary = Vocabulary(model, all_captions(corpus.names)).to(device)
    optimizer, schedule = build_optimizer(model, vocabulary, options)
    both = nn.ModuleList([model, vocabulary])
    averages = AveragedModel(both, multi_avg_fn=partial(average, most=options.ema)) if options.ema else None
    encode = torch.compile(encode_images) if options.compile else encode_images
    losses: list[float] = []
    start = time.perf_counter()
    for step, batch in zip(range(1, options.steps + 1), batches(corpus, options), strict=False):
        if step > options.dropout_until * options.steps:
            model.visual.patch_dropout.prob = 0.0
        losses.append(update(model, loss_of(model, vocabulary, batch, options, encode), optimizer, schedule))
        if averages is not None:
            averages.update_parameters(both)
        if step % options.print_every == 0 or step == options.steps:
            rate = step * options.batch / (time.perf_counter() - start)
            recent = np.mean(losses[-options.print_every :])
            print(f"step {step}/{options.steps}  loss {recent:.3f}  {rate:.0f} images/s", flush=True)
        if step % SAVE_EVERY == 0 or step == options.steps:
            kept: Any = both if averages is None else averages.module
            learned, words = kept
            words.write_back(learned)
            save(learned, config, step, options.out)
    return losses


def update(
    model: open_clip.CLIP,
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> float:
    """One optimizer step with gradients clipped at norm 1; the logit scale is kept in [1, 100]. Returns the loss."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    with torch.no_grad():
        model.logit_scale.clamp_(0, np.log(100))
    return float(loss.detach())


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with shards of photos; without it: scenes only")
    parser.add_argument("--out", type=Path, default=Path("microclip.safetensors"), help="file for the fp16 weights")
    parser.add_argument("--init", type=Path, help="weights to start from")
    parser.add_argument("--config", type=Path, help="open_clip model configuration (default: MicroCLIP's)")
    parser.add_argument("--steps", type=int, default=9800)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--scenes", type=int, default=100_000, help="number of scenes to render")
    parser.add_argument("--scene-share", type=float, default=0.35, help="share of scenes in a batch with photos")
    parser.add_argument("--styled", type=float, default=0.5, help="share of the scenes that are not photos")
    parser.add_argument("--cifar-times", type=int, default=2, help="repeats of each CIFAR-10 photo per epoch")
    parser.add_argument("--generic", type=float, default=0.02, help="share of captions without a class name")
    parser.add_argument("--dense", type=float, default=0.5, help="weight of the loss on the v-v path's patches")
    parser.add_argument("--depth", type=int, default=3, help="blocks of the v-v path")
    parser.add_argument("--gamma", type=float, default=10.0, help="sharpness of the pooling over patches")
    parser.add_argument("--patch-dropout", type=float, default=0.5, help="share of patches dropped at the start")
    parser.add_argument("--dropout-until", type=float, default=0.8, help="share of steps with patch dropout")
    text = "smallest area of a random crop of a photo, as a share; 1: shift by up to 4 pixels instead"
    parser.add_argument("--crop", type=float, default=1.0, help=text)
    text = "largest relative change of a photo's brightness, contrast and saturation"
    parser.add_argument("--colour", type=float, default=0.0, help=text)
    parser.add_argument("--ema", type=float, default=0.0, help="decay of averaged weights; 0: save the last weights")
    parser.add_argument("--compile", action="store_true", help="run the image tower with torch.compile")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--print-every", type=int, default=50)
    options = parser.parse_args(arguments)
    if min(options.steps, options.scenes, options.print_every, options.cifar_times) < 1 or options.batch < 2:
        parser.error("--steps, --scenes, --cifar-times and --print-every must be at least 1, --batch at least 2")
    if options.out.exists():
        parser.error(f"--out {options.out} exists: give another file, or remove it")
    if not options.out.absolute().parent.is_dir():
        parser.error(f"--out {options.out}: no such folder")
    if options.data and not options.data.is_dir():
        parser.error(f"--data {options.data} is not a folder")
    if not (0 < options.crop <= 1 and 0 <= options.colour < 1 and 0 <= options.ema < 1 and 0 <= options.styled <= 1):
        parser.error("--crop must be in (0, 1], --colour and --ema in [0, 1), --styled in [0, 1]")
    return options


def main(arguments: Sequence[str] | None = None) -> list[float]:
    """Train a MicroCLIP as given on the command line; returns the loss of each step."""
    options = read_options(arguments)
    config = options.config or files("clipos_lightning") / "assets" / "MicroCLIP.json"
    if options.device.startswith("cuda"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    return train(json.loads(config.read_text()), options)


if __name__ == "__main__":
    main()
