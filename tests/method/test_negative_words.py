"""Mining of negative words against loops in double precision, and their packaged lists."""

import hashlib
import importlib
import math
from pathlib import Path

import pytest
import torch

from clipos_lightning.data.classnames import CIFAR10
from clipos_lightning.data.scenes import BACKGROUNDS, COLORS, ID_SHAPES, SEEN_SHAPES
from clipos_lightning.data.word_lists import WordList, microclip_words, words_for
from clipos_lightning.method.negative_words import RECIPES, choose_unlike, likeness, mine_words, shuffle_words

SCRIPTS = Path(__file__).parents[2] / "scripts"
SUPERCLASSES = RECIPES["csp"].joined


def quantile_by_hand(values: list[float], q: float) -> float:
    """Linear interpolation between the two nearest of the sorted values."""
    values, place = sorted(values), q * (len(values) - 1)
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (place - low) * (values[high] - values[low])


def unlike_by_hand(words: torch.Tensor, classes: torch.Tensor, highest: float) -> list[int]:
    """The 15 % of the words with the lowest quantile, those near a class left out."""
    found = []
    for i, word in enumerate(words.double().tolist()):
        cosines = [sum(a * b for a, b in zip(word, c, strict=True)) for c in classes.double().tolist()]
        if max(cosines) <= highest:
            found.append((quantile_by_hand(cosines, 0.95), i))
    return [i for _, i in sorted(found)[: math.floor(0.15 * len(words))]]


