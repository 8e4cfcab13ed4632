"""Import user-defined scores and objectives by their dotted path (no torch)."""

import importlib
import os
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import InputError


def load_object(path: str, option: str) -> Any:
    """Import the object that ``package.module.name`` refers to.

    Args:
        path: the dotted path.
        option: the option it was given with, for error messages.

    Raises:
        InputError: the module or the name does not exist, or importing the module fails.

    >>> load_object("math.sqrt", "--model.score")(9)
    3.0
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = import_users(module_name, path, option)
    except ModuleNotFoundError as error:
        raise InputError(f"{option} {path}: no module {error.name!r}; install it, or run in its folder") from error
    if not hasattr(module, name):
        raise InputError(f"{option} {path}: {module_name} has no {name!r}")
    return getattr(module, name)


def import_users(module: str, path: str, option: str) -> ModuleType:
    """Import a user's module. The working directory is searched too, after all other entries of ``sys.path``.

    Args:
        module: its dotted name.
        path: what is wanted from it, for error messages.
        option: the option it was given with, for error messages.

    Raises:
        InputError: importing the module fails.
        ModuleNotFoundError: there is no such module, or one that it imports is missing.
    """
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # stays there: the module may import others later, when it is used
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything, or end the program
        raise InputError(f"{option} {path}: importing it failed: {describe_failure(error)}") from error


def describe_failure(error: BaseException) -> str:
    """Type and message of an error in a user's code, and the file and line where it was raised.

    Example:
        >>> try:
        ...     1 / 0
        ... except ZeroDivisionError as error:
        ...     print(describe_failure(error).partition(" (")[0])
        ZeroDivisionError: division by zero
    """
    frames: list[traceback.FrameSummary] = traceback.extract_tb(error.__traceback__)
    if isinstance(error, SystemExit):  # W&B puts a function of its own in the place of sys.exit
        frames = [frame for frame in frames if "site-packages" not in Path(frame.filename).parts] or frames
    where = frames[-1]
    place = "" if where.filename.startswith("<") else f" ({where.filename}, line {where.lineno})"
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
