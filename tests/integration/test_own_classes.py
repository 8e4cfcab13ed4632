"""User folders: fit without a test set or OOD sets; classes with several names and templates."""

import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from running import CPU, PHOTOS, clipos, done, refused

from clipos_lightning import ClipOS, Detector, InputError
from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.data.class_prompts import one_name_each, read_wordings
from clipos_lightning.method.prompts import ContextOptions, PromptLearner, Wordings, encode_prompts, mean_rows

CLASSES = sorted(PHOTOS)  # circle, heart, star
SMALL = ("--model.backbone", "MicroCLIP", "--model.pretrained", "null", "--model.context.length", 4)
WORDINGS: list[dict[str, list[str]]] = [
    {"names": ["circle", "disc"], "templates": ["a photo of a {}.", "a small {}."]},
    {"names": ["heart"]},
    {"names": ["star"], "templates": ["a picture of a {}."]},
]


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(content: Any, name: str = "classes.yaml") -> str:
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return name


# ---- the file of wordings


def test_every_form_of_wording() -> None:
    text = """
    circle: [circle, disc]
    star:
      names: five-pointed star
      templates: ["a {} in the sky."]
    _templates: ["a photo of a {}.", "a {} in the wild."]
    """
    common = ["a photo of a {}.", "a {} in the wild."]
    found = read_wordings(write(text), CLASSES, CLASSES)
    assert found == [
        {"templates": common, "names": ["circle", "disc"]},
        {"templates": common, "names": ["heart"]},
        {"templates": ["a {} in the sky."], "names": ["five-pointed star"]},
    ]
    assert not one_name_each(found)
    assert one_name_each(read_wordings(write("circle: disc\nstar: [star, star]\n"), CLASSES, CLASSES))
    assert read_wordings(write("airplane: plane\n"), ["0"], ["airplane"]) == [{"names": ["plane"]}]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("- circle\n", "must map each class folder"),
        ("circle: []\n", "circle must be a name"),
        ("circle: [disc, '']\n", "circle must be a name"),
        ("moon: [moon]\n", "'moon', which is not a class"),
        ("circle: {name: disc}\n", "circle takes names and templates"),
        ("circle: {templates: ['a {}.']}\n", "circle takes names and templates"),
        ("circle: {names: disc, templates: a photo}\n", "circle must be a list of templates"),
        ("circle: {names: disc, templates: [a photo]}\n", "circle: each template must contain {} exactly once"),
        ("_templates: a {}.\n", "_templates must be a list of templates"),
        ("_templates: ['{} {}.']\n", "each template must contain {} exactly once"),
    ],
)
def test_wordings_that_cannot_be(text: str, pieces: str) -> None:
    with pytest.raises(InputError) as error:
        read_wordings(write(text), CLASSES, CLASSES)
    assert pieces in str(error.value) and "classes.yaml" in str(error.value)


def test_a_class_folder_of_the_reserved_name() -> None:
    with pytest.raises(InputError, match="rename the class folder"):
        read_wordings(write("a: b\n"), ["_templates", "a"], [" templates", "a"])


# ---- what they do to the prompts


def normal_mean(rows: torch.Tensor) -> torch.Tensor:
    return F.normalize(rows.mean(0), dim=0)


