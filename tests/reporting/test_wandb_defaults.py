"""Group and tags of a W&B run: what belongs to a setting, and what does not."""

import copy
from typing import Any

import pytest

from clipos_lightning.reporting.wandb_defaults import NOT_A_SETTING, TAG_LENGTH, default_group, default_tags

OPTIONS: dict[str, Any] = {
    "model": {"objective": "unknown", "backbone": "MicroCLIP", "outlier_weight": 0.25, "seed": 1, "compile": False},
    "data": {"id": "folder:photos/birds", "shots": 2, "seed": 1, "root": "/a", "num_workers": 2, "batch_size": 32},
    "trainer": {"max_epochs": 50, "devices": 1},
}


def changed(part: str, **values: Any) -> dict[str, Any]:
    options = copy.deepcopy(OPTIONS)
    options[part] |= values
    return options


def test_other_seeds_machines_and_test_sets_are_the_same_setting() -> None:
    group = default_group(OPTIONS, True)
    assert group.startswith("birds unknown 2-shot ")
    for part, names in NOT_A_SETTING.items():
        for name in names:
            assert default_group(changed(part, **{name: "other"}), True) == group, name
    assert default_group(changed("trainer", devices=4), True) == group


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", {"outlier_weight": 0.5}),
        ("model", {"objective": "locoop"}),
        ("data", {"batch_size": 64}),
        ("data", {"id": "folder:other/birds"}),
        ("trainer", {"max_epochs": 51}),
    ],
)
def test_another_option_is_another_setting(part: str, values: dict[str, Any]) -> None:
    assert default_group(changed(part, **values), True) != default_group(OPTIONS, True)


def test_tags_of_user_defined_objectives_of_long_names_and_of_the_zero_shot_detector() -> None:
    own = {"class_path": "mine.objectives.Margin", "init_args": {"m": 1}}
    options = changed("model", objective=own, backbone="hf-hub:someone/CLIP-B")
    assert default_tags(options, True) == ["objective:Margin", "CLIP-B", "birds", "2-shot"]
    assert default_group(options, True).startswith("birds Margin 2-shot ")
    assert default_tags(OPTIONS, False) == ["zero-shot", "MicroCLIP", "birds"]
    assert default_group(OPTIONS, False).startswith("birds zero-shot ")
    long = changed("data", id="folder:" + "x" * 200)
    assert max(map(len, default_tags(long, True))) == TAG_LENGTH
