"""Unusual input of the command line: one line and exit code 2, or the right value; at once, and without a traceback."""

import csv
import io
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from running import CPU, clipos, done, make_photos, refused

from clipos_lightning.cli import main as front_door
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput

FIT = ("fit", "--config", "demo.yaml", *CPU, "--trainer.max_steps", "1")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SIZES = {  # options beyond reason
    "--data.shots 100000": "--data.shots is 100000: scenes renders at most 10,000",
    "--data.views 1000000000": "at most 1,000; further views",
    "--data.batch_size 1000000000000000000000000": "at most 100,000; a batch is in memory at once",
    "--data.eval_batch_size 1000000": "at most 100,000",
    "--data.num_workers 100000": "more processes than cores",
    "--data.seed 9223372036854775808": "seeds are 64-bit integers",
    "--model.seed 9223372036854775808": "seeds are 64-bit integers",
    "--model.surgery.kernel_size 1000001": "at most 1,023; it covers every image then",
    "--model.synthesis.count 10000000000": "at most 100,000; all outliers of a step",
    "--model.context.length 1000000000": "at most 1,000; text encoders",
    "--model.image_size 1000000": "at most 4,096",
    f"--model.outlier_weight 1{400 * '0'}": "a number is too large among the options",
    "--seed_everything 4294967296": "--seed_everything is 4294967296: it must be from 0 to 4294967295",
    "--seed_everything -1": "--seed_everything is -1",
}


@pytest.mark.parametrize("option", SIZES, ids=lambda option: option[:40])
def test_sizes_beyond_reason(option: str) -> None:
    started = time.perf_counter()
    refused(clipos(*FIT, *option.split()), SIZES[option])
    assert time.perf_counter() - started < 30  # they hung, or filled the memory
    assert not list(Path().glob("runs/*"))


TIMER = ("--trainer.callbacks+=lightning.pytorch.callbacks.Timer", "--trainer.callbacks.duration", "00:00:00:02")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor", "val/accuracy"), "--data.validate true"),
        (TIMER, "--trainer.max_time"),
        (("--model.objective", "{class_path: a, class_path: b}"), "'class_path' is a second time"),
        (("--data.ood_sets", 3000 * "["), "--data.ood_sets is '[[["),
        (("--trainer.gradient_clip_val", "-.5"), "--trainer.gradient_clip_val is -0.5"),  # a number, no option
    ],
)
def test_errors_of_the_parser_and_the_trainer(words: tuple[str, ...], says: str) -> None:
    refused(clipos(*FIT, *words), says)


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("tensorboard", "--trainer.logger TensorBoardLogger --trainer.logger.save_dir tb"),
        ("psutil", "--trainer.callbacks+=DeviceStatsMonitor"),
    ],
)
def test_a_package_that_is_not_installed(package: str, words: str) -> None:
    try:
        __import__(package)
    except ImportError:
        refused(clipos(*FIT, *words.split()), package, "pip install")
    else:
        pytest.skip(f"{package} is installed")


