"""Heat maps as pixels: colours by matplotlib's own maps, the mask on the image's own pixels, files in rows."""

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from PIL import Image

from clipos_lightning.reporting.heatmaps import GAP, enlarge, map_panels, panel_row

RNG = np.random.default_rng(0)


def test_every_panel_has_the_colours_of_its_map() -> None:
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    clip, surgery, truth = RNG.random((4, 4)), RNG.random((4, 4)), RNG.random((8, 8))
    mask = surgery > clip
    panels = map_panels(image, clip, surgery, mask, truth)
    assert list(panels) == ["image", "plain CLIP", "surgery S", "difference Δ", "ID-relevant", "true object"]
    for name, values, colors, span in (
        ("plain CLIP", clip, "magma", (0, 1)),
        ("surgery S", surgery, "magma", (0, 1)),
        ("difference Δ", surgery - clip, "RdBu_r", (-1, 1)),
    ):
        expected = matplotlib.colormaps[colors](Normalize(*span)(values), bytes=True)[..., :3]
        assert (panels[name] == expected).all(), name
    assert (panels["image"] == image).all()
    assert (panels["true object"] == np.floor(255 * truth)[..., None]).all()
    for y in range(8):
        for x in range(8):
            pixel = image[y, x] if mask[y // 2, x // 2] else np.floor(0.25 * image[y, x].mean() + 0.75 * 235)
            assert (panels["ID-relevant"][y, x] == pixel).all()
    assert "true object" not in map_panels(image, clip, surgery, mask)


def test_large_panels_keep_the_patches_hard() -> None:
    small = RNG.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    large = enlarge(small, 20)
    assert large.shape == (21, 21, 3)
    assert (large == np.asarray(Image.fromarray(small).resize((21, 21), Image.Resampling.NEAREST))).all()


def test_a_row_of_panels_is_as_high_as_its_image_enlarged() -> None:
    image, grid = np.zeros((100, 100, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    row = panel_row([image, grid])
    assert row.shape == (300, 600 + GAP, 3)
    assert (row[:, :300] == 0).all() and (row[:, 300 : 300 + GAP] == 255).all() and (row[:, 300 + GAP :] == 9).all()
