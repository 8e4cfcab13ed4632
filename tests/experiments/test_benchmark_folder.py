"""Which files in a benchmark's output folder are its own, and which are another's and stay."""

from pathlib import Path
from typing import Any

import pytest

from clipos_lightning import InputError
from clipos_lightning.experiments.benchmark_folder import RESULTS, STARTS, prepare_folder
from clipos_lightning.utils.files import write_json

pytestmark = pytest.mark.badinput
ENTRY = {"row": "a", "name": "a", "grid_point": {}, "seed": 1, "run": "a-1", "score": "msp", "baseline": False}
PLAN: dict[str, Any] = {
    **{"schema": 2, "name": "g", "kind": "detectors", "title": "The grid", "reference": ""},
    "entries": [{**ENTRY, "group": "", "value": ""}],
}
WRITTEN = (*RESULTS, "timing.json")
OWN = STARTS | {"results.md": ("# The grid",)}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("text", ['{"mine": 1}', "# Mine", "mine"])
@pytest.mark.parametrize("finished", [False, True])
def test_files_of_others(name: str, text: str, finished: bool, tmp_path: Path) -> None:
    if finished:
        write_json(tmp_path / "grid.json", PLAN)
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"has {name} that `clipos benchmark` did not write: move it, or give another"):
        prepare_folder(tmp_path, PLAN, WRITTEN)
    assert (tmp_path / name).read_text() == text


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("damage", ["whole", "cut", "empty", "zeros", "no text"])
def test_files_of_its_own_and_what_is_left_of_them(name: str, damage: str, tmp_path: Path) -> None:
    write_json(tmp_path / "grid.json", PLAN)
    whole = f"{OWN[name][0]} and so on".encode()
    kinds = {"whole": whole, "cut": whole[:4], "empty": b"", "zeros": bytes(9), "no text": b"\xff\x80"}
    (tmp_path / name).write_bytes(kinds[damage])
    prepare_folder(tmp_path, PLAN, WRITTEN)


def test_another_title_and_files_that_are_not_written(tmp_path: Path) -> None:
    write_json(tmp_path / "grid.json", PLAN)
    (tmp_path / "results.md").write_text("# The grid: of yesterday")
    for name in ("results.xlsx", "notes.md", "timing-1-2.json"):
        (tmp_path / name).write_text("mine")
    prepare_folder(tmp_path, PLAN | {"title": "A new title"}, WRITTEN)


def test_a_shards_times(tmp_path: Path) -> None:
    write_json(tmp_path / "grid.json", PLAN)
    write_json(tmp_path / "timing-1-2.json", {"training": 1.0})
    prepare_folder(tmp_path, PLAN, [*RESULTS, "timing-1-2.json"])
    (tmp_path / "timing-1-2.json").write_text("mine")
    with pytest.raises(InputError, match=r"has timing-1-2\.json that"):
        prepare_folder(tmp_path, PLAN, [*RESULTS, "timing-1-2.json"])


@pytest.mark.parametrize("content", [b"", b"{\n", bytes(30), b"\xff\xfe"])
def test_a_damaged_plan_of_the_same_runs(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs/a-1").mkdir(parents=True)
    (tmp_path / "runs/a-1/run.json").write_text("{}")
    (tmp_path / "grid.json").write_bytes(content)
    prepare_folder(tmp_path, PLAN, WRITTEN)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "grid.json" in err and err.endswith(": written again\n")
    other = PLAN | {"entries": [{**PLAN["entries"][0], "run": "a-2"}]}
    with pytest.raises(InputError, match="with other options"):
        prepare_folder(tmp_path, other, WRITTEN)


def test_a_plan_of_another_program_and_folders_of_other_runs(tmp_path: Path) -> None:
    (tmp_path / "runs/fit-1").mkdir(parents=True)
    prepare_folder(tmp_path, PLAN, WRITTEN)
    (tmp_path / "grid.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="another version"):
        prepare_folder(tmp_path, PLAN, WRITTEN)
