"""Folders of runs and benchmarks changed at random: tables and numbers, or one line; never another error."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import REFUSED, as_json, changed, damaged, damaged_text, fewer, json_files, mostly, outcome, yaml_files
from hypothesis import given
from hypothesis import strategies as st
from running import clipos, refused

from clipos_lightning.cli.rerun import changed_versions, read_numbers, recorded_words
from clipos_lightning.utils.locks import describe_holder

pytestmark = pytest.mark.badinput

# ---- a benchmark

ENTRY = {"grid_point": {"data.shots": 1}, "score": "msp", "group": "", "value": ""}
PLAN = {
    **{"schema": 2, "name": "g", "kind": "detectors", "title": "G", "reference": "a"},
    "entries": [
        {**ENTRY, "row": row, "name": row, "seed": seed, "run": f"{row}-{seed}{row}", "baseline": row == "a"}
        for row in "ab"
        for seed in (1, 2)
    ],
}
FOLDERS = [entry["run"] for entry in PLAN["entries"]]  # type: ignore[index]
RUN = {"scores": ["msp", "energy"], "draw": None, "detector": {"class_names": ["cat", "dog"]}}
TESTS = {"id": {"name": "x", "n": 4}, "ood": {"y": "near", "z/1": None}, "limit_per_set": None, "ood_resolution": "id"}
ARRAYS: dict[str, Any] = {
    "predicted": np.array([0, 1, 1, 0]),
    "msp": np.array([0.5, 0.7, 0.1, 0.9]),
    "energy": np.array([1.0, -2.0, 3.0, 0.0], np.float32),
    "keys": np.array("digest"),
    "labels": np.array([0, 1, 0, 0]),
}
OTHERS = (
    *(np.array(4.0), np.zeros(0), np.zeros((4, 2)), np.arange(5.0), np.zeros(4, complex), np.zeros(4, bool)),
    *(np.array(list("abcd")), np.full(4, np.nan), np.full(4, np.inf), np.full(4, 1e308), np.arange(4).astype(np.int8)),
    *(
        np.array([2**63 - 1] * 4),
        np.zeros(4, np.float16),
        np.zeros(4, [("x", "f4")]),
        np.zeros(4, "M8[s]"),
        np.array(""),
    ),
)


def as_npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


@st.composite
def array_files(draw: st.DrawFn, valid: dict[str, Any]) -> bytes:
    """An npz file with other arrays, or damaged."""
    arrays = dict(valid)
    name = draw(st.sampled_from(sorted(arrays)))
    other = draw(st.sampled_from((None, "damage", *OTHERS)))
    if isinstance(other, str):
        return draw(damaged(as_npz(arrays)))
    arrays[name] = other
    return as_npz({name: array for name, array in arrays.items() if array is not None})


FILES: dict[str, tuple[bytes, st.SearchStrategy[bytes]]] = {
    "grid.json": (json.dumps(PLAN).encode(), mostly(changed(PLAN, below=("entries",)).map(as_json), json_files(PLAN))),
    "run.json": (json.dumps(RUN).encode(), json_files(RUN)),
    "tests.json": (json.dumps(TESTS).encode(), json_files(TESTS)),
    "id.npz": (as_npz(ARRAYS), array_files(ARRAYS)),
    "z%2F1.npz": (as_npz(ARRAYS), array_files(ARRAYS)),
    "y.npz": (as_npz(ARRAYS), st.just(as_npz(ARRAYS))),
}


def write_benchmark(folder: Path) -> None:
    """A finished benchmark of two rows and two seeds."""
    for run in FOLDERS:
        (folder / "runs" / run).mkdir(parents=True)
        for name in FILES.keys() - {"grid.json"}:
            (folder / "runs" / run / name).write_bytes(FILES[name][0])
    (folder / "grid.json").write_bytes(FILES["grid.json"][0])


@pytest.mark.parametrize("name", [name for name in FILES if name != "y.npz"])
@fewer(6)
@given(data=st.data())
def test_report(name: str, data: st.DataObject, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    write_benchmark(tmp_path / "out")
    file = tmp_path / "out" / ("" if name == "grid.json" else f"runs/{FOLDERS[1]}") / name
    file.write_bytes(data.draw(FILES[name][1]))
    run = clipos("report", tmp_path / "out", "--verbose")
    assert run.code in (0, 2) and "Traceback" not in run.err, run.err
    assert run.code == 0 or len(run.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("tests.json", {**TESTS, "ood": {"y": None, "z/1": None}}, "tested on different images"),
        ("tests.json", {**TESTS, "ood": {"y": "near"}}, "tested on different images"),
        ("run.json", {**RUN, "scores": ["msp"]}, "have different scores"),
        ("run.json", {**RUN, "scores": ["energy"]}, "has no score 'msp'"),
        ("grid.json", {**PLAN, "entries": [{**PLAN["entries"][0], "score": "mls"}]}, "has no score 'mls'"),  # type: ignore[index]
        ("grid.json", {**PLAN, "entries": [{**PLAN["entries"][0], "run": "a-**"}]}, "entries[0].run is 'a-**'"),  # type: ignore[index]
        ("z%2F1.npz", {**ARRAYS, "energy": np.arange(4)}, "energy missing or invalid"),
    ],
)
def test_what_report_cannot_compare(name: str, content: Any, says: str, tmp_path: Path) -> None:
    write_benchmark(tmp_path / "out")
    file = tmp_path / "out" / ("" if name == "grid.json" else f"runs/{FOLDERS[1]}") / name
    file.write_bytes(as_npz(content) if name.endswith("npz") else as_json(content))
    refused(clipos("report", tmp_path / "out"), says)


def test_the_report_is_right_before_its_files_are_changed(tmp_path: Path) -> None:
    write_benchmark(tmp_path / "out")
    run = clipos("report", tmp_path / "out")
    assert run.code == 0 and "report: " in run.out, run.err


# ---- a run's folder, for clipos rerun

NUMBERS = {"id": {"name": "x", "n": 3}, "ood": {"y": {"msp": {"auroc": 99.5}}}, "average": {}, "run": {"seed": 1}}
PROVENANCE = {"command": "clipos fit", "versions": {"torch": "1.0", "numpy": "1.0"}, "data": {"id": None}}
CONFIG = {"seed_everything": 1, "ckpt_path": "last.ckpt", "model": {"score": None}, "data": {"shots": 1}}
RUN_FILES: dict[str, tuple[st.SearchStrategy[bytes], Callable[[Path], Any]]] = {
    "report.json": (json_files(NUMBERS), read_numbers),
    "scores.npz": (array_files({**ARRAYS, "id/paths": np.array(["a.png"])}), read_numbers),
    "metrics.csv": (damaged_text("epoch,step,train/loss\n0,1,0.5\n,2,\n1,3,nan\n"), read_numbers),
    "provenance.json": (json_files(PROVENANCE), changed_versions),
    "config.yaml": (yaml_files(CONFIG), lambda folder: recorded_words(folder, folder / "options.yaml")),
    "x.lock": (json_files({"pid": 1, "host": "a", "since": "now"}), lambda folder: describe_holder(folder / "x.lock")),
}


@pytest.mark.parametrize("name", RUN_FILES)
@given(data=st.data())
def test_rerun(name: str, data: st.DataObject, tmp_path: Path) -> None:
    files, read = RUN_FILES[name]
    (tmp_path / "fit-1").mkdir(exist_ok=True)
    content = data.draw(files)
    (tmp_path / "fit-1" / name).write_bytes(content)
    found = outcome(lambda: read(tmp_path / "fit-1"))
    if name == "config.yaml" and isinstance(found, list):
        assert all(isinstance(word, str) for word in found)
    if read is read_numbers and isinstance(found, dict):
        assert all(array.dtype.kind in "fiu" for arrays in found.values() for array in arrays.values())
    assert (tmp_path / "fit-1" / name).read_bytes() == content


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("report.json", text) for text in (b"[]", b"null", b"3")),
        *(("scores.npz", text) for text in (b"", b"PK", as_npz(ARRAYS)[:-30], as_npz({"a": np.array([None])}))),
        *(("metrics.csv", text) for text in (b"\x80", b"loss\nlow\n", b"loss\n1,2\n", b'loss\n"' + b"1" * 200_000)),
        *(("provenance.json", text) for text in (b"null", b'{"versions": null}', b'{"versions": {"torch": [2]}}')),
        *(("config.yaml", text) for text in (b"", b"'~'", b"[]", b"ckpt_path: 3")),
    ],
)
def test_what_rerun_cannot_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / "fit-1").mkdir()
    (tmp_path / "fit-1" / name).write_bytes(content)
    assert outcome(lambda: RUN_FILES[name][1](tmp_path / "fit-1")) is REFUSED


def test_numbers_beyond_64_bits_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(f'{{"n": 3, "huge": 1{"0" * 400}, "flag": true, "inf": 1e999}}')
    assert read_numbers(tmp_path) == {"report.json": {"n": 3.0, "inf": np.inf}}
