"""Batches of other libraries' loaders become the pixels that the detector scores in its own commands."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import tiny_detector
from PIL import Image
from running import save_noise
from torchvision.transforms.functional import normalize, to_tensor

from clipos_lightning import Detector, InputError
from clipos_lightning.adapters import ModelTransform
from clipos_lightning.adapters.model_input import as_detector, model_pixels


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny_detector()


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_the_transform_is_the_detectors_own(detector: Detector, mode: str, tmp_path: Path) -> None:
    save_noise(tmp_path / "x.png", 1, (50, 41))
    image = Image.open(tmp_path / "x.png").convert(mode)
    transform = pickle.loads(pickle.dumps(ModelTransform.of(detector)))
    assert torch.equal(transform(image), detector.prepare(image)[0])
    assert len(pickle.dumps(transform)) < 2000  # without the backbone


def test_a_batch_is_bytes_or_what_to_tensor_makes_of_them(detector: Detector, images) -> None:
    for side in (32, 20):  # the model's size, and one that is resized
        batch = images(4, side)
        wanted = detector.prepare(batch)
        assert torch.equal(model_pixels(batch, detector), wanted)
        floats = torch.stack([to_tensor(image.permute(1, 2, 0).numpy()) for image in batch])
        for dtype in (torch.float32, torch.float64):
            assert torch.equal(model_pixels(floats.to(dtype), detector), wanted)
    every = torch.arange(256, dtype=torch.uint8).repeat(3 * 4).reshape(1, 3, 32, 32)
    assert torch.equal(model_pixels(every / 255, detector), every)


@pytest.mark.parametrize(
    ("change", "piece"),
    [
        (lambda batch: batch[0], "not torch.uint8 of shape (3, 32, 32)"),
        (lambda batch: batch[:, :1], "of shape (2, 1, 32, 32)"),
        (lambda batch: batch[:0], "of shape (0, 3, 32, 32)"),
        (lambda batch: batch.permute(0, 2, 3, 1), "of shape (2, 32, 32, 3)"),
        (lambda batch: batch.numpy(), "not ndarray"),
        (lambda batch: [*batch], "not list"),
        (lambda batch: batch.long(), "not torch.int64"),
        (lambda batch: batch.float(), "normalised or resized"),
        (lambda batch: batch / 255 + 0.001, "normalised or resized"),
        (lambda batch: normalize(batch / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), "normalised or resized"),
        (lambda batch: 0.5 + normalize(batch / 255, (0.5, 0.5, 0.5), (1.0, 1.0, 0.3)) / 4, "normalised or resized"),
        (lambda batch: batch / torch.nan, "normalised or resized"),
    ],
)
def test_other_batches_are_refused(detector: Detector, images, change, piece: str) -> None:
    with pytest.raises(InputError, match=re.escape(piece)) as error:
        model_pixels(change(images(2, 32)), detector)
    assert "give the data sets the adapter's transform" in str(error.value)


def test_a_file_is_loaded(detector: Detector, tmp_path: Path) -> None:
    detector.save(tmp_path / "detector.safetensors")
    loaded = as_detector(tmp_path / "detector.safetensors")
    assert loaded.class_names == detector.class_names and as_detector(detector) is detector
    with pytest.raises(InputError, match=r"none\.safetensors"):
        as_detector(str(tmp_path / "none.safetensors"))


def test_an_array_is_an_image_too(detector: Detector) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert torch.equal(ModelTransform.of(detector)(pixels), torch.from_numpy(pixels).permute(2, 0, 1))
