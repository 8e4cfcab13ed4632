"""Random crops of the few-shot images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import save_noise

from clipos_lightning.data.crops import draw_crops
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.data.transforms import view, view_rng
from clipos_lightning.errors import InputError

WIDTH, HEIGHT = 200, 160


def shots(root: Path, **options: Any) -> FewShotOOD:
    data = FewShotOOD(str(root), "folder:photos", [], num_workers=0, **options)
    data.setup("fit")
    data.image_size = 24
    return data


@pytest.fixture
def ramps(tmp_path: Path) -> Path:
    """Two classes of one image each, whose colours are the pixels' coordinates."""
    ramp = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(WIDTH), np.arange(HEIGHT)[:, None]
    for name in ("cat", "dog"):
        (tmp_path / "photos/train" / name).mkdir(parents=True)
        Image.fromarray(ramp).save(tmp_path / "photos/train" / name / "0.png")
    return tmp_path


def test_the_same_number_is_the_same_crop(ramps: Path) -> None:
    data = shots(ramps)
    crops = draw_crops(data, 0, list(range(20)))
    assert (crops.shape, crops.dtype) == ((20, 3, 24, 24), torch.uint8)
    assert len({crop.numpy().tobytes() for crop in crops}) == 20
    again = draw_crops(shots(ramps), 0, [7, 0, 7])
    assert torch.equal(again, crops[[7, 0, 7]])
    assert not torch.equal(draw_crops(data, 1, [0])[0], crops[0])  # the same pixels in another class
    assert not torch.equal(draw_crops(shots(ramps, seed=2), 0, [0])[0], crops[0])


def test_a_crop_has_8_to_100_percent_of_the_area_and_half_are_mirrored(ramps: Path) -> None:
    crops = draw_crops(shots(ramps), 0, list(range(300))).double()
    columns, rows = crops[:, 0].mean(1), crops[:, 1].mean(2)  # the source's coordinates, one grey level per pixel
    across, down = ((values[:, 19] - values[:, 4]) / 15 * 24 for values in (columns, rows))
    area, ratio = across.abs() * down / (WIDTH * HEIGHT), across.abs() / down
    assert 0.07 < area.min() < 0.1 and 0.9 < area.max() < 1.02
    for low, high in ((0.08, 0.31), (0.31, 0.54), (0.54, 0.77), (0.77, 1.0)):
        assert 45 < ((low <= area) & (area < high)).sum() < 105  # uniform
    assert 0.7 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.4
    assert 120 < (across < 0).sum() < 180


def test_crops_are_views_with_numbers_below_0(tiny_folder: Path) -> None:
    """They differ from the views of --data.views, whose numbers start at 1."""
    data = shots(tiny_folder, shots=2, views=3)
    for image, position in enumerate(data.shot_positions):
        path = tiny_folder / "photos/train" / data.id_set.train.keys[position]
        for number in (0, 5):
            rng = view_rng(1, path.parent.name, path.name, -1 - number)
            expected = view(Image.open(path), Preprocessing(24), rng, (0.08, 1.0))
            assert torch.equal(draw_crops(data, image, [number])[0], expected)


@pytest.mark.badinput
def test_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save_noise(tmp_path / "photos/train" / name / "0.png", 1)
    data = shots(tmp_path)
    path = tmp_path / "photos/train/dog/0.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"cannot read image .*0\.png"):
        draw_crops(data, 1, [0])
