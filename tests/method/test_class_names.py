"""Class names that are the same words to CLIP, or no word: refused, with the option that gives another name."""

import pytest
from open_clip import SimpleTokenizer

from clipos_lightning import ClipOS, ContextOptions
from clipos_lightning.errors import InputError
from clipos_lightning.method.name_checks import check_names, check_tokens

pytestmark = pytest.mark.badinput
ENCODE = SimpleTokenizer().encode

SAME = [
    *(("A & B", "A &amp; B"), ("red car", "red  car"), ("caf\u00e9", "cafe\u0301"), ("star", " star ")),
    *(("cat", "\uff43\uff41\uff54"), ("1", "\uff11"), ("red car", "red\u00a0car"), ("dog's", "dog\u2019s")),
    *(("fish", "\ufb01sh"), ("R&D", "R&amp;amp;D"), ("Cat", "cat")),
    *(("star", "star\u200b"), ("star", "\ufeffstar"), ("co-op", "co-\u00adop"), ("star", "\u202estar")),
    *(("\u2764", "\u2764\ufe0f"), ("\u200d\u200cstar", "star")),
]


@pytest.mark.parametrize(("first", "second"), SAME)
def test_names_that_are_the_same_words_to_clip(first: str, second: str) -> None:
    with pytest.raises(InputError, match=r"are the same words to CLIP: give another name with --data.class_names$"):
        check_tokens(ENCODE, ["wolf", first, second])
    with pytest.raises(InputError, match=r"give another name as --model.unknown_word$"):
        check_tokens(ENCODE, ["wolf", first], second)
    with pytest.raises(InputError, match=r"give another name with --class_names$"):
        check_tokens(ENCODE, [first, second], option="--class_names")


@pytest.mark.parametrize("name", ["", " ", "\t", "\u00a0", "\u200b", "\u200d", "\ufeff \u00ad"])
def test_names_without_a_word(name: str) -> None:
    with pytest.raises(InputError, match=r"has no word for CLIP: give another with --data.class_names$"):
        check_tokens(ENCODE, ["cat", name])
    with pytest.raises(InputError, match=r"has no word for CLIP: give another as --model.unknown_word$"):
        check_tokens(ENCODE, ["cat"], name)


def test_names_that_look_alike_are_escaped() -> None:
    with pytest.raises(InputError, match=r"^'caf\\xe9' and 'cafe\\u0301' are the same"):
        check_tokens(ENCODE, ["caf\u00e9", "cafe\u0301"])
    with pytest.raises(InputError, match=r"^'\\u2764' and '\\u2764\\ufe0f' are the same"):
        check_tokens(ENCODE, ["\u2764", "\u2764\ufe0f"])
    with pytest.raises(InputError, match=r"^'A & B' and 'A &amp; B' are the same"):
        check_tokens(ENCODE, ["A & B", "A &amp; B"])


def test_names_that_are_different_words() -> None:
    flags = ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", "\U0001f3f4")  # England's, black
    check_tokens(ENCODE, ["star", "stars", "1", "1.0", "-", "cafe", "caf\u00e9", "IV", "\u2163", *flags], "unknown")


@pytest.mark.parametrize("names", [["Cat", "cat"], ["cat", "dog", "CAT"]])
def test_names_in_capitals_are_found_without_a_tokenizer(names: list[str]) -> None:
    with pytest.raises(InputError, match="'cat' is given twice"):
        check_names(names, "unknown")


@pytest.mark.parametrize(
    ("names", "unknown", "says"),
    [
        (["A & B", "A &amp; B"], "unknown", "--data.class_names"),
        ([" ", "cat"], "unknown", "has no word"),
        (["circle", "star"], "\uff43ircle", "--model.unknown_word"),
        (["circle", "star"], " ", "' ' has no word for CLIP: give another as --model.unknown_word"),
    ],
)
def test_the_module_refuses_them(names: list[str], unknown: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ClipOS(names, backbone="MicroCLIP", unknown_word=unknown, context=ContextOptions(words="a photo of a"))
