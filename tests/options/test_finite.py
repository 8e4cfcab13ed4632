"""Numbers of options: finite, and at most what can be computed."""

import math
from typing import Any

import pytest

from clipos_lightning import ClipOS, ContextOptions, FewShotOOD, SurgeryOptions, SynthesisOptions
from clipos_lightning.errors import InputError
from clipos_lightning.options.finite import LARGEST, check_finite, check_size

pytestmark = pytest.mark.badinput


@pytest.mark.parametrize("option", LARGEST)
def test_the_largest_value_of_an_option_is_allowed(option: str) -> None:
    largest, reason = LARGEST[option]
    check_size(largest, option)
    with pytest.raises(
        InputError, match=f"predict: {option} is {largest + 1}: it must be at most {largest:,}; {reason}"
    ):
        check_size(largest + 1, option, "predict: ")


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, -math.inf], {"a": {"b": (1.0, math.nan)}}])
def test_numbers_that_are_not_finite(value: Any) -> None:
    with pytest.raises(InputError, match=r"^--x(\.a\.b)? is (nan|-?inf): give a finite number"):
        check_finite(value, "--x")
    check_finite({"a": 1e300, "b": [10**400], "c": "nan", "d": None, "e": True}, "--x")


@pytest.mark.parametrize(
    ("option", "value"),
    [("views", 10**9), ("batch_size", 10**24), ("eval_batch_size", 10**6), ("num_workers", 10**5), ("seed", 2**63)],
)
def test_data_options_in_python(option: str, value: int) -> None:
    with pytest.raises(InputError, match=f"--data.{option} is {value}: it must be at most"):
        FewShotOOD(**{option: value})


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("context.length", {"context": ContextOptions(length=10**9)}),
        ("surgery.kernel_size", {"surgery": SurgeryOptions(kernel_size=10**6 + 1)}),
        ("synthesis.count", {"synthesis": SynthesisOptions(count=10**10)}),
        ("image_size", {"image_size": 10**6}),
        ("seed", {"seed": 2**63}),
    ],
)
def test_model_options_in_python(option: str, given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"--model.{option} is .*: it must be at most"):
        ClipOS(["cat", "dog"], backbone="MicroCLIP", **given)


@pytest.mark.parametrize("shots", [10_001, 100_000, 10**30])
def test_more_shots_than_scenes_renders(shots: int) -> None:
    with pytest.raises(InputError, match=f"--data.shots is {shots}: scenes renders at most 10,000"):
        FewShotOOD(shots=shots)
    assert len(FewShotOOD(shots=1_001).id_set.train) == 10_010


def test_a_limit_above_every_set_is_no_limit() -> None:
    data = FewShotOOD(ood_sets=["noise"], limit_per_set=10**30)
    data.image_size = 32
    data.setup("test")
    assert {name: len(positions) for name, (_, positions) in data.test_sets.items()} == {"id": 1000, "noise": 600}
