"""Heat maps as pixels: colours by matplotlib's own maps, the mask on the image's own pixels, files in rows."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import Normalize
from PIL import Image

from clipos_lightning.reporting.captions import DecisionText, caption_strip
from clipos_lightning.reporting.heatmaps import GAP, enlarge, map_panels, panel_row, write_heatmaps
from clipos_lightning.types import ClassMaps

RNG = np.random.default_rng(0)


def test_every_panel_has_the_colours_of_its_map() -> None:
    image = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    clip, surgery, truth = RNG.random((4, 4)), RNG.random((4, 4)), RNG.random((8, 8))
    mask = surgery > clip
    panels = map_panels(image, clip, surgery, mask, truth)
    assert list(panels) == ["image", "plain CLIP", "surgery S", "difference Δ", "ID-relevant", "true object"]
    for name, values, span in (
        ("plain CLIP", clip, (0, 1)),
        ("surgery S", surgery, (0, 1)),
        ("difference Δ", surgery - clip, (-1, 1)),
    ):
        expected = matplotlib.colormaps["RdBu_r"](Normalize(*span)(values), bytes=True)[..., :3]
        assert (panels[name] == expected).all(), name
    assert (panels["image"] == image).all()
    assert (panels["true object"] == np.floor(255 * truth)[..., None]).all()
    for y in range(8):
        for x in range(8):
            pixel = image[y, x] if mask[y // 2, x // 2] else np.floor(0.25 * image[y, x].mean() + 0.75 * 235)
            assert (panels["ID-relevant"][y, x] == pixel).all()
    assert "true object" not in map_panels(image, clip, surgery, mask)


def test_with_a_single_class_the_distance_is_in_the_differences_place(tmp_path: Path) -> None:
    """In panels, files and their captions; each image has its own map."""
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    surgery, distance = torch.rand(2, 16), 0.5 * torch.rand(2, 16)
    maps = ClassMaps(surgery=surgery, clip=surgery.flip(1), mask=surgery > 0.5, difference=distance)
    text = DecisionText("only class", 1.0, "knn", 0.5, 0.4)
    write_heatmaps(tmp_path, ["0.png", "1.png"], images, maps, (4, 4), {0: text, 1: text})
    for k in (0, 1):
        parts = (m[k].reshape(4, 4).numpy() for m in (surgery.flip(1), surgery, surgery > 0.5))
        far = distance[k].reshape(4, 4).numpy()
        panels = map_panels(images[k].permute(1, 2, 0).numpy(), *parts, distance=far)
        assert list(panels) == ["image", "plain CLIP", "surgery S", "distance to known", "ID-relevant"]
        expected = matplotlib.colormaps["RdBu_r"](Normalize(0, 0.5)(far), bytes=True)[..., :3]
        assert (panels["distance to known"] == expected).all()
        picture = np.asarray(Image.open(tmp_path / f"{k}.png.png"))
        shown = panel_row([panels[t] for t in ("image", "distance to known", "ID-relevant")])
        assert (picture[:224] == shown).all()
        assert (picture[224:] == caption_strip(text, picture.shape[1], "distance to known")).all()


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


@pytest.mark.parametrize("side", [8, 32, 224, 336])
def test_a_file_has_the_panels_and_the_caption_below(tmp_path: Path, side: int) -> None:
    """Also for tiny images; only images with a text are written."""
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    clip, surgery = torch.rand(3, 16), torch.rand(3, 16)
    maps = ClassMaps(surgery=surgery, clip=clip, mask=surgery > clip)
    texts = {k: DecisionText("only class", 1.0, "mcm", 0.25 * k, 0.4) for k in (0, 2)}
    write_heatmaps(tmp_path, ["a.png", "broken.png", "b/c.png"], images, maps, (4, 4), texts)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == ["a.png.png", "b/c.png.png"]
    for name, k in (("a.png.png", 0), ("b/c.png.png", 2)):
        picture, shown = np.asarray(Image.open(tmp_path / name)), max(side, 224)
        panels = map_panels(images[k].permute(1, 2, 0).numpy(), *(m[k].reshape(4, 4).numpy() for m in (clip, surgery)),
                            maps.mask[k].reshape(4, 4).numpy())  # fmt: skip
        assert picture.shape[1] == 3 * shown + 2 * GAP
        assert (picture[:shown] == panel_row([panels[t] for t in ("image", "difference Δ", "ID-relevant")])).all()
        assert (picture[shown:] == caption_strip(texts[k], picture.shape[1])).all()
