"""Checks of class names and other words: whether CLIP's tokenizer tells them apart, and reads a word at all."""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

from ..errors import InputError

INVISIBLE = re.compile(  # soft hyphen, zero-width and direction characters, variation selectors, byte order mark
    "[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufe00-\ufe0f\ufeff]"
)


def check_names(class_names: Sequence[str], unknown_word: str) -> None:
    """Check that class names differ from each other and from the unknown word.

    Raises:
        InputError: one of these does not hold; the message names the option to change.
    """
    same = [name for name in class_names if name.lower() == unknown_word.lower()]  # CLIP's tokenizer lower-cases
    if same:
        raise InputError(f"a class is named {same[0]!r} like the unknown word: choose another --model.unknown_word")
    twice = [name for name, count in Counter(name.lower() for name in class_names).items() if count > 1]
    if twice:
        raise InputError(
            f"the name {twice[0]!r} is given twice (CLIP ignores case): rename one with --data.class_names"
        )


def check_tokens(
    tokenize: Callable[[str], list[int]],
    names: Sequence[str],
    unknown_word: str | None = None,
    option: str = "--data.class_names",
) -> None:
    """Check that the names are different tokens to CLIP, whose tokenizer cleans text, and that each has one.

    The tokenizer ignores case, repeated spaces, HTML escapes and forms of Unicode. Characters that nobody sees, such as
    zero-width spaces, do not count either.

    Args:
        tokenize: text to token ids.
        names: of all classes.
        unknown_word: the name of everything else; None: none.
        option: the option that gives a class another name, for error messages.

    Raises:
        InputError: two names are the same tokens, or a name has none.

    Example:
        >>> check_tokens(lambda text: [len(text)], ["cat", "mouse"])
    """
    seen: dict[tuple[int, ...], str] = {}
    cures = [(name, f"with {option}") for name in names]
    cures += [] if unknown_word is None else [(unknown_word, "as --model.unknown_word")]
    for name, cure in cures:
        tokens = tuple(tokenize(INVISIBLE.sub("", name)))
        if not tokens:
            raise InputError(f"the name {name!r} has no word for CLIP: give another {cure}")
        if tokens in seen:
            alike = len({unicodedata.normalize("NFC", INVISIBLE.sub("", text)) for text in (seen[tokens], name)}) == 1
            first, second = map(ascii if alike else repr, (seen[tokens], name))
            raise InputError(f"{first} and {second} are the same words to CLIP: give another name {cure}")
        seen[tokens] = name


def check_negatives(tokenize: Callable[[str], list[int]], names: Sequence[str], words: Sequence[str]) -> None:
    """Check that negative words are words to CLIP, and none of the classes.

    Args:
        tokenize: text to token ids.
        names: of all classes.
        words: negative words.

    Raises:
        InputError: one is that of a class, or has no token.

    Example:
        >>> check_negatives(lambda text: [len(text)], ["cat"], ["horse"])
    """
    classes = {tuple(tokenize(INVISIBLE.sub("", name))): name for name in names}
    for word in words:
        tokens = tuple(tokenize(INVISIBLE.sub("", word)))
        if not tokens:
            raise InputError(f"--model.negatives: {word!r} has no word for CLIP: remove it")
        if tokens in classes:
            raise InputError(f"--model.negatives: {word!r} is the class {classes[tokens]!r}: remove it")
