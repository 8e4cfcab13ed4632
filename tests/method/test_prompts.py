"""Prompts as token embeddings, and the contexts that learn."""

import pytest
import torch

from clipos_lightning.errors import InputError
from clipos_lightning.method.prompts import ContextOptions, PromptLearner

NAMES = ["cat", "fire truck", "owl"]
PLAIN = [f"a photo of a {name}." for name in NAMES]


@pytest.fixture(params=["tiny", "MicroCLIP"])
def backbone(request, tiny_clip, microclip):
    return microclip if request.param == "MicroCLIP" else tiny_clip("plain")


def learner(backbone, unknown: str | None = "unknown", seed: int = 1, **context: object) -> PromptLearner:
    return PromptLearner(backbone, NAMES, unknown, ContextOptions(**context), seed=seed)


def parameters(prompts: PromptLearner) -> set[str]:
    return {name for name, _ in prompts.named_parameters()}


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("learn", ["shared", "own", "unknown_only"])
def test_rows_are_the_classes_and_then_unknown(backbone, learn):
    text = learner(backbone, learn=learn, length=4)()
    assert text.shape == (4, backbone.clip.text_projection.shape[1])
    assert_same(text.norm(dim=1), torch.ones(4))
    if learn != "unknown_only":
        assert learner(backbone, None, learn=learn, length=4)().shape[0] == 3


@pytest.mark.parametrize("learn", ["shared", "own"])
def test_words_start_as_the_plain_prompts(backbone, learn):
    text = learner(backbone, learn=learn, words="a photo of a")()
    assert_same(text, backbone.encode_text([*PLAIN, "a photo of a unknown."]))


def test_a_prompt_is_context_then_name_then_stop(backbone):
    prompts, clip = learner(backbone, length=5, seed=3), backbone.clip
    tokens = backbone.tokenizer("fire truck.")[0]
    end = int(tokens.argmax())
    embedded = clip.token_embedding(tokens)
    x = torch.cat([embedded[:1], prompts.context, embedded[1:]])[:16] + clip.positional_embedding
    x = clip.ln_final(clip.transformer(x[None], attn_mask=clip.attn_mask))[0, end + 5] @ clip.text_projection
    assert_same(prompts()[1], x / x.norm())


def grad_of(prompts: PromptLearner, row: int) -> dict[str, bool]:
    """The parameters that this row depends on."""
    prompts.zero_grad()
    prompts()[row, 0].backward()
    return {name: p.grad is not None and bool(p.grad.any()) for name, p in prompts.named_parameters()}


def test_shared_has_one_context_that_every_prompt_moves(backbone):
    prompts = learner(backbone, learn="shared", length=4)
    assert parameters(prompts) == {"context"}
    assert all(grad_of(prompts, row) == {"context": True} for row in range(4))


def test_own_has_a_second_context_for_unknown_alone(backbone):
    prompts = learner(backbone, learn="own", length=4)
    for row in range(3):
        assert grad_of(prompts, row) == {"context": True, "unknown_context": False}
    assert grad_of(prompts, 3) == {"context": False, "unknown_context": True}
    assert parameters(learner(backbone, None, learn="own", length=4)) == {"context"}


def test_unknown_only_keeps_the_class_prompts_whatever_it_learns(backbone):
    prompts = learner(backbone, learn="unknown_only", length=4)
    assert parameters(prompts) == {"unknown_context"}
    before = prompts().detach()
    assert_same(before[:3], backbone.encode_text(PLAIN))
    prompts()[3, 0].backward()
    torch.optim.SGD(prompts.parameters(), lr=100).step()
    after = prompts().detach()
    assert torch.equal(after[:3], before[:3])
    assert (after[3] - before[3]).abs().max() > 1e-3


def test_template_and_unknown_word_are_used(backbone):
    options = ContextOptions(learn="unknown_only", words="a photo of a")
    text = PromptLearner(backbone, NAMES, "alien thing", options, "this is {}, see?")()
    expected = [*(f"this is {name}, see?" for name in NAMES), "a photo of a alien thing."]
    assert_same(text, backbone.encode_text(expected))


def test_the_start_depends_on_the_seed_alone(backbone):
    first = learner(backbone, seed=0, length=8).context
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again, other = (learner(backbone, seed=seed, length=8).context for seed in (0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (8, backbone.clip.token_embedding.embedding_dim)


def test_the_start_has_standard_deviation_0_02(microclip):
    start = torch.cat([learner(microclip, seed=seed, length=8).context.detach() for seed in range(8)])
    assert float(start.std()) == pytest.approx(0.02, rel=0.03)
    assert abs(float(start.mean())) < 0.001


def test_what_learns_is_all_that_is_saved(backbone):
    assert list(learner(backbone, learn="own", length=4).state_dict()) == ["context", "unknown_context"]


def test_prompts_that_are_too_long_name_the_name_and_the_excess(backbone):
    learner(backbone, length=11)  # start, 11, "fire", "truck", ".", end: 16
    with pytest.raises(InputError, match=r"'fire truck\.' takes 17 tokens and .* reads 16: .* by 1$"):
        learner(backbone, length=12)
    with pytest.raises(InputError, match="takes 17 tokens"):
        backbone.encode_text(["one two three four five six seven eight nine ten eleven twelve and so on"])


@pytest.mark.parametrize("context", [{"length": 0}, {"words": ""}, {"learn": "unknown_only"}])
def test_nothing_to_learn_is_an_error(backbone, context):
    unknown = None if "learn" in context else "unknown"
    with pytest.raises(InputError, match=r"leaves nothing to learn|has no words|length is 0"):
        learner(backbone, unknown, **context)


def test_tokens_after_the_last_end_do_not_count(backbone):
    embeddings, ends = backbone.embed_prompts([*PLAIN, "owl"])
    assert embeddings.shape[1] == int(ends.max()) + 1 == 9
    noise = torch.randn(4, 16 - embeddings.shape[1], embeddings.shape[2])
    full = torch.cat([embeddings, noise], 1)
    assert_same(backbone.encode_embeddings(embeddings, ends), backbone.encode_embeddings(full, ends))


def test_gradients_reach_every_token_up_to_the_end(backbone):
    embeddings, ends = backbone.embed_prompts(["cat", "a photo of a cat."])
    embeddings = embeddings.clone().requires_grad_()
    backbone.encode_embeddings(embeddings, ends)[:, 0].sum().backward()
    reached = embeddings.grad.abs().sum(2) > 0
    assert reached.tolist() == [[i <= end for i in range(embeddings.shape[1])] for end in ends.tolist()]
    assert all(weight.grad is None for weight in backbone.parameters())
