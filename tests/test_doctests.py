"""The examples in the docstrings run and give the shown output."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import clipos_lightning

MODULES = [m.name for m in pkgutil.walk_packages(clipos_lightning.__path__, "clipos_lightning.")]


def source_of(name: str) -> str:
    path = Path(clipos_lightning.__file__).parents[1] / name.replace(".", "/")
    return (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in MODULES if ">>>" in source_of(name)])
def test_examples(name):
    failed, attempted = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert attempted > 0
    assert failed == 0


def test_the_metrics_have_examples():
    assert ">>>" in source_of("clipos_lightning.evaluation.metrics")