@pytest.fixture
def case(unit) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of 90 words and of 7 classes, D = 6."""
    return unit(90, 6), unit(7, 6, seed=1)


@pytest.mark.parametrize("highest", [math.inf, 0.9])
def test_the_words_least_like_the_classes_are_those_of_a_loop(case, highest: float) -> None:
    expected = unlike_by_hand(*case, highest)
    assert choose_unlike(*case, highest).tolist() == expected and len(expected) == 13
    by_hand = [quantile_by_hand((case[1].double() @ word.double()).tolist(), 0.95) for word in case[0]]
    torch.testing.assert_close(likeness(*case).double(), torch.tensor(by_hand, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 20, 21, 1000])
def test_likeness_is_torchs_quantile(count: int, unit) -> None:
    words, classes = unit(9, 4), unit(count, 4, seed=1)
    torch.testing.assert_close(likeness(words, classes), torch.quantile(words @ classes.T, 0.95, dim=1))


def test_a_word_near_one_class_of_many_is_left_out_by_csp_alone() -> None:
    """The quantile over 41 classes does not see a single class."""
    classes = torch.eye(41)
    words = torch.cat([classes[:1], torch.full((6, 41), 41**-0.5)])
    assert choose_unlike(words, classes, RECIPES["neg_label"].highest).tolist() == [0]
    assert choose_unlike(words, classes, RECIPES["csp"].highest).tolist() == [1]


def test_nouns_and_adjectives_are_chosen_apart_and_class_words_dropped(unit) -> None:
    pool = WordList(tuple(f"n{i}" for i in range(60)), tuple(f"a{i}" for i in range(40)))
    features, classes = unit(100, 6), unit(7, 6, seed=1)
    nouns = unlike_by_hand(features[:60], classes, math.inf)
    adjectives = [60 + i for i in unlike_by_hand(features[60:], classes, math.inf)]
    dropped = [*pool.nouns, *pool.adjectives][nouns[0]]
    order = mine_words(pool, features, classes, math.inf, lambda word: word == dropped)
    assert sorted(order) == sorted([*nouns[1:], *adjectives]) and len(order) == 9 - 1 + 6


def test_the_order_depends_on_the_words_alone_and_fills_groups_of_a_hundredth() -> None:
    words = WordList(tuple(f"n{i}" for i in range(200)), tuple(f"n{i}" for i in range(130)))
    order = shuffle_words(words, range(330))
    assert len(order) == 300 == len(set(order)) and order != sorted(order)
    keys = [f"{kind}/n{i}" for kind, n in (("n", 200), ("a", 130)) for i in range(n)]
    assert order == sorted(range(330), key=lambda i: hashlib.sha256(f"0/{keys[i]}".encode()).digest())[:300]
    kept = WordList(
        tuple(f"n{i}" for i in order if i < 200), tuple(f"n{i - 200}" for i in order if i >= 200)
    )  # as a checkpoint has them
    names = [*words.nouns, *words.adjectives]
    again = shuffle_words(kept, range(300))
    assert [[*kept.nouns, *kept.adjectives][i] for i in again] == [names[i] for i in order]
    assert sorted(shuffle_words(words, range(40))) == list(range(40))  # fewer than a hundred: one group


def test_prompts_are_those_of_the_papers() -> None:
    words = WordList(("red panda",), ("white", "old"))
    assert RECIPES["neg_label"].join(words) is words
    assert RECIPES["neg_label"].prompts(words) == [
        *(["the nice red panda"], ["This is a white photo"], ["This is a old photo"]),
    ]
    recipe = RECIPES["csp"]
    joined = recipe.join(words)
    first, second = (word.split(" ") for word in joined.adjectives)
    assert first[0] == "white" and second[0] == "old" and {first[1], second[1]} <= set(SUPERCLASSES)
    assert recipe.join(WordList((), ("old",))).adjectives == joined.adjectives[1:]  # whatever the other words are
    panda, white, _ = recipe.prompts(joined)
    assert len(panda) == 8 and all("red panda" in prompt for prompt in panda)
    assert len(white) == 4 and all(joined.adjectives[0] in prompt for prompt in white)


def test_every_superclass_is_drawn_about_as_often() -> None:
    adjectives = tuple(f"word{i}" for i in range(2800))
    drawn = [phrase.split(" ")[1] for phrase in RECIPES["csp"].join(WordList((), adjectives)).adjectives]
    counts = [drawn.count(noun) for noun in SUPERCLASSES]
    assert len(SUPERCLASSES) == 14 and all(140 <= count <= 260 for count in counts)  # 200 ± 4 standard deviations


def test_likeness_in_chunks_is_the_whole(case, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = choose_unlike(*case)
    monkeypatch.setattr("clipos_lightning.utils.chunks.CHUNK_BYTES", 100)
    assert torch.equal(choose_unlike(*case), expected)


# ---- the packaged lists


@pytest.mark.parametrize("backbone", ["MicroCLIP", "ViT-B-16"])
def test_lists_hold_each_word_once_in_lower_case(backbone: str) -> None:
    words = words_for(backbone)
    for some in (words.nouns, words.adjectives):
        assert len(set(some)) == len(some) and all(word and word == word.strip() and "_" not in word for word in some)
    if backbone != "MicroCLIP":
        assert [word for some in (words.nouns, words.adjectives) for word in some if word != word.lower()] == []
        assert {"snow leopard", "barrow"} <= set(words.nouns) and {"white", "striped"} <= set(words.adjectives)
        assert not {"astronomer", "kilometer"} & set(words.nouns)  # noun.person, noun.quantity


def test_microclips_words_are_in_its_captions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("pretrain_microclip")
    words = microclip_words()
    assert {*ID_SHAPES, *SEEN_SHAPES, *CIFAR10, *script.KNOWN_WORDS.values()} <= set(words.nouns)
    assert set(words.adjectives) == {*COLORS, *BACKGROUNDS}


def test_the_script_takes_first_words_without_some_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    script = importlib.import_module("make_word_list")
    licence = "  1 This software is free.  \n  2   \n  3 As is.  \n"
    nouns = ["00001740 05 n 02 Red_Panda 0 bear_cat 0 000 | a", "00001741 18 n 01 painter 0 000 | b"]
    adjectives = [
        "00001742 00 a 01 ajar(p) 0 000 | c",
        "00001743 01 a 01 papal 0 000 | d",
        "00001744 00 s 01 ajar 1 000 | e",
    ]
    for kind, lines in (("noun", nouns), ("adj", adjectives)):
        (tmp_path / f"data.{kind}").write_text(licence + "\n".join(lines) + "\n")
    script.main([str(tmp_path), "--out", str(tmp_path)])
    assert "1 words of data.noun, 1 words of data.adj" in capsys.readouterr().out
    assert (tmp_path / "WORDNET_LICENSE.txt").read_text() == "This software is free.\n\nAs is.\n"
    import lzma

    from clipos_lightning.data.word_lists import parse_words

    text = lzma.decompress((tmp_path / "wordnet.txt.xz").read_bytes()).decode()
    assert parse_words(text) == WordList(("red panda",), ("ajar",)) and "Princeton University" in text
