"""Prompts that share their prefix: features and gradients equal those of full prompts and open_clip's."""

import pytest
import torch

from clipos_lightning.clip.support import is_clip_block
from clipos_lightning.clip.text import encode_shared, encode_whole


@pytest.mark.parametrize("kind", ["plain", "layer_scale", "quick_gelu"])
@pytest.mark.parametrize(("start", "length"), [(1, 1), (1, 5), (5, 3), (9, 7)])
def test_a_shared_prefix_equals_whole_prompts_and_so_does_its_gradient(build_clip, kind, start, length):
    clip = build_clip(kind).requires_grad_(False)
    assert all(is_clip_block(block) for block in clip.transformer.resblocks)
    generator = torch.Generator().manual_seed(start)
    prefix = torch.randn(start, 24, generator=generator, requires_grad=True)
    suffixes = torch.randn(6, length, 24, generator=generator)
    ends = torch.randint(0, length, (6,), generator=generator)
    weights = torch.randn(6, 20, generator=generator)
    found, gradients = [], []
    for shared in (True, False):
        if shared:
            out = encode_shared(clip, prefix, suffixes, ends)
        else:
            out = encode_whole(clip, torch.cat([prefix.expand(6, -1, -1), suffixes], 1), ends + start)
        (gradient,) = torch.autograd.grad((weights * out).sum(), prefix)
        found.append(out)
        gradients.append(gradient)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-4)


def test_prompts_of_one_length_and_of_many_need_no_padding(build_clip):
    """Tokens after the end token are not read."""
    clip = build_clip("quick_gelu").requires_grad_(False)
    prefix, suffixes = torch.randn(3, 24), torch.randn(5, 4, 24)
    ends = torch.tensor([2, 0, 3, 0, 2])
    expected = encode_shared(clip, prefix, suffixes, ends)
    for i, end in enumerate(ends.tolist()):
        suffixes[i, end + 1 :] = torch.nan
        alone = encode_shared(clip, prefix, suffixes[i : i + 1, : end + 1], ends[i : i + 1])
        torch.testing.assert_close(alone, expected[i : i + 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(encode_shared(clip, prefix, suffixes, ends), expected, atol=1e-5, rtol=1e-5)


def test_whole_prompts_equal_open_clips_own_encoding(build_clip, tokenizer):
    clip = build_clip()
    tokens = tokenizer(["a photo of a cat.", "a dog"])
    embeddings, ends = clip.token_embedding(tokens), tokens.argmax(1)
    expected = torch.nn.functional.normalize(clip.encode_text(tokens), dim=-1)
    torch.testing.assert_close(encode_whole(clip, embeddings, ends), expected, atol=1e-5, rtol=1e-5)
    longest = int(ends.max()) + 1
    cut = encode_whole(clip, embeddings[:, :longest], ends)
    torch.testing.assert_close(cut, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "layer_scale", "quick_gelu"])
def test_plain_prompts_are_encoded_as_open_clip_does_in_any_order_and_number(tiny_clip, tokenizer, monkeypatch, kind):
    backbone = tiny_clip(kind)
    names = ["cat", "dog", "fire truck", "plum-shaped bowl", "catfish", "cat"]
    prompts = [template.format(name) for name in names for template in ("a {}.", "the nice {}", "a photo of a {}.")]
    tokens = tokenizer(prompts, context_length=backbone.clip.context_length)
    expected = torch.nn.functional.normalize(backbone.clip.encode_text(tokens), dim=-1)
    for some in (range(len(prompts)), [4, 2, 0, 2], [1], [1, 1, 1]):
        torch.testing.assert_close(backbone.encode_text([prompts[i] for i in some]), expected[some], atol=2e-6, rtol=0)
    monkeypatch.setattr("clipos_lightning.clip.backbone.TEXT_BATCH", 5)
    torch.testing.assert_close(backbone.encode_text(prompts), expected, atol=2e-6, rtol=0)
