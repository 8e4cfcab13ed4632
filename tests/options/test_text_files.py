"""Text and JSON files of users: one line for what cannot be read."""

import json
from pathlib import Path

import pytest

from clipos_lightning.data.classnames import read_class_list
from clipos_lightning.data.splits import read_shots
from clipos_lightning.errors import InputError
from clipos_lightning.options.text_files import read_json, read_text_file

pytestmark = pytest.mark.badinput

JSON = {
    "empty": ("", "not JSON: .*line 1"),
    "cut off": ('{"a": [1,\n 2', "not JSON: .*line 2"),
    "deep lists": ("[" * 200_000, "not JSON: it is nested too deeply"),
    "deep mappings": ('{"a":' * 200_000, "not JSON: it is nested too deeply"),
    "number of many digits": ("1" * 5000, "not JSON: Exceeds the limit"),
}


@pytest.mark.parametrize("kind", JSON)
def test_what_is_not_json(kind: str, tmp_path: Path) -> None:
    text, says = JSON[kind]
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=rf"^cannot read .*x\.json: it is {says}") as caught:
        read_json(tmp_path / "x.json", "cannot read")
    assert str(caught.value).isprintable()


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("\ufeffcat\n", encoding="utf-8")
    assert read_text_file(tmp_path / "x", "") == "cat\n"


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(InputError, match="/dev/zero: it is larger than 1 MiB"):
        read_text_file("/dev/zero", "cannot read", max_mib=1)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "3", "[" * 9999, "\xe9"),
        '{"images": {}}',
        '{"images": [], "shots": 1, "seed": 1}',
        '{"images": {"cat": "ab"}, "shots": 1, "seed": 1}',
        '{"images": {"cat": [null]}, "shots": 1, "seed": 1}',
        '{"images": {"cat": ["a", "a"]}, "shots": 2, "seed": 1}',
        '{"images": {"cat": [1, "1"]}, "shots": 2, "seed": 1}',
        '{"images": {"cat": ["a"]}, "shots": "1", "seed": 1}',
        '{"images": {"cat": ["a"]}, "shots": 0, "seed": 1}',
        '{"images": {"cat": ["a"]}, "shots": true, "seed": 1}',
        '{"images": {"cat": ["a"]}, "shots": 1, "seed": 1.5}',
        '{"images": {"cat": ["a"]}, "shots": 1, "seed": -1}',
        '{"images": {"cat": ["a"]}, "shots": 1, "seed": NaN}',
        '{"images": {"cat": ["a"]}, "shots": 1}',
    ],
)
def test_what_is_no_draw(text: str, tmp_path: Path) -> None:
    (tmp_path / "shots.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"^--data.shots_file: .*shots\.json"):
        read_shots(str(tmp_path / "shots.json"))


def test_a_draw(tmp_path: Path) -> None:
    (tmp_path / "shots.json").write_text(json.dumps({"images": {"cat": [1]}, "shots": "all", "seed": 3}))
    assert read_shots(str(tmp_path / "shots.json")) == ({"cat": ["1"]}, 3, "all")


@pytest.mark.parametrize(
    ("content", "says"), [(b"cat\ndog\xff\n", "0xff in line 2"), (b"cat\ncat\n", "twice"), (b"", "names 0 classes")]
)
def test_a_wrong_class_list(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    with pytest.raises(InputError, match=rf"^--data.class_list: .*classes\.txt.* {says}"):
        read_class_list(str(tmp_path / "classes.txt"))
