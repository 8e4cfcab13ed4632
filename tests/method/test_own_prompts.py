"""Prompts beside those of the classes: without a name, of the classes again, frozen; a context for each class."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.text import encode_whole
from clipos_lightning.errors import InputError
from clipos_lightning.method.own_prompts import FrozenTexts, NamelessPrompts, PromptMaker
from clipos_lightning.method.prompts import ContextOptions, PromptLearner

NAMES = ["cat", "fire truck", "owl"]
WORDINGS = [{"names": ["cat", "tabby cat"]}, {"names": ["fire truck"]}, {"names": ["owl", "barn owl", "night bird"]}]


@pytest.fixture(params=["plain", "layer_scale", "MicroCLIP"])
def backbone(request: pytest.FixtureRequest, tiny_clip: Callable[..., FrozenClip], microclip: FrozenClip) -> FrozenClip:
    """With a text tower that can share the work on a prefix, or not (layer_scale)."""
    return microclip if request.param == "MicroCLIP" else tiny_clip(request.param)


def assert_same(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


# ---- without a name


@pytest.mark.parametrize(("shared", "own"), [(0, 4), (5, 1), (3, 2), (12, 1)])
def test_each_is_start_shared_own_stop_end(backbone: FrozenClip, shared: int, own: int) -> None:
    prompts, table = NamelessPrompts(backbone, 4, shared, own, seed=3), backbone.clip.token_embedding
    assert {name for name, _ in prompts.named_parameters()} == {"own", *(["shared"] if shared else [])}
    assert list(prompts.state_dict()) == [name for name, _ in prompts.named_parameters()]
    start, stop, end = (table(torch.tensor([int(i)])) for i in backbone.tokenizer(".")[0][:3])
    rows = []
    for tokens in prompts.own:
        parts = [start, *([] if prompts.shared is None else [prompts.shared]), tokens, stop, end]
        whole = torch.cat(parts)[None]
        rows.append(encode_whole(backbone.clip, whole, torch.tensor([whole.shape[1] - 1])))
    assert_same(prompts(), torch.cat(rows))
    assert_same(prompts().norm(dim=1), torch.ones(4))


def test_a_prompt_depends_on_its_own_tokens_and_the_shared_ones(backbone: FrozenClip) -> None:
    prompts = NamelessPrompts(backbone, 4, 2, 3, seed=3)
    prompts()[1, 0].backward()
    assert prompts.shared.grad.abs().sum(1).gt(0).all()
    assert prompts.own.grad.abs().sum(2).gt(0).tolist() == [[i == 1] * 3 for i in range(4)]
    assert all(weight.grad is None for weight in backbone.parameters())


def test_the_tokens_depend_on_the_seed_alone(backbone: FrozenClip) -> None:
    maker = PromptMaker(backbone, NAMES, ContextOptions(length=4), seed=1)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first, again = (maker.nameless(3, shared=4, own=4) for _ in range(2))
    other = PromptMaker(backbone, NAMES, ContextOptions(length=4), seed=2).nameless(3, shared=4, own=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.own, again.own) and torch.equal(first.shared, again.shared)
    tokens = [first.shared, *first.own, other.shared, *other.own]
    for seed in (1, 2):
        maker = PromptMaker(backbone, NAMES, ContextOptions(length=4), seed)
        tokens.append(PromptLearner(backbone, NAMES, None, maker.context, seed=seed).context)
        tokens += [maker.classes(number).context for number in (1, 2)]
    assert len({tuple(rows[0].tolist()) for rows in tokens}) == len(tokens)


def test_the_tokens_have_standard_deviation_0_02(microclip: FrozenClip) -> None:
    prompts = NamelessPrompts(microclip, 100, 2, 10, seed=0)
    assert float(prompts.own.detach().std()) == pytest.approx(0.02, rel=0.03)
    assert abs(float(prompts.own.detach().mean())) < 0.001


@pytest.mark.badinput
@pytest.mark.parametrize(("shared", "own", "most"), [(13, 1, 12), (0, 14, 13)])
def test_prompts_that_are_too_long_name_the_largest_length(
    shared: int, own: int, most: int, tiny_clip: Callable[..., FrozenClip]
) -> None:
    backbone = tiny_clip("plain")
    with pytest.raises(InputError, match=rf"prompts of 17 tokens .* reads 16: set its length to at most {most}$"):
        NamelessPrompts(backbone, 2, shared, own, seed=1)
    longest = {"shared": most, "own": own} if shared else {"shared": 0, "own": most}
    assert NamelessPrompts(backbone, 2, **longest, seed=1)().shape == (2, 20)
    with pytest.raises(InputError, match="0 prompts without a name: take at least 1"):
        NamelessPrompts(backbone, 0, 1, 1, seed=1)


# ---- frozen, and of the classes again


def test_frozen_texts_are_those_of_the_text_tower(backbone: FrozenClip) -> None:
    prompts = ["a photo of a background.", "sky"]
    made = PromptMaker(backbone, NAMES, ContextOptions(), seed=1).frozen(prompts)
    assert isinstance(made, FrozenTexts) and not list(made.parameters()) and not made.state_dict()
    assert_same(made(), backbone.encode_text(prompts))


@pytest.mark.parametrize("wordings", [None, WORDINGS])
def test_further_prompts_of_the_classes(backbone: FrozenClip, wordings: Any) -> None:
    """They start as the options say, without "unknown", and are PromptLearners of other seeds."""
    options = ContextOptions(length=3, learn="own", class_specific=True)
    maker = PromptMaker(backbone, NAMES, options, seed=5, wordings=wordings)
    first, second = maker.classes(1, class_specific=False), maker.classes(2)
    assert first.context.shape[0] == 3 and second.context.shape[:2] == (3, 3)
    plain = PromptLearner(backbone, NAMES, None, ContextOptions(length=3), seed=5 + 10**6, wordings=wordings)
    assert torch.equal(first(), plain())
    assert first().shape == second().shape == (3, maker.dim)
    words = PromptMaker(backbone, NAMES, ContextOptions(words="a photo of a"), 5, wordings).classes(1)
    prompts = [f"a photo of a {name}." for name in NAMES]
    if wordings is None:
        assert_same(words(), backbone.encode_text(prompts))


# ---- a context for each class


@pytest.mark.parametrize("learn", ["shared", "own"])
@pytest.mark.parametrize("wordings", [None, WORDINGS])
@pytest.mark.parametrize("unknown", [None, "unknown"])
def test_a_context_for_each_class_is_that_many_learners(
    backbone: FrozenClip, learn: Any, wordings: Any, unknown: str | None
) -> None:
    """Row c equals that of a learner whose only context is the class's; "unknown" has one of its own too."""
    options = ContextOptions(length=3, learn=learn, class_specific=True)
    learner = PromptLearner(backbone, NAMES, unknown, options, seed=2, wordings=wordings)
    shared = unknown is not None and learn == "shared"
    assert learner.context.shape[:2] == (3 + shared, 3)
    one = PromptLearner(backbone, NAMES, unknown, ContextOptions(length=3), wordings=wordings)
    contexts = list(learner.context.detach())
    if learner.unknown_context is not None:
        contexts.append(learner.unknown_context.detach())
    assert len(contexts) == len({tuple(c.flatten().tolist()) for c in contexts}) or learn == "own"
    rows = []
    for c, context in enumerate(contexts):
        one.context.data = context
        rows.append(one()[c])
    assert_same(learner(), torch.stack(rows))
    learner()[1, 0].backward()
    assert learner.context.grad.abs().sum((1, 2)).gt(0).tolist() == [c == 1 for c in range(3 + shared)]


def test_contexts_of_words_start_alike(backbone: FrozenClip) -> None:
    options = ContextOptions(words="a photo of a", class_specific=True)
    learner = PromptLearner(backbone, NAMES, "unknown", options)
    shared = PromptLearner(backbone, NAMES, "unknown", ContextOptions(words="a photo of a"))
    assert all(torch.equal(context, shared.context) for context in learner.context)
    assert_same(learner(), shared())


@pytest.mark.badinput
def test_a_context_for_each_class_where_the_classes_have_none(tiny_clip: Callable[..., FrozenClip]) -> None:
    options = ContextOptions(learn="unknown_only", class_specific=True)
    with pytest.raises(InputError, match=r"class_specific true .*unknown_only the classes have none"):
        PromptLearner(tiny_clip("plain"), NAMES, "unknown", options)


def test_a_frozen_prompt_that_is_too_long_names_its_option(microclip: FrozenClip) -> None:
    with pytest.raises(InputError, match=r"takes 2\d tokens .*shorten .*--model\.objective"):
        FrozenTexts(microclip, ["a photo of " + "a very " * 9 + "thing."])
