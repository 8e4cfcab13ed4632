"""YAML that users write: as text where it is text, each key once, and refused in one line, at once, where it is not."""

import time
from pathlib import Path

import pytest
import yaml

from clipos_lightning.errors import InputError
from clipos_lightning.options.configs import config_folder, read_config
from clipos_lightning.options.yaml_files import (
    MAX_DEPTH,
    MAX_MIB,
    MAX_REPEATED,
    MAX_REPEATED_TEXT,
    check_yaml,
    read_yaml,
)

pytestmark = pytest.mark.badinput


def bomb(levels: int, width: int = 10) -> str:
    """Lists of aliases of lists of aliases …: width ** levels values."""
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * width)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


def merge_bomb(levels: int) -> str:
    """Mappings that merge ten copies of the mapping above them."""
    lines = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}" for i in range(1, levels)]
    return "\n".join(["a0: &a0 {x: 1}", *lines])


BAD = {
    "two sections": ("model: {a: 1}\ndata: {b: 2}\nmodel: {c: 3}\n", "line 3: 'model' is a second time"),
    "two options": ("data:\n  shots: 1\n  seed: 2\n  shots: 4\n", r"line 4: 'shots' .*first in line 2"),
    "in a list": ("rows:\n- {a: 1, b: 2, a: 3}\n", "line 2: 'a' is a second time"),
    "quoted and not": ("'010': a\n010: b\n", "line 2: '010' is a second time"),
    "two merges": ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "line 4: '<<' is a second time"),
    "bomb": (bomb(9), r"line 3: aliases \(\*a1\) stand for too many values"),
    "larger bomb": (bomb(40), "stand for too many values"),
    "moderate bomb": (bomb(4), "stand for too many values"),
    "merges": (merge_bomb(9), "too many values"),
    "alias of itself": ("a: &a [1, *a]\n", "line 1: aliases"),
    "deep lists": ("[" * 90_000 + "]" * 90_000, "line 1: .*nest"),
    "deep mappings": ("{a: " * 900 + "1" + "}" * 900, "nested more than"),
    "deep blocks": ("".join(f"{' ' * i}a:\n" for i in range(2000)), "nested more than"),
    "tab": ("data:\n\tshots: 1\n", "line 2: not valid YAML: .*spaces, not with tabs"),
    "open list": ("data: [1\nmodel: 2\n", "line 2: not valid YAML"),
    "null character": ("a: 1\nb: \0\n", "line 2: not valid YAML"),
    "two documents": ("a: 1\n---\nb: 2\n", "line 2: not valid YAML"),
    "no such alias": ("a: 1\nb: *c\n", "line 2: not valid YAML: found undefined alias"),
    "code": ("a: !!python/object/apply:os.mkdir [x]\n", "line 1: not valid YAML: could not determine a constructor"),
    "list as a key": ("? [1, 2]\n: 3\n", "line 1: not valid YAML: found unhashable key"),
    "number of many digits": ("a: 1" + "0" * 5000, "not valid YAML"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_is_refused_in_one_line_at_once(kind: str, tmp_path: Path) -> None:
    text, says = BAD[kind]
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    started = time.perf_counter()
    with pytest.raises(InputError, match=f"^cannot read config .*mine.yaml.*{says}") as caught:
        read_yaml(path, "cannot read config")
    assert time.perf_counter() - started < 1
    assert str(caught.value).isprintable() and len(str(caught.value)) < len(str(path)) + 250


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: 1\nb: \xff\n", "not UTF-8 text .byte 0xff in line 2.; save it as UTF-8"),
        ("a: é\n".encode("latin-1"), "not UTF-8 text .byte 0xe9 in line 1."),
        ("a: 1\n".encode("utf-16"), "not UTF-8 text .byte 0xff in line 1."),
        (b"#" * (MAX_MIB * 2**20 + 1), f"larger than {MAX_MIB} MiB"),
        (None, "No such file"),
    ],
)
def test_files_that_are_not_text(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^cannot read config .*mine.yaml: .*{says}"):
        read_yaml(path, "cannot read config")


AS_WRITTEN = (
    "010",
    "1.10",
    "1_000",
    "0x1F",
    "1e3",
    "yes",
    "No",
    "on",
    "null",
    "~",
    "2024-01-01",
    "12:30:45",
    ".inf",
    "=",
)


@pytest.mark.parametrize("text", AS_WRITTEN)
def test_text_stays_as_it_is_written(text: str, tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text(f"\ufeff{text}: {text}\nquoted: '{text}'\nlist: [{text}, b]\nmap: {{names: {text}}}\n", "utf-8")
    found = read_yaml(path, "names:", as_text=True)
    assert found == {text: text, "quoted": text, "list": [text, "b"], "map": {"names": text}}
    path.write_text(f"{text}: 1\nmap: {{{text}: 0.5}}\nmore: &m {{x: 1}}\nmerged: {{<<: *m, {text}: [yes]}}\n")
    assert read_yaml(path, "names:") == {
        **{text: 1, "map": {text: 0.5}},
        **{"more": {"x": 1}, "merged": {"x": 1, text: [True]}},
    }


def test_keys_that_are_one_number_are_two_keys(tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text("rows: {1.1: {a: 1.10}, 1.10: {a: 1.1}, 8: 8, 010: 010, yes: yes, 'true': no}\n")
    rows = read_yaml(path, "")["rows"]
    assert rows == {"1.1": {"a": 1.1}, "1.10": {"a": 1.1}, "8": 8, "010": 8, "yes": True, "true": False}


def test_aliases_and_merges_of_reasonable_size(tmp_path: Path) -> None:
    path = tmp_path / "names.yaml"
    path.write_text("a: &a {templates: [x, y]}\nb: {<<: *a, names: z}\nc: *a\n")
    for as_text in (True, False):
        common = {"templates": ["x", "y"]}
        assert read_yaml(path, "", as_text) == {"a": common, "b": {**common, "names": "z"}, "c": common}
    for most in (MAX_REPEATED, MAX_REPEATED_TEXT):
        text = f"a: &a [{', '.join('x' * 99)}]\nb: [{', '.join(['*a'] * (most // 100))}]\n"
        check_yaml(text, "at the limit", most)
        with pytest.raises(InputError, match="too many"):
            check_yaml(text.replace("[*a", "[*a, *a"), "above it", most)
    check_yaml("[" * MAX_DEPTH + "]" * MAX_DEPTH, "at the limit")
    with pytest.raises(InputError, match=f"more than {MAX_DEPTH} levels"):
        check_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "above it")


@pytest.mark.parametrize("path", sorted(config_folder().rglob("*.yaml")), ids=lambda path: path.name)
def test_shipped_files_keep_their_types(path: Path) -> None:
    assert read_config(path) == yaml.safe_load(path.read_text(encoding="utf-8"))
