"""Mining of negative words: nouns and adjectives that are unlike all classes, for the scores neg_label and csp.

Sources: NegLabel, Jiang et al. 2024, arXiv:2403.20078, "NegMining"; CSP, Chen et al. 2024, arXiv:2410.08611, the
conjugated semantic pool.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..data.word_lists import WordList
from ..types import ClassTexts, WordTexts
from ..utils.chunks import by_chunks
from .name_checks import INVISIBLE

Mining = Literal["neg_label", "csp"]
LIKENESS_QUANTILE = 0.95  # over the classes, of a word's cosines
KEPT_FRACTION = 0.15  # of the nouns, and of the adjectives
WORD_GROUPS = 100  # of equal size; the words that are left over are dropped
WORD_SEED = 0  # of the shuffle, and of the nouns that adjectives are joined with


@dataclass(frozen=True)
class Recipe:
    """How one of the methods turns words into prompts.

    Attributes:
        nouns: templates of nouns and of class names, with ``{}``; the features of several are averaged.
        adjectives: those of adjectives.
        joined: nouns one of which follows each adjective; none: the adjective stands alone.
        highest: cosine to a class above which a word is left out.

    Example:
        >>> RECIPES["neg_label"].prompts(WordList(("dog",), ("white",)))
        [['the nice dog'], ['This is a white photo']]
    """

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]
    joined: tuple[str, ...] = ()
    highest: float = math.inf

    def join(self, words: WordList) -> WordList:
        """Words with a noun after each adjective: drawn for each adjective alone, whatever the other words are.

        Example:
            >>> RECIPES["csp"].join(WordList(("dog",), ("white", "old"))).adjectives
            ('white landscape', 'old thing')
        """
        if not self.joined:
            return words
        drawn = (self.joined[stable_number(adjective) % len(self.joined)] for adjective in words.adjectives)
        return WordList(words.nouns, tuple(map(" ".join, zip(words.adjectives, drawn, strict=True))))

    def prompts(self, words: WordList) -> list[list[str]]:
        """The prompts of each noun, then of each adjective (with its noun)."""
        kinds = ((words.nouns, self.nouns), (words.adjectives, self.adjectives))
        return [[t.replace("{}", word) for t in templates] for some, templates in kinds for word in some]


RECIPES: dict[str, Recipe] = {
    "neg_label": Recipe(("the nice {}",), ("This is a {} photo",)),
    "csp": Recipe(
        nouns=(
            *("{}", "the {}", "the good {}", "the nice {}", "a photo of the nice {}.", "a photo with the nice {}."),
            *("a good photo with the nice {}.", "a close-up photo of the nice {}."),
        ),
        adjectives=("{}", "a good photo of {}", "a nice photo of {}", "a close-up photo of {}"),
        joined=(
            *("area", "creature", "environment", "item", "landscape", "object", "pattern", "place", "scene", "space"),
            *("structure", "thing", "view", "vista"),
        ),
        highest=0.95,
    ),
}


def stable_number(text: str) -> int:
    """A pseudo-random number of a text, the same on every machine and for every version."""
    return int.from_bytes(hashlib.sha256(f"{WORD_SEED}/{text}".encode()).digest())


def likeness(words: WordTexts, classes: ClassTexts) -> Float[Tensor, " words"]:
    """m_w: the 0.95-quantile over the classes of a word's cosines, linearly interpolated, (N,) (NegLabel).

    Example:
        >>> likeness(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8], [1.0, 0.0]]))  # between 0.6 and 1
        tensor([0.9800])
    """
    place = LIKENESS_QUANTILE * (len(classes) - 1)  # among the sorted cosines
    low = math.floor(place)
    kept = len(classes) - low

    def quantile(rows: Tensor) -> Tensor:  # torch.quantile takes no tensors as large as a chunk
        top = (rows @ classes.T).topk(kept).values
        return torch.lerp(top[:, -1], top[:, max(kept - 2, 0)], place - low)

    return by_chunks(quantile, (words,), 4 * len(classes))


def choose_unlike(words: WordTexts, classes: ClassTexts, highest: float = math.inf) -> Int[Tensor, " chosen"]:
    """Positions of the 15 % of the words that are least like the classes, least likeness first.

    Args:
        words: features of N nouns, or of N adjectives, (N, D).
        classes: class features, (C, D).
        highest: cosine to a class above which a word is left out (CSP).

    Example:
        >>> choose_unlike(torch.eye(8), torch.eye(8)[:7])  # one of eight
        tensor([7])
    """
    alike = likeness(words, classes)
    nearest = by_chunks(lambda rows: (rows @ classes.T).amax(-1), (words,), 4 * len(classes))
    order = alike.argsort(stable=True)
    return order[(nearest <= highest)[order]][: int(KEPT_FRACTION * len(words))]


def mine_words(
    pool: WordList, features: WordTexts, classes: ClassTexts, highest: float, is_class: Callable[[str], bool]
) -> list[int]:
    """Positions in a pool of the words to compare images with, in the order of their groups.

    Args:
        pool: N words.
        features: of the pool's words, nouns first, (N, D).
        classes: class features by the same templates as nouns, (C, D).
        highest: cosine to a class above which a word is left out.
        is_class: whether a word names a class.
    """
    split, words = len(pool.nouns), [*pool.nouns, *pool.adjectives]
    nouns = choose_unlike(features[:split], classes, highest)
    adjectives = choose_unlike(features[split:], classes, highest) + split
    chosen = [i for i in torch.cat([nouns, adjectives]).tolist() if not is_class(words[i])]
    return shuffle_words(pool, chosen)


def shuffle_words(words: WordList, positions: Sequence[int]) -> list[int]:
    """Positions in a pseudo-random order that depends on each word alone; at most a multiple of 100 if there are more.

    Example:
        >>> shuffle_words(WordList(("dog", "cat"), ("white",)), [0, 1, 2])
        [2, 0, 1]
    """
    keys = [*(f"n/{word}" for word in words.nouns), *(f"a/{word}" for word in words.adjectives)]
    order = sorted(positions, key=lambda i: stable_number(keys[i]))
    return order[: len(order) - len(order) % WORD_GROUPS] if len(order) > WORD_GROUPS else order


def class_tester(tokenize: Callable[[str], list[int]], names: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether a word is the same tokens as a class name, or none.

    Args:
        tokenize: text to token ids.
        names: of all classes.

    Example:
        >>> is_class = class_tester(lambda text: [*map(ord, text.lower())], ["Cat"])
        >>> is_class("cat"), is_class("dog"), is_class("")
        (True, False, True)
    """
    taken = {(), *(tuple(tokenize(INVISIBLE.sub("", name))) for name in names)}
    return lambda word: tuple(tokenize(word)) in taken
