"""Types of the data in files: what fits, and the part that the message names."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from clipos_lightning import InputError
from clipos_lightning.options.schema import (
    MAX_LEVELS,
    Count,
    Fields,
    Fraction,
    Names,
    Where,
    check_file,
    fields_of,
    find_impurity,
    find_problem,
)

pytestmark = pytest.mark.badinput


@dataclass
class Options:
    kind: Literal["a", "b"]
    weight: float = 1.0


OPTIONS = fields_of(Options, added=("weight",))
EVEN = Annotated[int, Where("an even number", lambda value: value % 2 == 0)]


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (3, float),
        (3, int | None),
        (None, int | None),
        (None, None),
        ([1, 2], list[int]),
        ((1, 2), list[int]),
        ([1, "a"], tuple[int, str]),
        ([0.5, 0.5, 0.5], tuple[float, ...]),
        ({"a": {"b": 1}}, dict[str, Any]),
        ({"kind": "a"}, OPTIONS),
        ({"kind": "a", "weight": 2}, OPTIONS),
        ({"shots": 1, "more": 2}, Fields({"shots": Count})),
        (2, EVEN),
        ("all", Count | Literal["all"]),
    ],
)
def test_what_fits(value: Any, kind: Any) -> None:
    assert find_problem(value, kind) is None


@pytest.mark.parametrize(
    ("value", "kind", "says"),
    [
        ("3", int, "x is '3', expected a whole number"),
        (True, int, "x is True, expected a whole number"),
        (1.0, int, "x is 1.0, expected a whole number"),
        (2**63, float, "x is 9223372036854775808, expected a finite number"),
        (float("nan"), float, "x is nan, expected a finite number"),
        (float("inf"), float | None, "x is inf, expected a finite number or null"),
        (True, float, "x is True, expected a finite number"),
        (1, bool, "x is 1, expected true or false"),
        (1, None, "x is 1, expected null"),
        ({1, 2}, str, "x is a set, expected text"),
        ("abc", list[str], "x is 'abc', expected a list"),
        ([1, "2"], list[int], "x[1] is '2', expected a whole number"),
        ([1, "2"], list[int] | None, "x[1] is '2', expected a whole number"),
        ([1], tuple[int, int], "x is [1], expected a list of 2 values"),
        ([], dict[str, int], "x is [], expected a mapping"),
        ({1: 2}, dict[str, int], "x is {1: 2}, expected a mapping"),
        ({"a": "b"}, dict[str, int], "x.a is 'b', expected a whole number"),
        (1, Literal["a", "b"], "x is 1, expected a or b"),
        (True, Literal[1], "x is True, expected 1"),
        (3, EVEN, "x is 3, expected an even number"),
        ("3", EVEN, "x is '3', expected an even number"),
        (0, Count | Literal["all"], "x is 0, expected a whole number, at least 1 or all"),
        (1.5, Fraction, "x is 1.5, expected a number in [0, 1]"),
        ([], Names, "x is [], expected a list of names"),
        (["a", ""], Names, "x[1] is '', expected text that is not empty"),
        ({}, OPTIONS, "x.kind is missing"),
        ({"kind": "c"}, OPTIONS, "x.kind is 'c', expected a or b"),
        ([], OPTIONS, "x is [], expected a mapping"),
        ({"kind": "a", "knd": "a"}, OPTIONS, "x.knd is unknown"),
    ],
)
def test_the_first_part_that_does_not_fit(value: Any, kind: Any, says: str) -> None:
    assert str(find_problem(value, kind, "x")) == says


def test_an_unknown_option_is_of_another_version_and_a_wrong_value_is_a_broken_file() -> None:
    with pytest.raises(InputError, match=r"^a\.json was written by another version, .*: mask\.b; .* or cut with this"):
        check_file("a.json", {"kind": "a", "b": 1}, OPTIONS, "cut", "mask")
    with pytest.raises(InputError, match=r"^a\.json is broken: mask\.kind is 1, expected a or b; cut$"):
        check_file("a.json", {"kind": 1}, OPTIONS, "cut", "mask")


def test_deep_nesting_cycles_and_objects_are_not_plain() -> None:
    value: list[Any] = []
    for _ in range(MAX_LEVELS - 1):
        value = [value]
    assert find_impurity(value) is None
    assert "nested more than 50 levels" in str(find_impurity([value], "x"))
    value = []
    value.append(value)
    assert "nested more than 50 levels" in str(find_impurity(value, "x"))
    assert str(find_impurity({"a": [object()]}, "x")) == "x holds a object, expected plain data"
