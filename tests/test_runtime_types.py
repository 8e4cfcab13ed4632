"""While the tests run, calls into modules with arrays are checked; one imported before the hook would not be."""

import dataclasses
import importlib
import inspect
import pkgutil

import pytest
import torch
from conftest import WITH_ARRAYS
from jaxtyping import TypeCheckError

import clipos_lightning
from clipos_lightning.clip.surgery import SurgeryOptions, context_matrix
from clipos_lightning.method.mask import region_feature
from clipos_lightning.training.module import ClipOS


def test_the_functions_of_every_module_with_arrays_are_checked() -> None:
    found = 0
    for name in [m.name for m in pkgutil.walk_packages(clipos_lightning.__path__, "clipos_lightning.")]:
        if name.split(".")[1] not in WITH_ARRAYS:
            continue
        values = vars(importlib.import_module(name)).values()
        functions = [f for f in values if inspect.isfunction(f) and f.__module__ == name]
        assert [f.__name__ for f in functions if not hasattr(f, "__wrapped__")] == [], name
        found += len(functions)
    assert found > 200


def test_a_wrong_shape_a_wrong_type_and_a_wrong_result_are_errors() -> None:
    with pytest.raises(TypeCheckError, match="parameter 'mask'"):
        region_feature(torch.zeros(2, 3, 4), torch.zeros(2, 5, dtype=torch.bool))
    with pytest.raises(TypeCheckError, match="parameter 'options'"):
        context_matrix((2, 2), dataclasses.asdict(SurgeryOptions()))  # type: ignore[arg-type]


def test_options_from_a_checkpoint_may_be_plain_dicts() -> None:
    names, options = ["cat", "dog"], dataclasses.asdict(SurgeryOptions(beta=0.25))
    module = ClipOS(names, "MicroCLIP", context={"length": 8}, surgery=options)  # type: ignore[arg-type]
    assert module.backbone.surgery == SurgeryOptions(beta=0.25)
    with pytest.raises(TypeCheckError, match="parameter 'class_names'"):
        ClipOS("cat", "MicroCLIP")  # type: ignore[arg-type]
