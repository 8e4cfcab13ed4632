"""``--pretrained`` of the commands on a detector: named where the weights that it was made with cannot be found."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from running import clipos, done, refused
from safetensors.torch import load_file, save_file

import clipos_lightning
from clipos_lightning import ClipOS, ContextOptions, Detector
from clipos_lightning.clip import loading, weight_checks

ASSET = Path(clipos_lightning.__file__).parent / "assets/MicroCLIP.safetensors"
COMMANDS = ("predict", "calibrate", "explain", "export")


@pytest.fixture
def moved(tmp_path):
    """A detector whose file of weights was moved to moved.safetensors, and an image."""
    shutil.copy(ASSET, tmp_path / "weights.safetensors")
    words = ContextOptions(words="a photo of a")
    weights = str(tmp_path / "weights.safetensors")
    model = ClipOS(["red", "green"], backbone="MicroCLIP", pretrained=weights, score="energy", context=words)
    Detector.of(model).save(tmp_path / "detector.safetensors")
    (tmp_path / "weights.safetensors").rename(tmp_path / "moved.safetensors")
    Image.new("RGB", (32, 32), "green").save(tmp_path / "green.png")
    return tmp_path


def command(name, folder, *options):
    paths = [] if name == "export" else [folder / "green.png"]
    return clipos(name, folder / "detector.safetensors", *paths, *options)


@pytest.mark.parametrize("name", COMMANDS)
def test_weights_that_were_moved(name, moved):
    run = command(name, moved)
    refused(run, f"{moved}/detector.safetensors: no file of weights {moved}/weights.safetensors", "--pretrained FILE")
    assert "--model.pretrained" not in run.err


def test_the_option_takes_the_moved_file(moved):
    run = command("predict", moved, "--pretrained", moved / "moved.safetensors", "--num_workers", 0)
    assert run.code == 0, run.err
    assert "green.png,green" in run.out


def test_a_given_file_that_is_no_weights(moved):
    run = command("predict", moved, "--pretrained", moved / "green.png")
    refused(run, "cannot read the weights in", "green.png", "give another with --pretrained FILE")


def test_other_weights_name_the_option_once(moved):
    state = load_file(ASSET)
    save_file({name: tensor * 1.5 for name, tensor in state.items()}, moved / "other.safetensors")
    run = command("predict", moved, "--pretrained", moved / "other.safetensors")
    refused(run, "was trained with other weights of MicroCLIP", "--pretrained, or pretrained= in Python")
    assert run.err.count("detector.safetensors") == 1 and "--model.pretrained" not in run.err


@pytest.mark.badinput
def test_an_activation_that_a_file_does_not_tell_is_noted_by_fit_and_test(tmp_path, monkeypatch):
    """With a checkpoint it is not noted again: the checkpoint records the weights' fingerprint and the activation."""
    monkeypatch.setattr(loading, "load_clip", loading.load_clip.__wrapped__)  # the file is read
    monkeypatch.setattr(weight_checks, "other_activation", lambda name: f"{name}-quickgelu")
    options = ("--config", "scenes_1shot_micro.yaml", "--trainer.default_root_dir", tmp_path)
    limits = ("--data.limit_per_set", 10, "--data.ood_sets", "[noise]")
    fit = done("fit", *options, "--trainer.max_steps", 1)
    zero_shot = done("test", *options, *limits)
    for run in (fit, zero_shot):
        assert run.err.count("does not tell its activation: MicroCLIP uses GELU") == 1
    tested = done("test", "--ckpt_path", fit.checkpoint, "--trainer.default_root_dir", tmp_path, *limits)
    assert "activation" not in tested.err
    assert torch.load(fit.checkpoint, weights_only=True)["clipos"]["activation"] == "gelu"
