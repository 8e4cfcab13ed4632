"""The embedded scenes: deterministic, balanced, and consistent with their masks."""

import itertools

import numpy as np
import pytest

from clipos_lightning.data import scenes
from clipos_lightning.data.scenes import (
    BACKGROUNDS,
    COLORS,
    ID_SHAPES,
    KINDS,
    NEW_SHAPES,
    NEW_TEXTURES,
    PATTERNS,
    SEEN_SHAPES,
    SHAPES,
    SHAPES_OF,
    STREAMS,
    render,
    render_scene,
)


def test_names_are_disjoint_and_complete() -> None:
    shapes = ID_SHAPES + SEEN_SHAPES + NEW_SHAPES
    assert len(ID_SHAPES) == len(SEEN_SHAPES) == 10
    assert len(NEW_SHAPES) >= 8
    assert len(set(shapes)) == len(shapes)
    assert set(shapes) == set(SHAPES)
    assert set(BACKGROUNDS + NEW_TEXTURES) == set(PATTERNS)


@pytest.mark.parametrize("size", [16, 32, 48])
@pytest.mark.parametrize("kind", KINDS)
def test_types_and_sizes(kind: str, size: int) -> None:
    scene = render(kind, "train", 1, 3, size=size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert scene.mask.shape == (size, size)
    assert scene.mask.dtype == np.float32
    assert scene.mask.min() >= 0
    assert scene.mask.max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_is_a_function_of_its_arguments(kind: str) -> None:
    first, again = (render(kind, "tune", 7, 5) for _ in range(2))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.mask, again.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_no_picture_is_shared(kind: str) -> None:
    pictures = [render(kind, *where).image.tobytes() for where in itertools.product(STREAMS, (0, 1), range(20))]
    assert len(set(pictures)) == len(pictures) == 120


def test_report_pictures_of_the_kinds_differ() -> None:
    assert len({render(kind, "report", 0, 0).image.tobytes() for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", SHAPES_OF)
def test_shapes_cycle_with_the_index(kind: str) -> None:
    shapes = SHAPES_OF[kind]
    drawn = [render(kind, "report", 0, index).shape for index in range(2 * len(shapes))]
    assert drawn == [*shapes, *shapes]


@pytest.mark.parametrize("kind", ["texture", "noise", "letters"])
def test_kinds_without_an_object(kind: str) -> None:
    scene = render(kind, "report", 0, 0)
    assert scene.shape == scene.color == scene.background == ""
    assert not scene.mask.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_covers_a_fair_part_of_the_picture(shape: str) -> None:
    rng = np.random.default_rng(0)
    cover = [render_scene(rng, shape).mask.mean() for _ in range(20)]
    assert 0.02 < min(cover)
    assert max(cover) < 0.65


def _upright(shape: str, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setattr(scenes, "MAX_TILT", 0.0)
    monkeypatch.setattr(scenes, "SIZE_RANGE", (0.48, 0.48))
    return render_scene(np.random.default_rng(0), shape).mask


def test_shapes_are_pairwise_distinct(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = {shape: _upright(shape, monkeypatch) for shape in SHAPES}
    for one, other in itertools.combinations(SHAPES, 2):
        a, b = masks[one], masks[other]
        assert np.minimum(a, b).sum() / np.maximum(a, b).sum() < 0.85, (one, other)


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_is_where_the_object_is(seed: int) -> None:
    scene = render_scene(np.random.default_rng(seed))
    inside = scene.image[scene.mask == 1].astype(float)
    assert len(inside) > 10
    # One colour, up to noise, the shade from top to bottom and the drawn tint.
    assert inside.std(0).max() < 20
    np.testing.assert_allclose(inside.mean(0), COLORS[scene.color], atol=90)


def test_inside_and_outside_look_different() -> None:
    rng = np.random.default_rng(0)
    drawn = [render_scene(rng) for _ in range(50)]
    gaps = [np.abs(s.image[s.mask == 1].mean(0) - s.image[s.mask == 0].mean(0)).max() for s in drawn]
    assert np.median(gaps) > 60


def test_unnamed_scenes_are_of_all_trained_shapes_colours_and_backgrounds() -> None:
    rng = np.random.default_rng(0)
    drawn = [render_scene(rng) for _ in range(400)]
    assert {s.shape for s in drawn} == {*ID_SHAPES, *SEEN_SHAPES}
    assert {s.color for s in drawn} == set(COLORS)
    assert {s.background for s in drawn} == set(BACKGROUNDS)


def test_supersampling_changes_edges_only() -> None:
    coarse, fine = (render_scene(np.random.default_rng(3), "ring", supersample=k).mask for k in (1, 4))
    assert set(np.unique(coarse)) == {0, 1}
    assert np.abs(coarse - fine).mean() < 0.1


@pytest.mark.parametrize(
    "arguments", [("cats", "train", 0, 0), ("id", "test", 0, 0), ("id", "train", -1, 0), ("id", "train", 0, -1)]
)
def test_render_refuses_what_it_does_not_know(arguments: tuple[str, str, int, int]) -> None:
    with pytest.raises(ValueError):
        render(*arguments)


def test_render_scene_refuses_unknown_shapes_and_sizes() -> None:
    with pytest.raises(ValueError, match="unknown shape 'cat'"):
        render_scene(np.random.default_rng(0), "cat")
    with pytest.raises(ValueError, match="at least 1"):
        render_scene(np.random.default_rng(0), size=0)
