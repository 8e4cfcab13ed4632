"""The preprocessing that a model declares, compared with open_clip's own transforms on images of many sizes."""

from itertools import product

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image

from clipos_lightning.data.image_sets import ArraySet, ModelSizeImages
from clipos_lightning.data.preprocessing import CLIP_RESIZE, Preprocessing
from clipos_lightning.data.resolution import DownscaledSet
from clipos_lightning.data.transforms import (
    as_tensor,
    batch_to_model_size,
    mask_to_model_size,
    resize_on_device,
    to_model_size,
    view,
    view_rng,
)
from clipos_lightning.errors import InputError

KINDS = ("bicubic", "bilinear")
SIDES = [(32, 32), (31, 64), (65, 33), (20, 9), (7, 50), (200, 121), (224, 225), (3, 5), (64, 64), (1, 7)]
MODES = list(product(["shortest", "longest", "squash"], KINDS))


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 1000 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def by_open_clip(image: Image.Image, preprocessing: Preprocessing) -> torch.Tensor:
    """Levels 0-255 of open_clip's transform without its normalisation."""
    config = PreprocessCfg(preprocessing.size, mean=(0.0,) * 3, std=(1.0,) * 3)
    config.resize_mode, config.interpolation = preprocessing.resize_mode, preprocessing.interpolation
    config.fill_color = preprocessing.fill_color
    return 255 * image_transform_v2(config, is_train=False)(image)


@pytest.mark.parametrize(("mode", "interpolation"), MODES)
@pytest.mark.parametrize("size", [32, 33, 224])
def test_pixels_are_open_clips(mode: str, interpolation: str, size: int) -> None:
    preprocessing = Preprocessing(size, mode, interpolation, fill_color=130)
    for width, height in SIDES:
        image = picture(width, height)
        off = (to_model_size(image, preprocessing) - by_open_clip(image, preprocessing)).abs().max()
        assert off < 1e-3, (width, height)


@pytest.mark.parametrize("mode", ["longest", "squash"])
def test_extreme_shapes_have_an_input_in_every_mode(mode: str) -> None:
    """Open_clip has none where the shorter side is scaled to 0 pixels."""
    pixels = to_model_size(Image.new("RGB", (15_000, 1), (10, 200, 30)), Preprocessing(32, mode))
    assert pixels.shape == (3, 32, 32)
    assert pixels[:, 15].float().mean(1).tolist() == [10, 200, 30]
    assert ((pixels == 0).float().mean() > 0.9) == (mode == "longest")  # padding


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_masks_have_the_geometry_of_their_images(mode: str) -> None:
    """A mask is resized as the image that shows it: the two differ by the rounding of PIL's bytes only."""
    for width, height in SIDES:
        mask = np.zeros((height, width), dtype=np.float32)
        mask[height // 4 : height // 2 + 1, width // 2 :] = 1
        shown = Image.fromarray((255 * mask).astype(np.uint8)).convert("RGB")
        preprocessing = Preprocessing(32, mode, "bilinear")
        found = mask_to_model_size(mask, preprocessing)
        assert (255 * found - by_open_clip(shown, preprocessing)[0]).abs().max() <= 1.01, (width, height)


@pytest.mark.parametrize(("mode", "interpolation"), MODES)
@pytest.mark.parametrize(("side", "size"), [(32, 224), (64, 32), (50, 33), (32, 32)])
def test_resizing_in_batches_and_on_the_device_follows(mode: str, interpolation: str, side: int, size: int) -> None:
    preprocessing = Preprocessing(size, mode, interpolation)
    images = np.stack([np.asarray(picture(side, side)) for _ in range(2)])
    expected = torch.stack([by_open_clip(Image.fromarray(image), preprocessing) for image in images])
    pixels = torch.stack([as_tensor(Image.fromarray(image)) for image in images])
    for found in (batch_to_model_size(images, preprocessing), resize_on_device(pixels, preprocessing)):
        off = (found - expected).abs()
        assert off.max() < 2.01
        assert (off > 0.5).float().mean() < 0.01
        assert (off > 1.5).float().mean() < 1e-4


@pytest.mark.parametrize("raw", [False, True])
def test_arrays_that_are_not_square_are_padded_or_squashed_too(raw: bool) -> None:
    wide = np.asarray(picture(30, 20))[None]
    for mode in ("longest", "squash"):
        preprocessing = Preprocessing(32, mode)
        item = ModelSizeImages(ArraySet("wide", wide, None), [0], preprocessing, True, raw).__getitems__([0])[0]
        assert torch.equal(item["image"].float(), by_open_clip(Image.fromarray(wide[0]), preprocessing).round())


def test_views_take_the_interpolation() -> None:
    image = picture(40, 30)
    one, other = (view(image, Preprocessing(24, "squash", kind), view_rng(1, "a", "b", 1)) for kind in KINDS)
    assert not torch.equal(one, other)
    assert (one.float() - other.float()).abs().mean() < 20


@pytest.mark.parametrize(("mode", "kept"), [("shortest", True), ("longest", False), ("squash", True)])
def test_scaling_down_to_the_id_images_follows(mode: str, kept: bool) -> None:
    small = Preprocessing(24, mode)
    images = np.asarray(picture(48, 24))[None], np.asarray(picture(96, 60))[None]
    first, second = (DownscaledSet(ArraySet("x", array, None), small).read(0).image for array in images)
    assert first.size == ((48, 24) if kept else (24, 24))  # not larger in the side that counts
    assert torch.equal(as_tensor(second).float(), by_open_clip(Image.fromarray(images[1][0]), small).round())


# ---- what is declared


def test_a_configuration_without_values_is_openais() -> None:
    found = Preprocessing.declared(64, {"size": 224, "mode": "RGB", "resize_mode": None}, "x")
    assert found == Preprocessing(64, **CLIP_RESIZE)
    assert (found.mean, found.std) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    assert found == Preprocessing.declared(64, found.plain, "x")


def test_one_number_stands_for_all_channels() -> None:
    found = Preprocessing.declared(8, {"mean": 0.5, "std": [0.1, 0.2, 0.3]}, "x")
    assert (found.mean, found.std) == ((0.5, 0.5, 0.5), (0.1, 0.2, 0.3))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("resize_mode", "stretch"),
        ("interpolation", "lanczos"),
        ("fill_color", 256),
        ("fill_color", [1, 2, 3]),
        ("mean", [0.5, 0.5]),
        ("std", 0),
        ("std", "big"),
    ],
)
def test_other_values_are_refused(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^the weights: its image preprocessing is not supported: {key} "):
        Preprocessing.declared(8, {key: value}, "the weights")