CONFIGS = {  # files of options: text, and what is said
    "two sections": (b"model: {score: mcm}\ndata: {shots: 1}\nmodel: {score: msp}\n", "mine.yaml, line 3: 'model'"),
    "two options": (b"data:\n  shots: 1\n  shots: 2\n", "mine.yaml, line 3: 'shots'"),
    "in its base": (b"base: below.yaml\n", "below.yaml, line 2: 'score'"),
    "in a file that it names": (b"model: {surgery: surgery.yaml}\n", "surgery.yaml, line 2: 'beta'"),
    "latin-1": (b"# caf\xe9\n", "mine.yaml: it is not UTF-8 text"),
    "binary file that it names": (b"model: {surgery: binary.yaml}\n", "binary.yaml: it is not UTF-8 text"),
    "tabs": (b"data:\n\tshots: 1\n", "mine.yaml, line 2: not valid YAML"),
    "a list": (b"- shots: 1\n", "mine.yaml is not a mapping"),
    "deep": (b"[" * 100_000, "mine.yaml, line 1: "),
    "bomb": (b"a: &a [%s]\nb: &b [%s]\nc: &c [%s]\nd: [%s]\n", "aliases"),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs(kind: str) -> None:
    content, says = CONFIGS[kind]
    if kind == "bomb":
        content = content % tuple(b",".join([item] * 60) for item in (b"x", b"*a", b"*b", b"*c"))
    Path("mine.yaml").write_bytes(content)
    Path("below.yaml").write_text("model: {score: mcm,\n score: msp}\n")
    Path("surgery.yaml").write_text("beta: 0.1\nbeta: 0.2\n")
    Path("binary.yaml").write_bytes(b"\x80\x81")
    refused(clipos(*FIT, "--config", "mine.yaml"), says)


def test_a_file_that_an_option_names() -> None:
    Path("surgery.yaml").write_text("beta: 0.1\nbeta: 0.2\n")
    for words in (("--model.surgery", "surgery.yaml"), ("--model.surgery=surgery.yaml",)):
        refused(clipos(*FIT, *words), "surgery.yaml, line 2: 'beta'")


def test_values_in_configs_keep_their_types() -> None:
    text = "model:\n  optimizer: {class_path: SGD, init_args: {lr: 1e-3}}\n  unknown_word: 2024-01-01\n"
    Path("mine.yaml").write_text("\ufeff" + text + "data: {shots: 010, cache: no, root: '010'}\n", encoding="utf-8")
    shown = clipos(*FIT, "--config", "mine.yaml", "--print_config").out
    for line in ("lr: 0.001", "unknown_word: '2024-01-01'", "shots: 8", "cache: false", "root: '010'"):
        assert f" {line}\n" in shown, line


def test_the_home_folder_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    Path("mine.yaml").write_text("trainer: {default_root_dir: ~/runs}\n")
    run = done("fit", "--config", "demo.yaml", "--config", "mine.yaml", "--trainer.max_steps", 1)
    assert run.folder.parent == tmp_path / "home/runs"
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "not enough memory: lower"),
        (MemoryError("Unable to allocate 74.5 GiB for an array"), "not enough memory (74.5 GiB requested at once): "),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 512 bytes."),
            "(512 bytes req",
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), "8 bytes requested"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0"), "(20.00 GiB requested"),
        (RuntimeError("Storage size calculation overflowed with sizes=[1]"), "not enough memory"),
        (ModuleNotFoundError("No module named 'x'", name="x"), "a package is missing: No module named 'x'"),
    ],
)
def test_what_the_machine_lacks(error: Exception, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "dispatch", raiser(error))
    refused(clipos("configs"), says)


@pytest.mark.parametrize(
    "error", [RuntimeError("a defect"), ModuleNotFoundError("x", name="clipos_lightning.x"), ValueError("memory")]
)
def test_defects_stay_defects(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "dispatch", raiser(error))
    assert clipos("configs").code == 1


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (InputError("no file a\nInputError: b.png"), r"no file a\nInputError: b.png"),
        (InputError("x InputError: y"), "x InputError: y"),
        (PermissionError(13, "Permission denied", "a\nb"), r"a\nb: Permission denied"),
    ],
)
def test_file_names_do_not_change_the_line(error: Exception, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front_door, "dispatch", raiser(error))
    assert clipos("configs").err == f"clipos: error: {shown}\n"


def raiser(error: Exception) -> Callable[[object], int]:
    def fail(_: object) -> int:
        raise error

    return fail


@pytest.mark.parametrize("name", ["a\nb.png", "InputError: c.png"])
def test_an_image_file_with_a_strange_name(name: str, tmp_path: Path) -> None:
    root = make_photos(tmp_path, train=1, test=1, other=1)
    (root / "photos/train/star/0.png").unlink()
    (root / "photos/train/star" / name).write_bytes(b"no image")
    words = ("--data.root", root, "--data.id", "folder:photos", "--data.ood_sets", "[]")
    run = clipos(*FIT, *words)
    refused(run, "star/" + name.replace("\n", "\\n"), "Repair it")
    assert run.err.startswith("clipos: error: cannot read image")


def test_a_class_called_unknown_is_not_the_decision_unknown(tmp_path: Path) -> None:
    root = make_photos(tmp_path, train=2, test=1, other=2)
    for split in ("train", "test"):
        (root / "photos" / split / "star").rename(root / "photos" / split / "unknown")
    words = (
        "--data.root",
        root,
        "--data.id",
        "folder:photos",
        "--data.ood_sets",
        "[]",
        "--model.unknown_word",
        "nothing",
    )
    checkpoint = done("fit", "--config", "demo.yaml", *words, "--trainer.max_steps", 1).checkpoint
    assert (
        clipos("calibrate", checkpoint, "--threshold", 1e9, "--out", "none.safetensors", "--num_workers", 0).code == 0
    )
    run = clipos("predict", "none.safetensors", root / "photos/test", "--num_workers", 0)
    assert run.code == 0 and "'(unknown)'" in run.err
    rows = list(csv.DictReader(io.StringIO(run.out)))
    assert [row["decision"] for row in rows] == ["(unknown)"] * 3
    assert {row["class"] for row in rows} <= {"circle", "unknown", "heart"}
    assert all(math.isfinite(float(row["score"])) for row in rows)


@pytest.mark.parametrize("option", ["--batch_size 1000000000", "--num_workers 100000"])
def test_sizes_of_inference(option: str) -> None:
    refused(clipos("predict", "x.ckpt", "x.png", *option.split()), f"predict: {option.split()[0]} is", "at most")