def test_a_frozen_feature_is_the_mean_over_names_and_templates(microclip: FrozenClip) -> None:
    worded = Wordings.of(CLASSES, WORDINGS, "a photo of a {}.")
    assert worded.prompts[0] == [f"a {kind} {n}." for n in ("circle", "disc") for kind in ("photo of a", "small")]
    text = encode_prompts(microclip, worded.prompts, ["something."])
    assert text.shape == (4, 128)
    for row, prompts in zip(text, [*worded.prompts, ["something."]], strict=True):
        torch.testing.assert_close(row, normal_mean(microclip.encode_text(prompts)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("learn", ["shared", "own"])
def test_a_learned_prompt_is_the_mean_over_names(learn: Any, microclip: FrozenClip) -> None:
    options = ContextOptions(words="a photo of a", learn=learn)
    prompts = PromptLearner(microclip, CLASSES, "unknown", options, wordings=WORDINGS)
    text = prompts()
    each = microclip.encode_text([f"a photo of a {name}." for name in ("circle", "disc", "heart", "star", "unknown")])
    expected = torch.stack([normal_mean(each[:2]), *each[2:]])
    torch.testing.assert_close(text, expected, atol=1e-5, rtol=0)
    text[0, 0].backward()
    assert prompts.context is not None and prompts.context.grad is not None and prompts.context.grad.any()


def test_class_prompts_that_do_not_learn_are_the_frozen_features(microclip: FrozenClip) -> None:
    options = ContextOptions(words="a photo of a", learn="unknown_only")
    text = PromptLearner(microclip, CLASSES, "unknown", options, wordings=WORDINGS)()
    expected = encode_prompts(microclip, Wordings.of(CLASSES, WORDINGS, "a photo of a {}.").prompts)
    torch.testing.assert_close(text[:3], expected, atol=1e-6, rtol=0)


def test_one_name_a_class_changes_no_bit(unit: Any) -> None:
    rows = unit(4, 8)
    assert mean_rows(rows, [["a"], ["b"], ["c"]]) is rows


def test_names_of_two_classes_differ() -> None:
    for names, message in ((["star", "Heart"], "'heart'"), (["star", "unknown"], "'unknown'")):
        wordings = [{"names": ["circle"]}, {"names": ["heart"]}, {"names": names}]
        with pytest.raises(InputError, match=message):
            ClipOS(CLASSES, backbone="MicroCLIP", class_wordings=wordings)


# ---- through the command line


def test_wordings_go_with_the_checkpoint(tiny_folder: Path) -> None:
    write({"circle": ["circle", "disc"], "_templates": ["a photo of a {}.", "a small {}."]})
    options = ("--data.root", tiny_folder, "--data.id", "folder:photos", "--data.ood_sets", "[folder:other]")
    fit = done("fit", "--config", "demo.yaml", *options, "--data.class_names", "classes.yaml", "--trainer.max_steps", 1)
    checkpoint = torch.load(fit.checkpoint, weights_only=True)
    assert checkpoint["clipos"]["class_names"] == CLASSES
    wordings = checkpoint["hyper_parameters"]["class_wordings"]
    assert wordings[0] == {"templates": ["a photo of a {}.", "a small {}."], "names": ["circle", "disc"]}
    test = done("test", "--ckpt_path", fit.checkpoint)
    assert "disc" not in (test.folder / "report.md").read_text()  # the first name is the one that is shown
    detector = Detector.load(fit.checkpoint, "cpu")
    expected = encode_prompts(detector.backbone, Wordings.of(CLASSES, wordings, "{}").prompts)
    torch.testing.assert_close(detector.head.class_text, expected)
    again = done("test", "--config", test.folder / "config.yaml", "--ckpt_path", fit.checkpoint)
    assert again.report["ood"] == test.report["ood"]
    write({"circle": ["circle", "ring"], "_templates": ["a photo of a {}.", "a small {}."]})
    refused(clipos("test", "--ckpt_path", fit.checkpoint, *CPU), "with other class prompts")
    refused(clipos("test", "--ckpt_path", fit.checkpoint, *CPU, "--data.class_names", "null"), "other class prompts")


@pytest.mark.parametrize("place", ["config", "command line"])
def test_wordings_come_from_the_data_alone(place: str) -> None:
    write({"model": {"class_wordings": [{"names": ["a"]}]}}, "mine.yaml")
    given = ("--config", "mine.yaml") if place == "config" else ("--model.class_wordings", "[]")
    refused(clipos("fit", "--config", "demo.yaml", *given, *CPU), "class_wordings")


# ---- user folders


def test_own_folders_without_test_images_or_ood_sets(tiny_folder: Path) -> None:
    shutil.copytree(tiny_folder / "photos/train", "photos")
    fit = done("fit", "--config", "own.yaml", "--data.id", "folder:photos", *SMALL, "--trainer.max_steps", 2)
    assert fit.lines[-2] == f"next: clipos calibrate {fit.checkpoint} IMAGES"
    images = tiny_folder / "photos/test"
    run = clipos("calibrate", fit.checkpoint, images, "--num_workers", 0)
    assert run.code == 0, run.err
    assert "15 images cannot guarantee" in run.out
    assert clipos("predict", "detector.safetensors", images, "--num_workers", 0).code == 0
    refused(clipos("test", "--ckpt_path", fit.checkpoint, *CPU), "no test images", "calibrate and predict do not")


def test_the_printed_commands_hold_whatever_the_environment_says(tiny_folder: Path, tmp_path: Path) -> None:
    options = ("--data.root", tiny_folder, "--data.id", "folder:photos", *SMALL, "--trainer.max_steps", 1)
    env = {"CLIPOS_DATA": str(tmp_path / "elsewhere")}
    fit = done("fit", "--config", "own.yaml", *options, env=env)
    assert fit.lines[-3] == f"to predict: clipos calibrate {fit.checkpoint} IMAGES --root {tiny_folder}"
    command, *words = shlex.split(fit.lines[-2].removeprefix("next: clipos "))
    test = done(command, *words, env=env)
    assert test.report["id"]["n"] == 15
    calibrate = clipos("calibrate", fit.checkpoint, "--root", tiny_folder, "--num_workers", 0, env=env)
    assert calibrate.code == 0, calibrate.err
    there = done("fit", "--config", "own.yaml", *options, env={"CLIPOS_DATA": str(tiny_folder)})
    assert there.lines[-2].endswith("last.ckpt")


def test_files_of_other_kinds_are_counted_once(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "photos", "photos")
    for name in ("star/a.MOV", "star/deep/b.mov", "heart/notes.txt", "heart/.hidden"):
        (tmp_path / "photos/train" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos/train" / name).touch()
    words = ("fit", "--config", "own.yaml", "--data.id", "folder:photos", *SMALL, "--trainer.max_steps", 1)
    assert done(*words).err.splitlines() == ["note: left out 3 files with other suffixes (.mov, .txt)"]
    assert done(*words, "--data.root", tiny_folder).err == ""


def test_a_test_without_ood_sets_is_id_accuracy(tiny_folder: Path) -> None:
    options = ("--data.root", tiny_folder, "--data.id", "folder:photos", *SMALL)
    fit = done("fit", "--config", "own.yaml", *options, "--trainer.max_steps", 2)
    assert fit.lines[-2] == f"next: clipos test --ckpt_path {fit.checkpoint}"
    assert fit.lines[-3].startswith("to predict: clipos calibrate")
    test = done("test", "--ckpt_path", fit.checkpoint)
    assert test.report["id"]["n"] == 15 and test.report["ood"] == test.report["average"] == {}
    assert "ID accuracy" in test.out and "--data.ood_sets '[folder:" in test.out
