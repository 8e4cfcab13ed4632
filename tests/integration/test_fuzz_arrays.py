"""Files of arrays, archives and lists of paths changed at random: images, or one line; never another error."""

import csv
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import REFUSED, changed, damaged, damaged_text, fewer, mostly, outcome
from hypothesis import given
from hypothesis import strategies as st
from running import clipos, inside, save_detector, save_noise
from scipy.io import savemat
from stand_in_downloads import Python2Pickler

from clipos_lightning.cli.data import VERIFIERS
from clipos_lightning.data.cache import CACHE_FOLDER, as_rows, load
from clipos_lightning.data.id_sets import Request, id_cifar, id_medmnist
from clipos_lightning.data.ood_sets import ood_svhn
from clipos_lightning.data.unpacking import extract

pytestmark = pytest.mark.badinput
NAMES = [f"class {i}" for i in range(10)]
PIXELS = np.arange(2 * 32 * 32 * 3).astype(np.uint8)

# ---- files of arrays


def other_arrays(array: Any) -> list[Any]:
    """Arrays of another shape, type or content, in place of an array or a list."""
    plain = np.asarray(array)
    kinds = [plain[:1], plain[:0], plain[0], plain[None], np.concatenate([plain, plain]), plain.astype(np.float32)]
    kinds += [
        plain.astype(complex),
        plain.astype(str),
        plain.astype(bool),
        plain.astype(np.int64) * 10**6,
        plain * np.nan,
    ]
    return [*kinds, -plain.astype(np.int64), plain.tolist(), {"a": 1}, "text", 3, np.zeros(2, [("x", "u1")])]


@st.composite
def with_other_arrays(draw: st.DrawFn, valid: dict[str, Any], write: Callable[[dict[str, Any]], bytes]) -> bytes:
    """A file in which an array is another one or missing, or damaged bytes."""
    values = dict(valid)
    action = draw(st.sampled_from(["array", "array", "drop", "damage"]))
    if action == "damage":
        return draw(damaged(write(valid)))
    name = draw(st.sampled_from(sorted(values)))
    old = values.pop(name)
    if action == "array":
        values[name] = draw(st.sampled_from(other_arrays(old)))
    return write(values)


def as_batch(values: Any) -> bytes:
    """A batch of CIFAR's, as Python 2 wrote them."""
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(values)
    return file.getvalue()


def as_npz(values: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **values)
    return file.getvalue()


