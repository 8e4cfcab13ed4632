"""Methods of the line, one file each.

``--model.objective NAME`` takes ``OBJECTIVE`` of ``family/NAME.py``. A method with scores of its own names them in
``SCORES``.
"""

import pkgutil
from functools import cache
from importlib import import_module
from types import ModuleType

from ..base_scores import Score

METHODS = [module.name for module in pkgutil.iter_modules(__path__)]


def load_method(name: str) -> ModuleType:
    """The module of a method."""
    return import_module(f"{__name__}.{name}")


@cache
def family_scores() -> dict[str, Score]:
    """The scores of all methods, by name."""
    return {score: found for name in METHODS for score, found in getattr(load_method(name), "SCORES", {}).items()}
