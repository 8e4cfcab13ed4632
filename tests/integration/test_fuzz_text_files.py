"""Text files of others, changed at random: the right value, or one line; never another error, and no file is lost."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import (
    DEEP,
    REFUSED,
    as_yaml,
    changed,
    damaged,
    damaged_text,
    encode,
    fewer,
    json_files,
    mostly,
    outcome,
    yaml_files,
)
from hypothesis import given
from hypothesis import strategies as st
from running import clipos, options_of, save_noise

from clipos_lightning.data.boxes import BoxedSet, read_boxes
from clipos_lightning.data.class_prompts import read_wordings
from clipos_lightning.data.classnames import read_class_list, read_negatives
from clipos_lightning.data.image_sets import FolderSet
from clipos_lightning.data.splits import find_shots, read_shots
from clipos_lightning.detector.row_files import csv_line, json_line, open_rows, partial_path
from clipos_lightning.detector.row_readers import ROW_COLUMNS
from clipos_lightning.experiments.plan import make_plan
from clipos_lightning.experiments.run_files import read_plan, read_run, read_scores, read_tests
from clipos_lightning.options.configs import config_folder

pytestmark = pytest.mark.badinput

# ---- shots.json

SHOTS = {"images": {"cat": ["0.png", "a/1.png"], "dog": ["2.png"]}, "seed": 1, "shots": 1, "views": 1, "digest": "x"}
KEYS, LABELS, CLASSES = ["0.png", "a/1.png", "2.png", "3.png"], [0, 0, 1, 1], ["cat", "dog"]


@given(content=json_files(SHOTS))
def test_shots(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "shots.json"
    file.write_bytes(content)
    draw = outcome(lambda: read_shots(str(file)))
    if draw is not REFUSED:
        found = outcome(lambda: find_shots(draw, str(file), KEYS, LABELS, CLASSES, "pets"))
        named = [(group, key) for group, keys in draw.images.items() for key in keys]
        assert found is REFUSED or [(CLASSES[LABELS[i]], KEYS[i]) for i in found] == named
    assert file.read_bytes() == content


# ---- rows of an earlier predict

ROWS = [
    dict(zip(ROW_COLUMNS, row, strict=True))
    for row in (
        ("a.png", "cat", 0.5, 2.5, None, "cat", 2.0),
        ('b, "1".png', "cat", 0.25, -1.5, None, "unknown", 2.0),
        ("c.png", None, None, None, "cannot read image c.png: it is empty", None, None),
        ("d.png", "dog", 1.0, 3.0, None, "dog", 2.0),
    )
]
LINE = {"csv": csv_line, "jsonl": json_line}


def as_rows(form: str, rows: Any) -> bytes:
    """Rows in either form; of what cannot be written in CSV its text."""
    if form == "jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in (rows if isinstance(rows, list) else [rows])).encode()
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(ROW_COLUMNS)
    for row in rows if isinstance(rows, list) else [rows]:
        writer.writerow([str(cell) for cell in (row.values() if isinstance(row, dict) else [row])])
    return encode(file.getvalue())


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("finished", [True, False])
@given(data=st.data())
def test_rows(form: str, finished: bool, data: st.DataObject, tmp_path: Path) -> None:
    whole = "".join(map(LINE[form], ([None] if form == "csv" else []) + ROWS)).encode()
    content = data.draw(mostly(changed(ROWS).map(lambda rows: as_rows(form, rows)), damaged(whole), DEEP))
    path = tmp_path / f"o.{form}"
    partial_path(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    given_path = path if finished else partial_path(path)
    given_path.write_bytes(content)
    found = outcome(lambda: open_rows(path, form, {"cat": 2.0, "dog": 2.0}, lambda rows: True))
    if found is REFUSED or finished:
        assert given_path.read_bytes() == content
    if found is REFUSED:
        assert {p.name for p in tmp_path.iterdir()} == {given_path.name}
        return
    kept = partial_path(path).read_bytes()
    assert content.startswith(kept) and kept in (b"", *(content[: i + 1] for i in range(len(content))))
    found.write(iter([[{**ROWS[0], "path": "new.png"}]]))
    assert path.read_bytes().startswith(kept) and not partial_path(path).exists()
    assert not path.read_bytes()[len(kept) :].count(b"\x00")


# ---- names of classes

NAMES = {
    "cat": "tabby cat",
    "dog": ["dog", "hound"],
    "010": {"names": ["x"], "templates": ["a {}."]},
    "_templates": ["{}"],
}
CLASS_KEYS = ["cat", "dog", "010"]


@given(content=yaml_files(NAMES))
def test_class_names(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "names.yaml"
    file.write_bytes(content)
    found = outcome(lambda: read_wordings(str(file), CLASS_KEYS, CLASS_KEYS))
    if found is not REFUSED:
        assert len(found) == 3 and all(name.strip() for wording in found for name in wording["names"])
        assert all(t.count("{}") == 1 for wording in found for t in wording.get("templates", []))


@given(content=damaged_text("cat\n# two\ndog\n010\n"))
def test_class_lists(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_bytes(content)
    found = outcome(lambda: read_class_list(str(file)))
    assert found is REFUSED or (len(set(found)) == len(found) >= 2 and all(name.strip() == name for name in found))
    words = outcome(lambda: read_negatives(str(file)))
    assert words is REFUSED or (len(set(words)) == len(words) >= 1 and all(word.strip() == word for word in words))
    assert found is REFUSED or sorted(words) == found  # the same lines


# ---- boxes

HEADER = "path,x0,y0,x1,y1\n"
BOXES = [["cat/0.png", 1, 2, 30, 20], ["cat/0.png", 0.5, 10, 4, 36], ["cat/1.png", -5, 0, 99, 99]]


def as_table(rows: Any) -> bytes:
    """Rows as CSV, whatever they are."""
    file = io.StringIO(newline="")
    lines = rows if isinstance(rows, list) else [rows]
    csv.writer(file).writerows([map(str, row if isinstance(row, list) else [row]) for row in lines])
    return encode(HEADER + file.getvalue())


@pytest.fixture(scope="module")
def boxed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("boxes")
    for i in range(2):
        save_noise(root / f"cat/{i}.png", i)
    return root


@given(content=mostly(changed(BOXES).map(as_table), damaged_text(as_table(BOXES).decode())))
def test_boxes(content: bytes, boxed: Path) -> None:
    keys = ["cat/0.png", "cat/1.png"]
    (boxed / "boxes.csv").write_bytes(content)
    found = outcome(lambda: read_boxes(boxed / "boxes.csv", set(keys)))
    if found is not REFUSED:
        images = BoxedSet(FolderSet("x", boxed, keys, np.zeros(2, dtype=np.int64)), found)
        for i in range(2):
            mask = images.read(i).mask
            assert mask is not None and mask.shape == (36, 40) and {*np.unique(mask)} <= {0.0, 1.0}


# ---- configs and grids

CONFIG = options_of("demo.yaml") | {"trainer": {"max_epochs": 3, "callbacks": []}, "seed_everything": 1}
GRID = {
    "title": "x",
    "configs": ["demo.yaml"],
    "seeds": [1, 2],
    "reference": "one",
    "options": {"data.views": 1},
    "axes": {"data.shots": [1, 2]},
    "rows": {
        "one": {"options": {"model.score": "msp"}, "only": "micro"},
        "two": {"train": False, "headlines": ["msp"], "baseline": True},
    },
    "vary": {"model.surgery.beta": [0, {"model.surgery.beta": 1, "model.surgery.kernel_size": 5}]},
}


@fewer(6)
@given(content=yaml_files(CONFIG))
def test_configs(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    run = clipos("fit", "--config", file, "--print_config")
    assert run.code in (0, 2) and "Traceback" not in run.err, run.err
    assert run.code == 0 or len(run.err.splitlines()) == 1


@fewer(6)
@given(content=yaml_files(GRID))
def test_grids(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_bytes(content)
    found = outcome(lambda: make_plan(file, [], []))
    assert found is REFUSED or all(entry.run for entry in found[2])


def test_the_configs_are_right_before_they_are_changed(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(as_yaml(CONFIG))
    (tmp_path / "grid.yaml").write_bytes(as_yaml(GRID))
    assert config_folder().is_dir() and clipos("fit", "--config", tmp_path / "mine.yaml", "--print_config").code == 0
    assert len(make_plan(tmp_path / "grid.yaml", [], [])[2]) == 16


# ---- a benchmark's folder

ENTRY = {"row": "a", "name": "a", "grid_point": {}, "seed": 1, "run": "a-1", "score": "msp", "baseline": False}
RUN_FILES: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "run.json": (read_run, {"scores": ["msp"], "draw": None, "detector": {"class_names": ["cat", "dog"]}}),
    "tests.json": (
        read_tests,
        {"id": {"name": "x", "n": 2}, "ood": {"y": "near"}, "limit_per_set": None, "ood_resolution": "id"},
    ),
    "grid.json": (
        read_plan,
        {"schema": 2, "name": "g", "title": "G", "reference": "", "entries": [{**ENTRY, "group": "", "value": ""}]},
    ),
}
ARRAYS = {"predicted": np.array([0, 1]), "msp": np.array([0.5, 0.7]), "labels": np.array([0, 0]), "keys": np.array("d")}


@pytest.mark.parametrize("name", RUN_FILES)
@given(data=st.data())
def test_run_files(name: str, data: st.DataObject, tmp_path: Path) -> None:
    reader, valid = RUN_FILES[name]
    (tmp_path / name).write_bytes(data.draw(json_files(valid)))
    outcome(lambda: reader(tmp_path))


@given(data=st.data())
def test_scores_of_runs(data: st.DataObject, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RUN_FILES["run.json"][1]))
    np.savez(tmp_path / "id.npz", **ARRAYS)
    (tmp_path / "id.npz").write_bytes(data.draw(damaged((tmp_path / "id.npz").read_bytes())))
    found = outcome(lambda: read_scores(tmp_path, "id"))
    assert found is REFUSED or len(found["predicted"]) == len(found["msp"]) == len(found["labels"])
