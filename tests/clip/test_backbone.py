"""The frozen backbone against open_clip itself and against a plain re-implementation of the surgery path."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from clipos_lightning.clip.support import fingerprint

KINDS = ("plain", "layer_scale", "quick_gelu")
EVERY = frozenset({"clip", "vv", "local"})
TEXTS = ["a photo of a cat.", "dog", "a photo of an unknown object.", "a rather long story of a boat on the sea."]


@pytest.fixture(params=[*KINDS, "MicroCLIP"])
def backbone(request, tiny_clip, microclip):
    return microclip if request.param == "MicroCLIP" else tiny_clip(request.param)


def normalised(images: torch.Tensor) -> torch.Tensor:
    """As OpenAI's preprocessing does."""
    mean, std = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    return (images / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other.float(), rtol=0, atol=1e-5)


def test_global_and_patch_features_are_open_clips_own(backbone, images):
    pixels = images(5, backbone.image_size)
    features = backbone.encode_image(pixels, EVERY)
    with torch.no_grad():
        expected = backbone.clip.encode_image(normalised(pixels), normalize=True)
        visual = backbone.clip.visual
        tokens = visual.ln_post(visual.transformer(visual._embeds(normalised(pixels)))) @ visual.proj
    assert_same(features.cls, expected)
    assert_same(features.patches, F.normalize(tokens[:, 1:], dim=-1))


def test_text_features_are_open_clips_own(backbone):
    with torch.no_grad():
        expected = backbone.clip.encode_text(backbone.tokenizer(TEXTS), normalize=True)
    assert_same(backbone.encode_text(TEXTS), expected)
    assert_same(backbone.encode_text(TEXTS[1:2]), expected[1:2])  # cut after its end token, not after the longest's
    assert_same(backbone.scale, backbone.clip.logit_scale.exp())


def project(visual, tokens: torch.Tensor) -> torch.Tensor:
    return F.normalize(visual.ln_post(tokens) @ visual.proj, dim=-1)


def linear_part(block, x: torch.Tensor, part: int) -> torch.Tensor:
    """q, k or v (part 0, 1, 2) of ln_1(x)."""
    width = x.shape[-1]
    rows = slice(part * width, (part + 1) * width)
    h = F.layer_norm(x, (width,), block.ln_1.weight, block.ln_1.bias, block.ln_1.eps)
    return h @ block.attn.in_proj_weight[rows].T + block.attn.in_proj_bias[rows]


def heads_one_by_one(block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    d = v.shape[-1] // block.attn.num_heads
    parts = []
    for h in range(block.attn.num_heads):
        part = slice(h * d, (h + 1) * d)
        logits = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)
        parts.append(logits.softmax(-1) @ v[..., part])
    return torch.cat(parts, -1) @ block.attn.out_proj.weight.T + block.attn.out_proj.bias


def mean_of_neighbours(tokens: torch.Tensor, side: int, beta: float) -> torch.Tensor:
    """Patch by patch: (1 - beta) v + beta mean of the 3 x 3 patches that exist; the class token stays."""
    out = tokens.clone()
    for row in range(side):
        for column in range(side):
            near = [
                1 + r * side + c
                for r in range(max(0, row - 1), min(side, row + 2))
                for c in range(max(0, column - 1), min(side, column + 2))
            ]
            here = 1 + row * side + column
            out[:, here] = (1 - beta) * tokens[:, here] + beta * tokens[:, near].mean(1)
    return out


def surgery_path(clip, pixels: torch.Tensor, beta: float, context_on: str, attention: str, depth: int) -> torch.Tensor:
    """Section by section as the method is described, in double precision."""
    visual = copy.deepcopy(clip.visual).double()
    side, blocks = visual.grid_size[0], visual.transformer.resblocks
    x = visual._embeds(normalised(pixels).double())
    y = x
    for i, block in enumerate(blocks):
        if i == len(blocks) - depth:
            y = x
        if i >= len(blocks) - depth:
            v = linear_part(block, x, 2)
            if context_on == "values":
                v = mean_of_neighbours(v, side, beta)
            if context_on == "embeddings":
                v = linear_part(block, mean_of_neighbours(x, side, beta), 2)
            q, k = (v, v) if attention == "vv" else (linear_part(block, x, 0), linear_part(block, x, 1))
            y = y + block.ls_1(heads_one_by_one(block, q, k, v))
        x = block(x)
    return project(visual, (y if depth else x)[:, 1:])


