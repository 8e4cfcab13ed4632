"""`--model.objective` with arguments: what a later value keeps of an earlier one."""

from typing import Any

import pytest
import yaml

from clipos_lightning.options.objective_option import merge_objective, objective_as_configs

GALLOP = {"class_path": "gallop", "init_args": {"count": 4, "dropout": 0.75}}


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        (None, "fa", "fa"),
        (GALLOP, "fa", "fa"),
        (GALLOP, "gallop", "gallop"),  # a plain name: the defaults
        (GALLOP, {"class_path": "fa"}, {"class_path": "fa"}),
        (GALLOP, {"class_path": "fa", "init_args": {"copies": 2}}, {"class_path": "fa", "init_args": {"copies": 2}}),
        (GALLOP, {"init_args": {"count": 2}}, {"class_path": "gallop", "init_args": {"count": 2, "dropout": 0.75}}),
        (GALLOP, {"class_path": "gallop", "init_args": {}}, GALLOP),
        (GALLOP, {"class_path": "gallop", "init_args": None}, GALLOP),
        ("fobor", {"init_args": {"sharpness": 1}}, {"class_path": "fobor", "init_args": {"sharpness": 1}}),
        ("fa", {"class_path": "fa", "init_args": {"copies": 2}}, {"class_path": "fa", "init_args": {"copies": 2}}),
        (GALLOP, {"init_args": 5}, {"init_args": 5}),  # wrong: reported by the objective
        (GALLOP, {"x": 1}, {**GALLOP, "x": 1}),
    ],
)
def test_merging(below: Any, above: Any, expected: Any) -> None:
    before = yaml.safe_dump([below, above])
    assert merge_objective(below, above) == expected
    assert yaml.safe_dump([below, above]) == before  # neither is changed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.objective=fa"], "fa"),
        (["--model.objective", "{class_path: fa}"], {"class_path": "fa"}),
        (["--model.objective.class_path", "fa"], {"class_path": "fa"}),
        (["--model.objective.init_args.copies=2"], {"init_args": {"copies": 2}}),
        (["--model.objective.init_args", "{copies: 2}"], {"init_args": {"copies": 2}}),
        (["--model.objective.copies", "2"], {"init_args": {"copies": 2}}),
        (["--model.objective", "{class_path: ["], "{class_path: ["),
    ],
)
def test_words_become_configs_in_their_place(words: list[str], expected: Any) -> None:
    found = objective_as_configs(["fit", *words, "--model.score", "fa"], yaml.safe_load)
    assert found[:2] == ["fit", "--config"] and found[3:] == ["--model.score", "fa"]
    assert yaml.safe_load(found[2]) == {"model": {"objective": expected}} and "\n" in found[2]


@pytest.mark.parametrize(
    "words", [["--model.objective"], ["--model.objective", "--data.shots", "1"], ["--model.objectives", "1"]]
)
def test_words_that_are_left_to_the_parser(words: list[str]) -> None:
    assert objective_as_configs(words, yaml.safe_load) == words
