"""Alternative texts: what they say is what the pictures show."""

from typing import Any

import numpy as np
import pytest

from clipos_lightning.reporting.alt_texts import describe_map, describe_mask, describe_place, picture_texts
from clipos_lightning.reporting.heatmaps import Example

PLACES = ["top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"]


def example(**changes: Any) -> Example:
    """S is highest at the top left, plain CLIP's map at the bottom right, of a 4 x 4 grid."""
    values = np.linspace(0, 1, 16).reshape(4, 4)
    known = {"surgery": values[::-1, ::-1], "clip": values, "mask": np.eye(4, dtype=bool), "origin": "noise"}
    known |= {"key": "12", "predicted": "cat", "probability": 0.5, "score": 1.0}
    return Example(image=np.zeros((8, 8, 3), np.uint8), **{**known, **changes})


@pytest.mark.parametrize("side", [3, 7, 14, 32])
def test_places_are_thirds(side: int) -> None:
    for k, name in enumerate(PLACES):
        position = [(third + 0.5) * side / 3 - 0.5 for third in divmod(k, 3)]
        assert describe_place(position, (side, side)) == name
    assert describe_place((0, side - 1), (side, side)) == "top right"


def test_each_panel_is_described_by_its_own_map() -> None:
    texts = picture_texts(example(truth=np.kron([[0, 0.2], [0, 1.0]], np.ones((4, 4)))))
    assert list(texts) == list(example(truth=np.zeros((8, 8))).panels)
    assert texts["image"] == "image 12 of noise"
    assert texts["plain CLIP"].endswith("for cat: highest at the bottom right, lowest at the top left")
    assert texts["surgery S"].endswith("for cat: highest at the top left, lowest at the bottom right")
    assert "positive on 50% of the patches, highest at the top left" in texts["difference Δ"]
    assert "for cat: 25% of the image, around the centre" in texts["ID-relevant"]
    assert texts["true object"] == "true object: 25% of the image, around the bottom right"
    assert "true object" not in picture_texts(example())


def test_maps_and_masks_of_one_patch() -> None:
    assert describe_map(np.zeros((1, 1))) == "highest at the centre, lowest at the centre"
    assert describe_mask(np.ones((1, 1), bool)) == "100% of the image, around the centre"
    assert describe_mask(np.zeros((1, 1), bool)) == "nowhere"
