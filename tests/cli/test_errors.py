"""Wrong input ends with exit code 2 and one line: what is wrong, where, and the cure; never with a traceback."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import CPU, PHOTO_OPTIONS, clipos, done, make_photos, refused

from clipos_lightning.cli import main as front_door
from clipos_lightning.training.module import ClipOS

pytestmark = pytest.mark.badinput
DEMO = ("--config", "demo.yaml")


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("runs")
    return done("fit", *DEMO, "--trainer.max_steps", 1, "--trainer.default_root_dir", folder).checkpoint


@pytest.fixture
def photos(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the folder data set that a test may damage."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "data"))


# ---- the command line itself


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        ("ift", ["'ift'", "did you mean 'fit'", "clipos --help"]),
        ("--config demo.yaml fit", ["no command", "--config"]),
        ("configs more", ["takes no arguments"]),
        ("fit --config nowhere.yaml", ["'nowhere.yaml'", "clipos configs"]),
        ("fit --config=nowhere.yaml", ["'nowhere.yaml'"]),
        ("test -c nowhere", ["'nowhere'"]),
        ("fit --config", ["--config", "expected one argument"]),
        ("fit --config demo.yaml --data.shotss 2", ["--data.shotss"]),
        ("fit --config demo.yaml --model.mask.kid none", ["--model.mask.kid"]),
        ("fit --config demo.yaml surplus", ["surplus"]),
        ("fit --config demo.yaml --data.shots some", ["--data.shots is 'some': it must be an integer or all\n"]),
        ("fit --config demo.yaml --data.resize best", ["is 'best': it must be one of pil, torch, device\n"]),
        ("fit --config demo.yaml --model.image_weight x", ["image_weight is 'x': it must be a number or auto\n"]),
        ("fit --config demo.yaml --model.scores msp", ["is 'msp': it must be a list, such as '[a,b]' or null"]),
        ("fit --config demo.yaml --trainer.max_steps many", ["--trainer.max_steps is 'many': it must be an integer"]),
        ("fit --config demo.yaml --model.objective loss", ["model.objective", "loss"]),
        ("predict", ["FILE"]),
        ("predict last.ckpt", ["PATH"]),
        ("predict last.ckpt photos --batchsize 3", ["--batchsize"]),
    ],
)
def test_a_wrong_command_line(words: str, pieces: list[str]) -> None:
    refused(clipos(*words.split()), *pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("- data\n- model\n", ["not a mapping"]),
        ("model: 3\n", ["model is 3: it takes a mapping"]),
        ("data: [scenes]\n", ["data is ['scenes']: it takes a mapping"]),
        ("word\n", ["not a mapping"]),
        ("data: [\n", ["cannot read config"]),
        ("data:\n  shotss: 2\n", ["shotss"]),
        ("dta:\n  shots: 2\n", ["dta"]),
        ("model:\n  class_names: [cat, dog]\n", ["model.class_names", "data.class_names"]),
        ("model:\n  score: energee\n", ["energee", "energy"]),
        ("data:\n  shots: 0\n", ["--data.shots is 0"]),
    ],
)
def test_a_wrong_config(text: str, pieces: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    refused(clipos("fit", *DEMO, "--config", "mine.yaml", *CPU), *pieces)


def test_a_config_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    refused(clipos("fit", "--config", "mine.yaml", *CPU), "cannot read config")


def test_an_empty_config_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing yet\n")
    assert clipos("fit", *DEMO, "--config", "mine.yaml", "--print_config").code == 0


# ---- options whose values are wrong or do not fit together


@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        ("--data.shots 0", ["--data.shots is 0", "at least 1"]),
        ("--data.shots -1", ["--data.shots is -1", "at least 1"]),
        ("--data.batch_size 0", ["--data.batch_size is 0"]),
        ("--data.eval_batch_size 0", ["--data.eval_batch_size is 0"]),
        ("--data.limit_per_set 0", ["--data.limit_per_set is 0"]),
        ("--data.num_workers -1", ["--data.num_workers"]),
        ("--data.id sceens", ["'sceens'", "scenes", "folder:PATH"]),
        ("--data.id folder:nowhere", ["nowhere", "--data.root"]),
        ("--data.id cifar10", ["cifar-10-batches-py", "--data.root"]),
        ("--data.ood_sets [texturs]", ["'texturs'", "textures", "folder:PATH"]),
        ("--data.ood_sets [texture,noise,texture]", ["'texture'", "is taken"]),
        ("--data.ood_sets [texture,texture=folder:x]", ["'texture'", "is taken"]),
        ("--data.ood_sets [id=folder:x]", ["'id'", "is taken"]),
        ("--data.ood_sets [texture,'folder:']", ["folder:PATH"]),
        ("--data.ood_sets texture", ["--data.ood_sets is 'texture': it must be a list, such as '[a,b]'"]),
        ("--data.class_names nowhere.yaml", ["nowhere.yaml"]),
        ("--data.shots_file nowhere.json", ["nowhere.json"]),
        ("--model.class_names [cat,dog]", ["class_names"]),
        ("--model.unknown_word circle", ["'circle'", "--model.unknown_word"]),
        ("--model.unknown_word Circle", ["--model.unknown_word"]),
        ("--model.score energee", ["'energee'", "energy"]),
        ("--model.scores [energy,mps]", ["'mps'", "msp"]),
        ("--model.objective none --model.score unknown", ["'unknown'", "energy"]),
        ("--model.objective entropy --model.score gl_mcm --model.scores [unknown]", ["'unknown'"]),
        ("--model.objective none --model.context.learn unknown_only", ["unknown_only", "shared"]),
        ("--model.objective uniform_kl --model.context.learn unknown_only", ["unknown_only"]),
        ("--model.context.words null --model.context.length 14", ["MicroCLIP", "tokens", "--model.context.length"]),
        ("--model.context.words null --model.context.length 0", ["--model.context.length is 0"]),
        ("--model.context.words ''", ["--model.context.words"]),
        ("--model.template plain", ["--model.template", "'plain'", "imagenet7 or imagenet80"]),
        ('--model.template ["a{}","plain"]', ["--model.template", "'plain'"]),
        ("--model.backbone RN50", ["RN50", "not supported", "MicroCLIP"]),
        ("--model.backbone ViT-B-61", ["'ViT-B-61'"]),
        ("--model.backbone hf-hub:timm/vit_base_patch16_clip_224.openai", ["is not on this", "local-dir:"]),
        ("--model.backbone ViT-B-16 --model.pretrained openai", ["ViT-B-16-quickgelu"]),
        ("--model.backbone ViT-B-16-SigLIP", ["not supported"]),
        ("--model.pretrained nowhere.pt", ["no file of weights nowhere.pt"]),
        ("--model.pretrained broken.pt", ["broken.pt"]),
        ("--model.surgery.kernel_size 2", ["--model.surgery.kernel_size is 2", "odd"]),
        ("--model.surgery.kernel_size 1 --model.surgery.kernel centre_excluded", ["--model.surgery.kernel"]),
        ("--model.surgery.depth 7", ["--model.surgery.depth is 7"]),
        ("--model.synthesis.alpha 0", ["--model.synthesis.alpha is 0"]),
        ("--model.synthesis.mix 2", ["--model.synthesis.mix is 2"]),
        ("--model.synthesis.count 0", ["--model.synthesis.count is 0"]),
        ("--trainer.accelerator cuda", ["CUDA"]),
        ("--trainer.devices some", ["--trainer.devices some"]),
        ("--trainer.devices 0", ["--trainer.devices 0"]),
        ("--trainer.accumulate_grad_batches 0", ["--trainer.accumulate_grad_batches is 0", "at least 1"]),
        ("--trainer.enable_checkpointing false", ["enable_checkpointing"]),
    ],
)
def test_a_wrong_option(words: str, pieces: list[str], tmp_path: Path) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (tmp_path / "broken.pt").write_bytes(b"not weights")
    given = [word.strip("'") for word in words.split()]
    refused(clipos("fit", *DEMO, *CPU, "--trainer.max_steps", 1, *given), *pieces)
    assert not list(tmp_path.glob("runs/*/last.ckpt"))
    assert "--trainer" not in words or not list(tmp_path.glob("runs/*"))


# ---- folders and images


def test_too_few_images_in_a_class(photos: Path) -> None:
    (photos / "photos/train/star/0.png").unlink()
    run = clipos("fit", *DEMO, "--data.root", photos, "--data.id", "folder:photos", "--data.shots", 4, *CPU)
    refused(run, "'star'", "3 training images", "--data.shots asks for 4")


def test_an_empty_class_folder(photos: Path) -> None:
    (photos / "photos/train/moon").mkdir()
    words = ("fit", *DEMO, "--data.root", photos, "--data.id", "folder:photos", *CPU)
    for shots in (1, "all"):
        refused(clipos(*words, "--data.shots", shots), "'moon' has no training images: add some, or remove the class")


@pytest.mark.parametrize("name", ["unknown", "Unknown", "UNKNOWN"])
def test_a_class_called_unknown(name: str, photos: Path) -> None:
    """CLIP's tokenizer knows no capitals: these are all the same prompt."""
    (photos / "photos/train/star").rename(photos / "photos/train" / name)
    (photos / "photos/test/star").rename(photos / "photos/test" / name)
    words = ("fit", *DEMO, "--data.root", photos, "--data.id", "folder:photos", "--trainer.max_steps", 1, *CPU)
    refused(clipos(*words), "--model.unknown_word")
    assert clipos(*words, "--model.unknown_word", "something").code == 0