@pytest.mark.parametrize("depth", [0, 1, 2, 4])
@pytest.mark.parametrize("attention", ["vv", "qk"])
@pytest.mark.parametrize("context_on", ["values", "embeddings", "off"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_surgery_path_equals_the_plain_implementation(tiny_clip, images, kind, context_on, attention, depth):
    backbone = tiny_clip(kind, beta=0.7, context_on=context_on, attention=attention, depth=depth)
    features = backbone.encode_image(images(3, 16), EVERY)
    assert_same(features.patches_vv, surgery_path(backbone.clip, images(3, 16), 0.7, context_on, attention, depth))
    assert torch.equal(features.patches_vv, features.patches) == (depth == 0)


@torch.no_grad()
def test_surgery_path_of_microclip_with_the_defaults(microclip, images):
    expected = surgery_path(microclip.clip, images(3, 32), 0.5, "values", "vv", 3)
    assert_same(microclip.encode_image(images(3, 32), frozenset({"vv"})).patches_vv, expected)


def test_patch_context_changes_the_surgery_path_alone(tiny_clip, images):
    off, on = (tiny_clip("plain", beta=beta).encode_image(images(3, 16), EVERY) for beta in (0.0, 1.0))
    for name in ("cls", "patches", "patches_local"):
        assert torch.equal(getattr(off, name), getattr(on, name)), name
    assert (off.patches_vv - on.patches_vv).abs().max() > 0.01


@torch.no_grad()
def test_local_features_are_locoops(backbone, images):
    pixels, visual = images(3, backbone.image_size), copy.deepcopy(backbone.clip.visual).double()
    x = visual._embeds(normalised(pixels).double())
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    x = x + last.ls_1(last.attn.out_proj(linear_part(last, x, 2)))
    x = x + last.ls_2(last.mlp(last.ln_2(x)))
    assert_same(backbone.encode_image(pixels, EVERY).patches_local, project(visual, x[:, 1:]))


@torch.no_grad()
def test_attention_of_the_class_token_is_open_clips_own(backbone, images):
    """Against ``nn.MultiheadAttention``'s weights in the last block."""
    pixels, visual = images(3, backbone.image_size), backbone.clip.visual
    x = visual._embeds(normalised(pixels))
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    h = last.ln_1(x)
    _, weights = last.attn(h, h, h, need_weights=True, average_attn_weights=False)
    by_head = [weights[:, head, 0, 1:] for head in range(last.attn.num_heads)]
    features = backbone.encode_image(pixels, EVERY | {"class_attention"})
    assert_same(features.class_attention, sum(by_head) / len(by_head))
    assert features.class_attention.shape == (3, math.prod(backbone.grid))
    assert (by_head[0] - by_head[1]).abs().max() > 1e-3  # the heads differ
    assert_same(features.class_attention.sum(1), 1 - weights[:, :, 0, 0].mean(1))


@torch.no_grad()
def test_attention_to_the_class_token_is_fobors(backbone, images):
    pixels, visual = images(3, backbone.image_size), copy.deepcopy(backbone.clip.visual).double()
    x = visual._embeds(normalised(pixels).double())
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    q, k = (last.attn.out_proj(linear_part(last, x, part)) for part in (0, 1))
    rows = [
        [float(patch @ keys[0]) / math.sqrt(len(patch)) for patch in image[1:]]
        for image, keys in zip(q, k, strict=True)
    ]
    expected = torch.tensor([[math.exp(a) / sum(map(math.exp, row)) for a in row] for row in rows])
    assert_same(backbone.encode_image(pixels, frozenset({"attention"})).attention, expected)


@pytest.mark.parametrize("paths", [(), ("clip",), ("vv",), ("local",), ("class_attention",), ("clip", "vv", "local")])
def test_only_the_paths_asked_for_are_there_and_do_not_depend_on_each_other(backbone, images, paths):
    pixels = images(2, backbone.image_size)
    attentions = {"attention", "class_attention"}
    full, part = (backbone.encode_image(pixels, frozenset(p)) for p in (EVERY | attentions, paths))
    assert torch.equal(part.cls, full.cls)
    names = {"clip": "patches", "vv": "patches_vv", "local": "patches_local"} | {name: name for name in attentions}
    for path, name in names.items():
        given = getattr(part, name)
        assert (given is not None) == (path in paths)
        assert given is None or torch.equal(given, getattr(full, name))


def test_features_have_length_one_and_are_fp32_under_autocast(backbone, images):
    pixels = images(2, backbone.image_size)
    exact = backbone.encode_image(pixels, EVERY)
    with torch.autocast("cpu", torch.bfloat16):
        features, text = backbone.encode_image(pixels, EVERY), backbone.encode_text(TEXTS)
    for name in ("cls", "patches", "patches_vv", "patches_local"):
        given = getattr(features, name)
        assert given.dtype == torch.float32
        assert_same(given.norm(dim=-1), torch.ones(given.shape[:-1]))
        assert (given * getattr(exact, name)).sum(-1).min() > 0.99
    assert text.dtype == torch.float32
    assert (text * backbone.encode_text(TEXTS)).sum(-1).min() > 0.99


def test_frozen_means_frozen(tiny_clip, images):
    backbone = tiny_clip("plain")
    around = torch.nn.Sequential(backbone).train()
    assert around.training
    assert not any(module.training for module in backbone.modules())
    assert not any(weight.requires_grad for weight in backbone.parameters())
    assert not backbone.encode_image(images(2, 16), EVERY).cls.requires_grad
    assert not backbone.encode_text(TEXTS).requires_grad


def test_fingerprint_knows_weights_and_nothing_else(build_clip):
    clip, again = build_clip(), build_clip()
    first = fingerprint(clip)
    assert fingerprint(again) == first
    again.visual.proj.data = again.visual.proj.data.T.contiguous().T  # the same values in another memory order
    again._modules = dict(reversed(again._modules.items()))
    assert list(again.state_dict()) != list(clip.state_dict())
    assert fingerprint(again) == first
    again.visual.proj.data[0, 0] += 1e-6
    assert fingerprint(again) != first
    assert fingerprint(torch.nn.ModuleDict({"a": clip})) != first  # the names count
