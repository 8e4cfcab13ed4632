"""Commands whose files cannot be written: one line with the file, the reason and the option; nothing half is left."""

import errno
import os
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from running import CPU, clipos, refused, save_classes, save_detector, save_noise

from clipos_lightning.cli.file_errors import OUTPUT_OPTIONS
from clipos_lightning.utils import files

pytestmark = pytest.mark.badinput
FULL = "No space left on device: free some space, or give another "
COMMANDS = {  # command line to the file that it cannot write
    "calibrate detector.safetensors images --out new.safetensors": "new.safetensors",
    "explain detector.safetensors images/star/0.png --out new.svg": "new.svg",
    "predict detector.safetensors images --explain maps": "maps/images/circle/0.png.png",
    "benchmark g.yaml --out out": "out/grid.json",
    "fit --config demo.yaml --trainer.default_root_dir out": "shots.json",
    "test --config demo.yaml --trainer.default_root_dir out": "config.yaml",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with a threshold, images/, and a grid."""
    root = tmp_path_factory.mktemp("home")
    save_detector(root / "detector.safetensors")
    save_classes(root / "images", 3)
    save_noise(root / "images/noise.png", 1)
    grid = {"rows": {"a": {}}, "seeds": [1], "configs": ["scenes_1shot_micro.yaml"]}
    (root / "g.yaml").write_text("# A grid\n" + yaml.safe_dump(grid))
    return root


@pytest.fixture
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path in home.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """From now on every file fails with this error when it is flushed to the disk."""

    def fails_with(number: int) -> None:
        def fail(_: int) -> NoReturn:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "fsync", fail)

    return fails_with


def left_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if ".partial" in path.name or ".lock" in path.name]


@pytest.mark.parametrize("words", COMMANDS)
def test_a_full_disk(words: str, at_home: Path, disk: Callable[[int], None]) -> None:
    disk(errno.ENOSPC)
    command, *rest = words.split()
    run = clipos(command, *rest, *(CPU if command in ("fit", "test", "benchmark") else ()))
    refused(run, "cannot write ", f"{COMMANDS[words]}: {FULL}{OUTPUT_OPTIONS[command]}")
    assert not left_in(at_home) and not list(at_home.glob("new.*"))


@pytest.mark.slow  # half a minute
@pytest.mark.skipif(not find_spec("onnxruntime"), reason="needs the extra export")
def test_an_export_to_a_full_disk(at_home: Path, disk: Callable[[int], None]) -> None:
    disk(errno.ENOSPC)
    refused(clipos("export", "detector.safetensors", "--out", "new.onnx"), f"cannot write new.onnx: {FULL}--out")
    assert not left_in(at_home) and not (at_home / "new.onnx").exists()


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.EDQUOT, "free some space, or give another --out"),
        (errno.EROFS, "make it writable, or give another --out"),
        (errno.EIO, "free some space, or give another --out"),
    ],
)
def test_a_quota_and_a_device_that_turns_read_only(
    number: int, cure: str, at_home: Path, disk: Callable[[int], None]
) -> None:
    disk(number)
    run = clipos("explain", "detector.safetensors", "images/star/0.png", "--out", "new.svg")
    refused(run, f"cannot write new.svg: {os.strerror(number)}: {cure}")


def test_a_run_folder_that_vanishes(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = files.replace_synced

    def vanish(partial: Path, path: Path) -> None:
        if path.name == "last.ckpt":
            shutil.rmtree(path.parent)
        replace(partial, path)

    monkeypatch.setattr(files, "replace_synced", vanish)
    words = ("fit", "--config", "demo.yaml", "--trainer.max_steps", 1, "--trainer.default_root_dir", "out")
    refused(clipos(*words, *CPU), "last.ckpt: No such file or directory", "--trainer.default_root_dir")


def test_rows_on_a_full_disk_are_kept_and_continued(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipos_lightning.detector.row_files import RowFile

    words = ("predict", "detector.safetensors", "images", "--batch_size", 2, "--num_workers", 0)
    append, calls = RowFile.append, iter(range(100))

    def full(self: RowFile, file: Any, rows: Any) -> None:
        if next(calls) == 2:
            file.write('"images/st')  # a part of what it had to write
            file.flush()
            raise files.WriteError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        append(self, file, rows)

    with monkeypatch.context() as patch:
        patch.setattr(RowFile, "append", full)
        run = clipos(*words, "--out", "rows.csv")
    refused(run, "--out rows.csv: No space left", "free some space and add --resume", "rows.csv.partial")
    assert not (at_home / "rows.csv").exists() and not (at_home / ".rows.csv.lock").exists()
    assert clipos(*words, "--out", "rows.csv", "--resume").code == 0
    assert (at_home / "rows.csv").read_text() == clipos(*words).out