def as_mat(values: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


BATCH = {"data": PIXELS.reshape(2, 3072), "labels": [3, 7]}
PLAIN_BATCH = changed({"data": [list(range(200))], "labels": [3, 7]}).map(lambda batch: pickle.dumps(batch, protocol=2))
SPLITS = {
    f"{split}_{part}": values
    for split in ("train", "val", "test")
    for part, values in (("images", PIXELS.reshape(2, 32, 32, 3)), ("labels", np.array([[3], [7]])))
}
DIGITS = {"X": PIXELS.reshape(32, 32, 3, 2), "y": np.array([[1], [10]])}
BATCHES = "cifar-10-batches-py"
ARRAY_FILES: dict[str, tuple[str, st.SearchStrategy[bytes], bytes, Callable[[Path], Any]]] = {
    "cifar": (
        f"{BATCHES}/test_batch",
        mostly(with_other_arrays(BATCH, as_batch), PLAIN_BATCH),
        as_batch(BATCH),
        lambda root: id_cifar("cifar10", NAMES, Request(root, cache=False)).test,
    ),
    "npz": (
        "medmnist/bloodmnist.npz",
        with_other_arrays(SPLITS, as_npz),
        as_npz(SPLITS),
        lambda root: id_medmnist(Request(root, cache=False)).test,
    ),
    "mat": (
        "svhn/test_32x32.mat",
        with_other_arrays(DIGITS, as_mat),
        as_mat(DIGITS),
        lambda root: ood_svhn(Request(root, cache=False)),
    ),
}


def check_arrays(kind: str, content: bytes, root: Path) -> Any:
    """Write a file of arrays and read it; returns the set, or REFUSED."""
    name, _, valid, read = ARRAY_FILES[kind]
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    for i in range(1, 6 if kind == "cifar" else 0):
        (path.parent / f"data_batch_{i}").write_bytes(valid)
    path.write_bytes(content)
    count, problems = VERIFIERS[kind](path)
    assert count >= 0 and all(len(problem) > len(str(path)) for problem in problems)
    found = outcome(lambda: read(root))
    if found is not REFUSED:
        for i in range(len(found)):
            sample = found.read(i)
            assert sample.image.mode == "RGB"
        assert found.labels is None or found.labels.shape == (len(found),)
    return found


@pytest.mark.parametrize("kind", ARRAY_FILES)
@given(data=st.data())
def test_files_of_arrays(kind: str, data: st.DataObject, tmp_path: Path) -> None:
    check_arrays(kind, data.draw(ARRAY_FILES[kind][1]), tmp_path)


@pytest.mark.parametrize("kind", ARRAY_FILES)
def test_the_files_are_right_before_they_are_changed(kind: str, tmp_path: Path) -> None:
    found = check_arrays(kind, ARRAY_FILES[kind][2], tmp_path)
    assert found is not REFUSED and len(found) == 2


ROWS = as_rows(PIXELS.reshape(2, 32, 32, 3), np.array([3, 7]))


def as_npy(rows: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, rows)
    return file.getvalue()


@given(content=damaged(as_npy(ROWS)))
def test_the_cache(content: bytes, tmp_path: Path) -> None:
    (tmp_path / CACHE_FOLDER).mkdir(exist_ok=True)
    (tmp_path / CACHE_FOLDER / "x.npy").write_bytes(content)
    found = load(tmp_path, "x")
    assert found is None or found.dtype.names == ("image", "label")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"('label', '<i8')", b"('label''''  "),
        (b"('label', '<i8')", b"(\0label\0, '<i8')"),
        (b"'shape': (2,)", b"'shape': (1,)"),
    ],
)
def test_a_damaged_header_in_the_cache(old: bytes, new: bytes, tmp_path: Path) -> None:
    content = as_npy(ROWS)
    (tmp_path / CACHE_FOLDER).mkdir()
    for name, one in (("good", content), ("bad", content.replace(old, new))):
        (tmp_path / CACHE_FOLDER / f"{name}.npy").write_bytes(one)
    assert load(tmp_path, "bad") is None and len(load(tmp_path, "good")) == 2  # type: ignore[arg-type]


# ---- archives

MEMBERS = {"top/a.png": b"a" * 700, "top/sub/b.png": b"b" * 30, "top/c": b""}


def archive(form: str) -> bytes:
    """The members as ``zip``, ``tar`` or ``tar.gz``."""
    file = io.BytesIO()
    if form == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for name, content in MEMBERS.items():
                packed.writestr(name, content)
        return file.getvalue()
    with tarfile.open(fileobj=file, mode="w:gz" if form == "tar.gz" else "w") as tar:
        for name, content in MEMBERS.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
@given(data=st.data())
def test_archives(form: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("archive")
    path = folder / f"x.{form}"
    path.write_bytes(data.draw(damaged(archive(form))))
    found = outcome(lambda: extract(path, folder, ["top"], progress=False))
    assert {p.name for p in folder.iterdir()} == {path.name, *([] if found is REFUSED else ["top"])}


# ---- lists of paths


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos") / "inside"
    for i, name in enumerate(("a.png", "b c.png", "sub/ü.png")):
        save_noise(root / name, i)
    save_detector(root / "x.safetensors")
    return root


@fewer(8)
@given(content=damaged_text("a.png\nb c.png\r\nsub/ü.png\n\nnone.png\nsub\n").map(lambda text: text.replace(b"/", b"")))
def test_lists_on_stdin(content: bytes, photos: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, inside(photos):
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        run = clipos("predict", "x.safetensors", "-", "--num_workers", 0)
    assert run.code in (0, 2) and "Traceback" not in run.err, run.err
    if run.code == 0:
        rows = list(csv.DictReader(io.StringIO(run.out, newline="")))
        lines = [line for line in content.split(b"\n") if line.strip(b"\r")]
        assert len(rows) >= len(lines) and all(row["path"] for row in rows)
