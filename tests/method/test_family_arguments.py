"""Arguments of the methods that are of another type, or outside their range."""

import math
from typing import Any

import pytest

from clipos_lightning.errors import InputError
from clipos_lightning.method.objective_names import make_objective


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("fa", {"copies": 0}, "fa: copies is 0, expected a whole number, at least 1"),
        ("id_like", {"crops": 5, "kept": 3}, "keeps 3 and 3 of 5 crops of an image: .*draw at least as many"),
        ("local_prompt", {"positives": 0}, "positives is 0, expected a whole number, at least 1"),
        ("local_prompt", {"positives": 16}, "keeps 16 and 1 of 16 crops"),
        ("local_prompt", {"count": 1}, "count is 1, expected a whole number, at least 2"),
        ("id_like", {"count": 2.5}, "count is 2.5, expected a whole number, at least 2"),
        ("id_like", {"diversity_weight": math.nan}, "diversity_weight is nan, expected a finite number"),
        ("gallop", {"dropout": 1.0}, r"dropout is 1.0, expected a number in \[0, 1\)"),
        ("fobor", {"calibrated": "false"}, "calibrated is 'false', expected true or false"),
        ("fobor", {"likeness": 2}, r"likeness is 2, expected a number in \[0, 1\]"),
        ("mambo", {"background": ""}, "background is '', expected text"),
        ("mambo", {"words": "x"}, "mambo: .*unexpected keyword argument 'words'"),
    ],
)
def test_arguments_that_cannot_be(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_objective({"class_path": name, "init_args": arguments})
