"""Styles of the scenes: deterministic, with true masks, and each like what it is called."""

from pathlib import Path

import numpy as np
import pytest

from clipos_lightning.data.benchmarks import BENCHMARKS, open_id, open_ood, parse_ood_specs
from clipos_lightning.data.scenes import ID_SHAPES, KINDS, render
from clipos_lightning.data.styles import KNOWN_STYLES, NEW_STYLES, PHOTO, STYLE_WORDS, STYLES, blur, edges, negative

ALL = (PHOTO, *STYLES)


def images_of(style: str, kind: str = "id", count: int = 20) -> np.ndarray:
    """Images (count, 32, 32, 3) of the training stream, as floats."""
    return np.stack([render(kind, "train", 0, i, style=style).image for i in range(count)]).astype(np.float64)


def test_known_and_new_styles_are_disjoint_and_have_words() -> None:
    assert not set(KNOWN_STYLES) & set(NEW_STYLES)
    assert len(STYLES) >= 5
    assert set(STYLE_WORDS) == set(ALL)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_a_function_of_its_arguments(kind: str, style: str) -> None:
    first, again, other = (render(kind, "tune", 7, i, style=style) for i in (5, 5, 6))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)
    assert first.image.shape == (32, 32, 3)
    assert first.image.dtype == np.uint8
    assert first.mask.shape == (32, 32)
    assert not np.array_equal(first.image, other.image)


def test_no_image_is_shared_between_styles() -> None:
    pictures = [
        render(kind, "train", 0, i, style=style).image.tobytes() for style in ALL for kind in KINDS for i in (0, 1)
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("style", STYLES)
def test_the_mask_is_where_the_object_is(style: str) -> None:
    """A square stays a filled square of the same size range in every style."""
    scene = render("id", "train", 0, 1, style=style)
    assert scene.shape == ID_SHAPES[1]
    inside = np.argwhere(scene.mask > 0.5)
    box = np.ptp(inside, axis=0) + 1
    assert 0.1 < len(inside) / scene.mask.size < 0.8
    assert len(inside) / box.prod() > 0.6  # a square fills most of its box


@pytest.mark.parametrize("style", STYLES)
def test_a_style_looks_the_same_at_every_size(style: str) -> None:
    small, large = (
        np.stack([render("id", "train", 0, i, size=n, style=style).image for i in range(10)]) for n in (32, 128)
    )
    assert large.std() == pytest.approx(small.std(), rel=0.35)
    assert large.mean() == pytest.approx(small.mean(), rel=0.35)


def test_an_unknown_style_or_size_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        render("id", "train", 0, 0, size=0, style="sketch")
    with pytest.raises(ValueError, match="no style 'oil'; one of photo, sketch"):
        render("id", "train", 0, 0, style="oil")


def test_sketches_are_grey_lines_on_light_paper() -> None:
    images = images_of("sketch")
    assert np.ptp(images.mean((1, 2)), axis=1).max() < 3  # no colour
    assert np.median(images, axis=(1, 2, 3)).mean() > 170
    assert np.percentile(images, 3, axis=(1, 2, 3)).mean() < 110


def test_blueprints_are_light_lines_on_blue() -> None:
    red, green, blue = images_of("blueprint").mean((0, 1, 2))
    assert blue > green + 30 > red + 40


def test_thermal_images_have_the_colours_of_heat() -> None:
    """Brighter is hotter: red rises before green, and green before blue has fallen and risen again."""
    pixels = images_of("thermal").reshape(-1, 3)
    brightness = pixels @ (0.299, 0.587, 0.114)
    cold, warm, hot = (pixels[(brightness > a) & (brightness < b)].mean(0) for a, b in ((0, 40), (80, 140), (200, 256)))
    assert cold[2] > cold[0]
    assert warm[0] > 2 * warm[1]
    assert hot[0] > hot[1] > hot[2]


def test_a_negative_is_the_inverse() -> None:
    picture = np.random.default_rng(0).uniform(0, 255, (8, 8, 3)).astype(np.float32)
    inverse = negative(np.random.default_rng(1), picture)
    tint = (inverse / (255 - picture)).mean((0, 1))
    np.testing.assert_allclose(inverse, (255 - picture) * tint, rtol=1e-4)
    assert 1.01 > tint[0] > tint[1] > tint[2]


def test_neon_is_bright_lines_in_the_dark_and_relief_is_grey() -> None:
    neon, relief = images_of("neon"), images_of("relief")
    assert np.median(neon) < 60
    assert np.percentile(neon.max(3), 97) > 200
    assert np.ptp(relief.mean((1, 2)), axis=1).max() < 3
    assert abs(np.median(relief) - 128) < 15


def test_edges_are_where_a_channel_is_steep() -> None:
    picture = np.zeros((96, 96, 3), np.float32)
    picture[:, 48:, 1] = 200  # one channel changes between columns 47 and 48
    found = edges(picture)
    assert (found[:, 46:50] > 0.9).all()
    assert (found[:, :40] == 0).all()
    assert (found[:, 56:] == 0).all()


def test_blurring_keeps_a_constant_and_the_mean() -> None:
    np.testing.assert_array_equal(blur(np.full((20, 20), 7, np.float32), 3), 7)
    noise = np.random.default_rng(0).uniform(-3, 5, (96, 96)).astype(np.float32)
    assert abs(blur(noise, 2).mean() - noise.mean()) < 0.1
    assert blur(noise, 2).std() < 0.5 * noise.std()


@pytest.mark.parametrize("style", STYLES)
def test_each_style_is_an_id_set_with_ood_sets_of_the_same_style(style: str) -> None:
    opened = open_id(f"scenes-{style}", Path("data"), seed=1, shots=1)
    assert (opened.name, opened.class_names) == (f"scenes-{style}", list(ID_SHAPES))
    assert opened.test is not None
    sample = opened.test.read(3)
    expected = render("id", "report", 0, 3, style=style)
    np.testing.assert_array_equal(np.asarray(sample.image), expected.image)
    np.testing.assert_array_equal(sample.mask, expected.mask)
    marks = BENCHMARKS[f"scenes-{style}"]
    names = [*marks["near"], *marks["far"]]
    assert names == [f"{kind}-{style}" for kind in KINDS if kind != "id"]
    for name, spec in zip(names, parse_ood_specs(names), strict=True):
        images = open_ood(spec, Path("data"))
        assert (images.name, len(images)) == (name, 600)
        kind = name.removesuffix(f"-{style}")
        np.testing.assert_array_equal(np.asarray(images.read(1).image), render(kind, "report", 0, 1, style=style).image)
