"""The tables of the mask study, and rows that differ in what it does not study."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipos_lightning.cli.mask_study import MAP_NAMES, PANEL_TITLES, check_rows, mask_table
from clipos_lightning.errors import InputError
from clipos_lightning.experiments.grid import Grid, GridRow
from clipos_lightning.experiments.map_kinds import MAP_KINDS
from clipos_lightning.options.configs import find_grid
from clipos_lightning.options.yaml_files import read_yaml

GRID = Grid("masks", "Masks", "masks", (), {}, (1,), {}, "", (GridRow("a"), GridRow("b")))


def model(**changes: Any) -> SimpleNamespace:
    options = {"backbone": "MicroCLIP", "pretrained": None, "image_size": None, "template": "a {}."}
    options |= {"zero_shot_unknown": None, "mask": SimpleNamespace(top_k=0.2), "surgery": 1}
    return SimpleNamespace(**options | changes)


def test_rows_may_differ_in_the_surgery_path_alone() -> None:
    check_rows(GRID, [model(), model(surgery=2)])
    for name, value in (
        ("template", "the {}."),
        ("mask", SimpleNamespace(top_k=0.3)),
        ("zero_shot_unknown", "a thing."),
    ):
        option = "mask.top_k" if name == "mask" else name
        with pytest.raises(InputError, match=f"remove axes, and model.{option} from the rows"):
            check_rows(GRID, [model(), model(**{name: value})])


def test_maps_without_a_surgery_path_have_one_row_and_a_dash_for_what_is_not_defined() -> None:
    metrics = {"iou": 0.5, "boundary_f": 0.25, "pointing": 1.0}
    maps = {name: metrics | ({"patch_accuracy": 0.125} if name in ("clip", "s") else {}) for name in MAP_KINDS}
    _, rows = mask_table({"rows": [{"row": "a", "maps": maps}, {"row": "b", "maps": maps}]})
    settings = [(row[0], row[1]) for row in rows]
    assert settings[-4:] == [("S", "a"), ("Δ", "a"), ("S", "b"), ("Δ", "b")]
    assert len(set(settings)) == len(rows) == len(MAP_KINDS) - 2 + 4
    assert {row[1] for row in rows[:-4]} == {"–"}
    assert [row[2:] for row in rows if row[0] == "S"] == 2 * [["0.500", "0.250", "1.000", "0.125"]]
    assert [row[5] for row in rows if row[0] == "Δ"] == ["–", "–"]
    assert set(MAP_NAMES) == set(MAP_KINDS) >= set(PANEL_TITLES)


def test_the_shipped_grid_shows_one_of_its_rows() -> None:
    grid = read_yaml(Path(find_grid("masks")), "cannot read")
    assert grid["reference"] in grid["rows"]