def test_two_classes_with_the_same_words(photos: Path) -> None:
    (photos / "names.yaml").write_text("star: circle\n")
    words = ("--data.root", photos, "--data.id", "folder:photos", "--data.class_names", photos / "names.yaml")
    refused(clipos("fit", *DEMO, *words, *CPU), "'circle'", "--data.class_names")


@pytest.mark.parametrize("text", ["- star\n", "star: {a: 3}\n", "star: ''\n", "sun: a star\n", "star: [\n"])
def test_wrong_class_names(text: str, photos: Path) -> None:
    (photos / "names.yaml").write_text(text)
    words = ("--data.root", photos, "--data.id", "folder:photos", "--data.class_names", photos / "names.yaml")
    refused(clipos("fit", *DEMO, *words, *CPU), "--data.class_names", "names.yaml")


def test_a_folder_without_classes(photos: Path) -> None:
    words = ("fit", *DEMO, "--data.root", photos, *CPU)
    refused(clipos(*words, "--data.id", "folder:other"), "other", "put the images of each class into a folder")
    refused(clipos(*words, "--data.id", "folder:photos/train/star"), "star", "has no class folders")


def test_a_class_that_only_the_test_folder_has(photos: Path) -> None:
    shutil.copytree(photos / "photos/test/star", photos / "photos/test/moon")
    refused(clipos("test", *DEMO, "--data.root", photos, *PHOTO_OPTIONS, *CPU), "moon")


