"""``--data.class_names``: keys and names are text as written, each key once."""

from pathlib import Path

import pytest

from clipos_lightning.data.class_prompts import read_wordings
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput

UNQUOTED = [
    "1.1",
    "1.10",
    "010",
    "8",
    "0x8",
    "1e3",
    "1_000",
    "yes",
    "NO",
    "on",
    "null",
    "~",
    "2024-01-01",
    "12:30",
    ".5",
]


def read(tmp_path: Path, text: str, keys: list[str]) -> list[list[str]]:
    file = tmp_path / "names.yaml"
    file.write_text(text, encoding="utf-8")
    return [wording["names"] for wording in read_wordings(str(file), keys, [key.replace("_", " ") for key in keys])]


def test_every_key_stays_with_its_class(tmp_path: Path) -> None:
    text = "".join(f"{key}: word {i}\n" for i, key in enumerate(UNQUOTED))
    assert read(tmp_path, text, UNQUOTED) == [[f"word {i}"] for i in range(len(UNQUOTED))]


@pytest.mark.parametrize("given", UNQUOTED)
def test_a_key_names_no_other_class(given: str, tmp_path: Path) -> None:
    """The wording of 1.10 is not that of 1.1, which YAML takes for the same number."""
    others = [
        key for key in ("1.1", "1.10", "8", "010", "10", "1000", "1000.0", "True", "False", "None") if key != given
    ]
    with pytest.raises(InputError, match=r"names\.yaml names .*, which is not a class"):
        read(tmp_path, f"{given}: square\n", others)


@pytest.mark.parametrize("name", UNQUOTED)
def test_names_are_text_too(name: str, tmp_path: Path) -> None:
    text = f"a: {name}\nb: [{name}, '{name}', word]\nc: {{names: {name}}}\n"
    assert read(tmp_path, text, ["a", "b", "c"]) == [[name], [name, "word"], [name]]


@pytest.mark.parametrize("key", ["red_fox", "010", "'red fox'", "null"])
def test_a_key_given_twice(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--data\.class_names: cannot read .*names\.yaml, line 3: .* a second time"):
        read(tmp_path, f"{key}: a\nwolf: b\n{key}: c\n", ["red_fox", "wolf"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must map each class folder to its wording"),
        ("# nothing\n", "must map"),
        ("- cat\n", "must map"),
        ("cat\n", "must map"),
        ("cat:\n", "cat must be a name, or a list of names"),
        ("cat: []\n", "cat must be a name, or a list of names"),
        ("cat: [[tabby]]\n", "cat must be a name, or a list of names"),
        ("cat: !!int 3\n", "cat must be a name, or a list of names"),
        ("cat: {name: tabby}\n", "takes names and templates"),
        ("cat: {names: tabby, templates: [a photo]}\n", "each template must contain {} exactly once"),
        ("_templates: a photo of a {}\n", "not valid YAML|must be a list of templates"),
        ("cat: tabby\n\tdog: x\n", "line 2: not valid YAML"),
        ("mouse: a\n", "names 'mouse', which is not a class"),
    ],
)
def test_wrong_files(text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"^--data.class_names: .*names.yaml.*({says})") as caught:
        read(tmp_path, text, ["cat", "dog"])
    assert str(caught.value).isprintable()


def test_a_byte_order_mark(tmp_path: Path) -> None:
    assert read(tmp_path, "\ufeffcat: tabby\n", ["cat", "dog"]) == [["tabby"], ["dog"]]
