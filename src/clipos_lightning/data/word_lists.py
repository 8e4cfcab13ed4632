"""Packaged lists of nouns and adjectives, from which words that are none of the classes are mined."""

import lzma
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from ..options.configs import EMBEDDED_BACKBONE


@dataclass(frozen=True)
class WordList:
    """Nouns and adjectives.

    Attributes:
        nouns: words or phrases.
        adjectives: words, or phrases of an adjective and a noun.

    Example:
        >>> len(WordList(("dog", "cat"), ("white",)))
        3
    """

    nouns: tuple[str, ...]
    adjectives: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.nouns) + len(self.adjectives)


@cache
def wordnet_words() -> WordList:
    """The first word of each noun and adjective synset of WordNet 3.0; ``scripts/make_word_list.py`` made the list.

    Example:
        >>> words = wordnet_words()
        >>> len(words.nouns), len(words.adjectives), words.nouns[-1]
        (56129, 11047, 'zymosis')
    """
    packed = (files("clipos_lightning") / "assets" / "wordnet.txt.xz").read_bytes()
    return parse_words(lzma.decompress(packed).decode())


@cache
def microclip_words() -> WordList:
    """Words of the captions that MicroCLIP was trained with: objects, shapes and styles; colours and patterns.

    Example:
        >>> len(microclip_words())
        248
    """
    return parse_words((files("clipos_lightning") / "assets" / "microclip_words.txt").read_text(encoding="utf-8"))


def parse_words(text: str) -> WordList:
    r"""Parse a list: nouns, one per line, an empty line, adjectives; lines that start with ``#`` are comments.

    Example:
        >>> parse_words("# two of each\nred panda\ndog\n\nwhite\nold\n")
        WordList(nouns=('red panda', 'dog'), adjectives=('white', 'old'))
    """
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    middle = lines.index("")
    return WordList(tuple(lines[:middle]), tuple(lines[middle + 1 :]))


def words_for(backbone: str) -> WordList:
    """The words that a backbone knows: MicroCLIP those of its captions, any other one those of WordNet."""
    return microclip_words() if backbone == EMBEDDED_BACKBONE else wordnet_words()