def test_an_ood_folder_that_is_missing_or_empty(photos: Path) -> None:
    (photos / "empty").mkdir()
    words = ("test", *DEMO, "--data.root", photos, "--data.id", "folder:photos", *CPU)
    refused(clipos(*words, "--data.ood_sets", "[folder:nowhere]"), "nowhere", "--data.root")
    refused(clipos(*words, "--data.ood_sets", "[folder:empty]"), "no image below", "empty")
    refused(clipos(*words, "--data.ood_sets", "[textures]"), "textures", "dtd")


@pytest.mark.parametrize("spoil", [lambda _: b"not an image", lambda whole: whole[: len(whole) // 2], lambda _: b""])
def test_an_unreadable_image_in_fit(spoil: Callable[[bytes], bytes], photos: Path) -> None:
    path = photos / "photos/train/star/2.png"
    path.write_bytes(spoil(path.read_bytes()))
    words = ("fit", *DEMO, "--data.root", photos, "--data.id", "folder:photos", "--data.shots", 4, *CPU)
    refused(clipos(*words, "--trainer.max_steps", 1), str(path), "Repair it")


@pytest.mark.parametrize("name", ["other/3.png", "photos/test/star/1.png"])
def test_an_unreadable_image_in_test(name: str, photos: Path) -> None:
    (photos / name).write_bytes(b"not an image")
    refused(clipos("test", *DEMO, "--data.root", photos, *PHOTO_OPTIONS, *CPU), str(photos / name), "Repair it")


def test_unreadable_images_can_be_left_out_of_a_test(photos: Path) -> None:
    whole = (photos / "other/3.png").read_bytes()
    (photos / "other/3.png").write_bytes(whole[: len(whole) // 2])
    words = ("test", *DEMO, "--data.root", photos, *PHOTO_OPTIONS)
    refused(clipos(*words, *CPU), str(photos / "other/3.png"), "--data.unreadable skip")
    run = done(*words, "--data.unreadable", "skip")
    assert run.report["run"]["unreadable"] == {"other": 1} and "left out: cannot read image" in run.err
    assert {scores["n"] for scores in run.report["ood"]["other"].values()} == {6}
    assert (
        len(run.scores["other/paths"]) == 6 and "1 unreadable image left out" in (run.folder / "report.md").read_text()
    )


def test_stderr_holds_the_error_alone(photos: Path) -> None:
    """In a separate process, where the test runner does not catch warnings; raised by a worker process."""
    (photos / "other/3.png").write_bytes(b"not an image")
    words = ["test", *DEMO, "--data.root", str(photos), *PHOTO_OPTIONS, *CPU, "--data.num_workers", "1"]
    command = [sys.executable, "-m", "clipos_lightning", *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert run.returncode == 2
    (line,) = run.stderr.strip().splitlines()
    assert line.startswith("clipos: error: cannot read image")
    assert run.stdout == ""


# ---- checkpoints


@pytest.mark.parametrize("path", ["https://example.org/last.ckpt", "s3://bucket/last.ckpt", ".", "last", "hpc"])
def test_a_missing_checkpoint(path: str) -> None:
    refused(clipos("test", "--ckpt_path", path, *CPU), path, "clipos fit")


@pytest.mark.parametrize("command", ["fit", "validate", "test"])
def test_a_missing_checkpoint_of_every_command(command: str) -> None:
    refused(clipos(command, *DEMO, "--ckpt_path=nowhere.ckpt", *CPU), "nowhere.ckpt")


def test_a_checkpoint_named_in_a_config(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("ckpt_path: nowhere.ckpt\n")
    refused(clipos("test", *DEMO, "--config", "mine.yaml", *CPU, "--data.limit_per_set", 1), "nowhere.ckpt")


class Opener:
    """An object as in a malicious checkpoint."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["text", "empty", "weights", "list", "other clipos", "code"])
def test_a_checkpoint_of_something_else(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "some.ckpt"
    contents: dict[str, Any] = {
        "weights": {"state_dict": {"layer.weight": torch.zeros(2)}},
        "list": [1, 2],
        "other clipos": {"clipos": {}, "state_dict": {}},
        "code": {"clipos": Opener(str(tmp_path / "opened"))},
    }
    if kind in contents:
        torch.save(contents[kind], path)
    else:
        path.write_text("words" if kind == "text" else "")
    for run in (clipos("test", "--ckpt_path", path, *CPU), clipos("predict", path, path)):
        refused(run, "some.ckpt")
        assert "\x1b" not in run.err
    assert not (tmp_path / "opened").exists()


# ---- predict


def test_predict_with_an_out_that_exists(checkpoint: str, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("mine\n")
    refused(clipos("predict", checkpoint, tiny_folder, "--out", "rows.csv"), "rows.csv", "exists")
    assert (tmp_path / "rows.csv").read_text() == "mine\n"
    refused(clipos("predict", checkpoint, tiny_folder, "--out", "nowhere/rows.csv"), "nowhere")


def test_predict_with_paths_that_are_missing_or_empty(checkpoint: str, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(clipos("predict", checkpoint, tiny_folder, "nowhere", "--out", "rows.csv"), "nowhere")
    refused(clipos("predict", checkpoint, "empty", "--out", "rows.csv"), "no image below empty")
    refused(clipos("predict", "nowhere.ckpt", tiny_folder, "--out", "rows.csv"), "nowhere.ckpt")
    assert not list(tmp_path.glob("*.csv"))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("option", ["--batch_size 0", "--batch_size some", "--device warp", "--pretrained nowhere.pt"])
def test_predict_with_a_wrong_option(option: str, checkpoint: str, tiny_folder: Path) -> None:
    refused(clipos("predict", checkpoint, tiny_folder, "--num_workers", 0, *option.split()), option.split()[1])


# ---- the other exit codes


def test_an_interrupted_command_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(front_door, "shipped_configs", interrupted)
    run = clipos("configs")
    assert (run.code, run.err) == (130, "clipos: interrupted\n")


@pytest.mark.parametrize("hook", ["on_fit_start", "training_step"])
def test_interrupted_training_is_130(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ClipOS, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClipOS, hook, interrupted)
    run = clipos("fit", *DEMO, *CPU, "--trainer.max_steps", 1)
    assert run.code == 130
    again = "nothing was trained yet: run the same command again"
    assert run.err.strip().splitlines()[-2:] == ["clipos: interrupted", again]
    assert "Traceback" not in run.err


def test_a_defect_of_ours_is_1_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ClipOS, *_: Any) -> None:
        raise RuntimeError("this is a defect")

    monkeypatch.setattr(ClipOS, "training_step", broken)
    run = clipos("fit", *DEMO, *CPU, "--trainer.max_steps", 1)
    assert run.code == 1
    assert "Traceback (most recent call last)" in run.err
    assert "RuntimeError: this is a defect" in run.err


def test_help_is_0() -> None:
    for words in (["--help"], ["fit", "--help"], ["test", "--help"], ["predict", "--help"]):
        run = clipos(*words)
        assert run.code == 0
        assert "usage" in run.out.lower()


def test_a_dumped_config_is_a_config(tmp_path: Path) -> None:
    """The output of --print_config can be read back."""
    text = clipos("fit", *DEMO, "--print_config").out
    (tmp_path / "mine.yaml").write_text(text)
    assert yaml.safe_load(clipos("fit", "--config", "mine.yaml", "--print_config").out) == yaml.safe_load(text)


def test_make_photos_is_what_the_tests_take_it_for(tmp_path: Path) -> None:
    root = make_photos(tmp_path, train=1, test=2, other=3)
    assert len(list(root.rglob("*.png"))) == 3 * 1 + 3 * 2 + 3


# ---- outputs that cannot be written


@pytest.mark.parametrize("words", ["--trainer.default_root_dir file", "--trainer.default_root_dir file/below"])
def test_a_run_that_cannot_be_written(words: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(clipos("fit", *DEMO, *CPU, *words.split()), "file")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EISDIR])
def test_errors_of_files_are_one_line(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(number, os.strerror(number), "runs/report.json")

    monkeypatch.setattr(front_door, "dispatch", fail)
    refused(clipos("configs"), f"runs/report.json: {os.strerror(number)}")


def test_other_errors_of_the_system_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (OSError(errno.EBADF, "bad", "x"), OSError(errno.EACCES, "no file"), OSError("text")):
        monkeypatch.setattr(front_door, "dispatch", lambda _, error=error: (_ for _ in ()).throw(error))
        assert clipos("configs").code == 1
