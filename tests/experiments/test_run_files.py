"""Files of a benchmark's folder that were changed: the file and the part are named."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipos_lightning import InputError
from clipos_lightning.experiments.run_files import read_plan, read_run, read_scores, read_tests

pytestmark = pytest.mark.badinput
RUN: dict[str, Any] = {"id": "a-1", "scores": ["msp"], "draw": None, "detector": {"class_names": ["cat", "dog"]}}
TESTS: dict[str, Any] = {
    "id": {"name": "x", "n": 2},
    "ood": {"y": "near"},
    "limit_per_set": None,
    "ood_resolution": "id",
}
ENTRY = {"row": "a", "name": "a", "grid_point": {}, "seed": 1, "run": "a-1", "score": "msp", "baseline": False}
PLAN: dict[str, Any] = {
    **{"schema": 2, "name": "g", "kind": "detectors", "title": "G", "reference": ""},
    "entries": [{**ENTRY, "group": "", "value": ""}],
}
ARRAYS = {"predicted": np.array([0, 1]), "msp": np.array([0.5, 0.7]), "labels": np.array([0, 0]), "keys": np.array("d")}
READERS = {
    "run.json": (read_run, RUN),
    "tests.json": (read_tests, TESTS),
    "grid.json": (read_plan, PLAN),
}


def write(folder: Path, file: str, content: Any) -> None:
    (folder / file).write_text(content if isinstance(content, str) else json.dumps(content))


def test_files_as_they_were_written(tmp_path: Path) -> None:
    for file, (reader, content) in READERS.items():
        write(tmp_path, file, content)
        assert reader(tmp_path) == content
    np.savez(tmp_path / "id.npz", **ARRAYS)
    assert read_scores(tmp_path, "id").keys() == ARRAYS.keys()


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("run.json", "scores", "msp", "scores is 'msp', expected a list"),
        ("run.json", "scores", [], "scores is []"),
        ("run.json", "draw", 3, "draw is 3, expected text or null"),
        ("run.json", "detector", ..., "detector is missing"),
        ("run.json", "detector", {"class_names": "cat"}, "detector.class_names is 'cat'"),
        ("tests.json", "id", [], "id is [], expected a mapping"),
        ("tests.json", "id", {"name": "x", "n": "2"}, "id.n is '2', expected a whole number, at least 0"),
        ("tests.json", "ood", ["y"], "ood is ['y'], expected a mapping"),
        ("tests.json", "ood", {"y": 1}, "ood.y is 1, expected text or null"),
        ("tests.json", "limit_per_set", 0, "limit_per_set is 0"),
        ("grid.json", "entries", {}, "entries is {}, expected a list"),
        ("grid.json", "entries", [], "it has no table entries"),
        ("grid.json", "entries", [[]], "entries[0] is [], expected a mapping"),
        ("grid.json", "entries", [ENTRY], "entries[0].group is missing"),
        ("grid.json", "name", None, "name is None, expected text"),
        ("grid.json", "kind", "runs", "kind is 'runs', expected detectors or masks"),
        ("grid.json", "schema", "2", "of another version"),
    ],
)
def test_a_part_that_does_not_fit(file: str, key: str, value: Any, says: str, tmp_path: Path) -> None:
    reader, content = READERS[file]
    write(tmp_path, file, {k: v for k, v in {**content, key: value}.items() if v is not ...})
    with pytest.raises(InputError, match=rf"{re.escape(file)} is .*{re.escape(says)}.* again"):
        reader(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 9999, '{"a": 1'])
@pytest.mark.parametrize("file", READERS)
def test_other_text(file: str, text: str, tmp_path: Path) -> None:
    write(tmp_path, file, text)
    with pytest.raises(InputError, match=re.escape(file)):
        READERS[file][0](tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("predicted", None),
        ("predicted", np.array(["a", "b"])),
        ("predicted", np.array([0])),
        ("msp", None),
        ("msp", np.ones((2, 2))),
        ("msp", np.array(0.5)),
        ("labels", None),
        ("labels", np.array([0, 0, 1])),
        ("keys", None),
    ],
)
def test_arrays_that_do_not_fit(name: str, value: Any, tmp_path: Path) -> None:
    write(tmp_path, "run.json", RUN)
    arrays = {k: v for k, v in {**ARRAYS, name: value}.items() if v is not None}
    np.savez(tmp_path / "id.npz", **arrays)
    with pytest.raises(InputError, match=r"id\.npz is broken: .*; run the benchmark again"):
        read_scores(tmp_path, "id")


def test_what_is_no_npz(tmp_path: Path) -> None:
    write(tmp_path, "run.json", RUN)
    np.savez(tmp_path / "whole.npz", **ARRAYS)
    whole = (tmp_path / "whole.npz").read_bytes()
    entry = whole.index(b"PK\1\2")  # of the first array, in the archive's list
    encrypted, packed = bytearray(whole), bytearray(whole)
    encrypted[entry + 8] = encrypted[6] = 1
    packed[entry + 10] = packed[8] = 99  # a method of compression that does not exist
    for content in (b"", b"PK broken", whole[:300], bytes(encrypted), bytes(packed)):
        (tmp_path / "id.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"id\.npz is broken"):
            read_scores(tmp_path, "id")
