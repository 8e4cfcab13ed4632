"""Weights that declare another preprocessing than OpenAI's: all commands give the model open_clip's pixels."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from running import CPU, PHOTOS, clipos, done, refused, save_noise, save_scene
from safetensors import safe_open
from safetensors.torch import save_file

from clipos_lightning import Detector, load_backbone
from clipos_lightning.cli.explain import explain_images
from clipos_lightning.cli.export import metadata
from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.loading import model_config
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.detector.file import KEY

DECLARED = {"resize_mode": "squash", "interpolation": "bilinear", "fill_color": 0}
MEAN = [0.5, 0.4, 0.3]


@pytest.fixture(scope="module")
def folder(microclip: FrozenClip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide images of three classes and of none, and MicroCLIP's weights with a configuration beside them."""
    root = tmp_path_factory.mktemp("squash")
    for shape in PHOTOS:
        for i, part in enumerate(("train", "test")):
            path = root / "photos" / part / shape / "0.png"
            save_scene(path, shape, i)
            Image.open(path).resize((70, 41)).save(path)
    save_noise(root / "other/0.png", 0, (33, 90))
    (root / "weights").mkdir()
    save_file({k: v.clone() for k, v in microclip.clip.state_dict().items()}, root / "weights/w.safetensors")
    config = {"model_cfg": model_config("MicroCLIP"), "preprocess_cfg": {**DECLARED, "mean": MEAN}}
    (root / "weights/open_clip_config.json").write_text(json.dumps(config))
    save_file({k: v.clone() for k, v in microclip.clip.state_dict().items()}, root / "alone.safetensors")
    return root


def as_open_clip_does(path: Path) -> torch.Tensor:
    """uint8 (3, 32, 32)."""
    config = PreprocessCfg(32, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear", resize_mode="squash")
    return (255 * image_transform_v2(config, is_train=False)(Image.open(path))).round().byte()


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.Tensor]]:
    """The images that reach the backbone while a command runs."""
    images: list[torch.Tensor] = []
    encode = FrozenClip.encode_surgeries

    def spy(self: FrozenClip, given: torch.Tensor, *rest: object) -> object:
        images.extend(given)
        return encode(self, given, *rest)

    monkeypatch.setattr(FrozenClip, "encode_surgeries", spy)
    return images


def check_pixels(seen: list[torch.Tensor], *paths: Path) -> None:
    """Every image is one of the files, as open_clip prepares it, and every file was seen."""
    expected = [as_open_clip_does(path) for path in paths]
    found = [[torch.equal(image, one) for one in expected] for image in seen]
    assert np.all(np.any(found, axis=1))
    assert np.all(np.any(found, axis=0))
    seen.clear()


def fitted(folder: Path, root: Path, weights: Path) -> Path:
    """The checkpoint of a short training on the wide images."""
    options = ["--model.pretrained", weights, "--trainer.default_root_dir", root, "--trainer.max_steps", 1]
    options += ["--data.id", "folder:photos", "--data.ood_sets", "[folder:other]", "--data.root", folder]
    return done("fit", "--config", "scenes_1shot_micro.yaml", *options).folder / "last.ckpt"


@pytest.fixture(scope="module")
def checkpoint(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(folder, tmp_path_factory.mktemp("run"), folder / "weights/w.safetensors")


def test_every_command_takes_the_declared_pixels(
    folder: Path, checkpoint: Path, seen: list[torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train, test = (sorted((folder / "photos" / part).rglob("*.png")) for part in ("train", "test"))
    other = folder / "other/0.png"
    done("test", "--ckpt_path", checkpoint)
    check_pixels(seen, *test, other)
    done("test", "--ckpt_path", checkpoint, "--data.resize", "device")
    check_pixels(seen, *test, other)
    assert clipos("predict", checkpoint, other, "--device", "cpu", "--explain", "maps").code == 0
    check_pixels(seen, other)
    run = clipos("calibrate", checkpoint, *test, "--device", "cpu", "--out", "d.safetensors")
    assert run.code == 0, run.err
    check_pixels(seen[-len(test) :], *test)  # before them, random views of the training images
    seen.clear()
    assert clipos("explain", "d.safetensors", other, "--device", "cpu").code == 0
    check_pixels(seen, other)
    Detector.load("d.safetensors", "cpu")(train)
    check_pixels(seen, *train)


def test_training_takes_the_declared_pixels(folder: Path, seen: list[torch.Tensor], tmp_path: Path) -> None:
    fitted(folder, tmp_path, folder / "weights/w.safetensors")
    check_pixels(seen, *sorted((folder / "photos/train").rglob("*.png")))


def test_the_files_record_it(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    recorded = torch.load(checkpoint, weights_only=True)["clipos"]["preprocessing"]
    assert recorded == load_backbone("MicroCLIP", str(folder / "weights/w.safetensors")).preprocessing.plain
    assert {**recorded, **DECLARED, "mean": MEAN} == recorded
    detector = Detector.load(checkpoint, "cpu")
    detector.save(tmp_path / "d.safetensors")
    with safe_open(tmp_path / "d.safetensors", "pt") as file:
        assert json.loads(file.metadata()[KEY])["preprocessing"] == recorded


@pytest.mark.parametrize("name", ["last.ckpt", "d.safetensors"])
def test_weights_moved_without_their_configuration_keep_it(
    name: str, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    there = Detector.load(checkpoint, "cpu")
    there.save(tmp_path / "d.safetensors")
    file = checkpoint if name == "last.ckpt" else tmp_path / name
    moved = Detector.load(file, "cpu", str(folder / "alone.safetensors"))
    assert moved.backbone.preprocessing == there.backbone.preprocessing
    assert moved(folder / "other/0.png") == there(folder / "other/0.png")
    assert metadata(moved)["preprocessing"].startswith(
        "RGB, both sides to 32 pixels, without keeping the aspect ratio (bi"
    )


def test_a_test_with_other_preprocessing_is_refused(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = clipos("test", "--ckpt_path", checkpoint, "--model.pretrained", folder / "alone.safetensors", *CPU)
    refused(run, "other image preprocessing: resize_mode squash, interpolation bilinear", "here resize_mode shortest")


def test_files_without_it_are_of_a_version_that_cropped_for_every_model(
    folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["clipos"]["preprocessing"]
    torch.save(content, tmp_path / "former.ckpt")
    found = Detector.load(tmp_path / "former.ckpt", "cpu").backbone.preprocessing
    assert found == Preprocessing(32, mean=tuple(MEAN))


def test_the_figure_of_explain_shows_what_the_model_sees(checkpoint: Path) -> None:
    picture = Image.new("RGB", (90, 40), "red")
    picture.paste("blue", (0, 0, 10, 40))  # cropped by OpenAI's preprocessing
    shown = explain_images(Detector.load(checkpoint, "cpu"), [picture], ["x"])[0].image
    assert shown.shape == (40, 40, 3)
    assert shown[20, 1].tolist() == [0, 0, 255]


def test_a_value_that_is_not_supported_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("w.safetensors").write_bytes((folder / "alone.safetensors").read_bytes())
    Path("open_clip_config.json").write_text(json.dumps({"model_cfg": {}, "preprocess_cfg": {"resize_mode": "fit"}}))
    run = clipos("fit", "--config", "scenes_1shot_micro.yaml", "--model.pretrained", "w.safetensors", *CPU)
    refused(run, "w.safetensors", "resize_mode 'fit'", "open_clip_config.json")
