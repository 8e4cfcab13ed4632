"""Files appear complete or not at all, and what hinders that is named with the file that was wanted."""

import errno
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from clipos_lightning.experiments.engine import write_npz
from clipos_lightning.training.checkpoint_io import WholeCheckpointIO
from clipos_lightning.utils import files
from clipos_lightning.utils.files import WriteError, atomic_write, make_folder, new_run_folder, write_json

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)


@contextmanager
def file_sizes_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond this many bytes, as on a full disk."""
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, former[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)


def npz(path: Path) -> None:
    with atomic_write(path) as partial, open(partial, "wb") as file:
        write_npz(file, {"noise": NOISE})


def savez(path: Path) -> None:
    with atomic_write(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, noise=NOISE)


def png(path: Path) -> None:
    with atomic_write(path) as partial:
        Image.fromarray(NOISE).save(partial, "png")


def svg(path: Path) -> None:
    with atomic_write(path) as partial:
        Figure().savefig(partial, format="svg")


WRITERS: dict[str, Callable[[Path], None]] = {
    "json": lambda path: write_json(path, {"noise": NOISE.tolist()}),
    "npz": npz,
    "savez": savez,
    "png": png,
    "svg": svg,
    "checkpoint": lambda path: WholeCheckpointIO().save_checkpoint({"noise": torch.tensor(NOISE)}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_keeps_the_former_file_and_nothing_else(name: str, tmp_path: Path) -> None:
    target = tmp_path / "target.bin"
    target.write_text("former")
    with file_sizes_up_to(300), pytest.raises(WriteError) as caught:
        WRITERS[name](target)
    assert (caught.value.errno, caught.value.filename) == (errno.EFBIG, str(target))
    assert target.read_text() == "former" and list(tmp_path.iterdir()) == [target]
    WRITERS[name](target)
    assert target.stat().st_size > 300 and list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_device_that_fails_when_it_is_flushed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(WriteError, match=os.strerror(number)) as caught, atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("text")
    assert caught.value.filename == str(tmp_path / "a.txt") and not list(tmp_path.iterdir())


def test_the_file_is_on_the_disk_before_it_has_its_name_and_then_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda file: steps.append(Path(os.readlink(f"/proc/self/fd/{file}")).name))
    monkeypatch.setattr(os, "replace", lambda old, new: (steps.append(f"to {Path(new).name}"), replace(old, new)))
    with atomic_write(tmp_path / "a.txt") as partial:
        partial.write_text("text")
    assert steps == [partial.name, "to a.txt", tmp_path.name]


@pytest.mark.parametrize("when", ["before", "during"])
def test_a_folder_that_vanishes(when: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if when == "during":
        folder.mkdir()
    with pytest.raises(WriteError) as caught, atomic_write(folder / "last.ckpt") as partial:
        partial.write_text("text")
        shutil.rmtree(folder)
    assert (caught.value.errno, caught.value.filename) == (errno.ENOENT, str(folder / "last.ckpt"))


def test_errors_of_other_files_are_theirs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"photo\.png"), atomic_write(tmp_path / "a.txt"):
        open(tmp_path / "photo.png")
    for error in (OSError("text"), OSError(errno.EPIPE, "Broken pipe")):
        with pytest.raises(OSError) as caught, atomic_write(tmp_path / "a.txt"):
            raise error
        assert caught.value is error
    assert not list(tmp_path.iterdir())


def test_names_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    name = "é" * 125 + ".json"  # 255 bytes
    write_json(tmp_path / name, 1)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder, make in ((tmp_path / "file/x", make_folder), (tmp_path / "file", lambda f: new_run_folder(f, "fit"))):
        with pytest.raises(WriteError) as caught:
            make(folder)
        assert caught.value.filename == str(folder)


def test_every_writer_of_the_package_is_atomic() -> None:
    """What opens a file to write it does so inside a block of ``atomic_write``, or is listed here with its reason."""
    streamed = {
        "detector/row_files.py",  # rows, in a file of another name
        "data/download.py",  # bytes, in a file of another name
        "cli/rerun.py",  # in a temporary folder
    }
    direct = r'open\([^)\n]*"[wax]b?"|torch\.save\(|savefig\(|\.savez|write_bytes\(|\.write_text\(|json\.dump\('
    package = Path(files.__file__).parents[1]
    for path in package.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(package).as_posix()
        code = "\n".join(line for line in text.splitlines() if ">>>" not in line and "devnull" not in line)
        writes = re.search(direct, code)
        assert not writes or "atomic_write" in text or "BytesIO" in text or name in streamed, name
