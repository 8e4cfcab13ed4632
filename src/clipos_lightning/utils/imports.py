"""One's own scores and objectives by their dotted path. No torch."""

import importlib
import os
import sys
from typing import Any

from ..errors import InputError


def load_object(path: str, option: str) -> Any:
    """What ``package.module.name`` names; modules of the working directory are found too, after all others.

    Raises:
        InputError: no such module or name, or the module fails when it is imported.
    """
    module_name, _, name = path.rpartition(".")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # and left there: the module may import more when it is used
    try:
        return getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise InputError(f"{option} {path}: no module {error.name!r}; install it, or run where it lies") from error
    except AttributeError as error:
        raise InputError(f"{option} {path}: {module_name} has no {name!r}") from error
    except Exception as error:  # whatever a module of the user's does when it is imported
        raise InputError(f"{option} {path}: importing it fails: {type(error).__name__}: {error}") from error
