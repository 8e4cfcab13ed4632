"""What the independent training loops of the methods start from: plain Python in double precision.

From the package it uses only the backbone's weights and the few-shot images. Features come from open_clip's
``encode_image`` and ``encode_text``, with hooks that read the blocks' inputs and insert the context.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip
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


def build_world(microclip: FrozenClip) -> World:
    """The inputs of a training on ``scenes``."""
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


def start(world: World) -> Tensor:
    """The words' token embeddings."""
    with torch.no_grad():
        return world.clip.token_embedding(world.tokenize([WORDS])[0, 1:5])


# ---- sums, item by item


def cross_entropy(logits: Tensor, label: int) -> Tensor:
    return -torch.log(logits.softmax(0)[label])


def mean(items: list[Tensor]) -> Tensor:
    return sum(items, torch.zeros((), dtype=torch.float64)) / max(len(items), 1)
