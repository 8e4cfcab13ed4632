"""Objectives by their names, by those of the family's files, or by a dotted path."""

from collections.abc import Mapping
from typing import Any

from ..errors import InputError
from ..options.schema import Fields, fields_of, find_problem
from ..utils.imports import describe_failure, load_object
from . import family
from .objectives import SCT, EnergyMargin, Focal, LoCoOp, Objective, UniformKL, Unknown

OBJECTIVES: dict[str, type[Objective]] = {
    "unknown": Unknown,  # CLIP-OS
    "focal": Focal,
    "uniform_kl": UniformKL,
    "energy": EnergyMargin,
    "entropy": LoCoOp,
    "sct": SCT,
    "none": Objective,  # CoOp
}


def find_objective(name: str) -> Any:
    """The class of an objective, by its name here or in ``family``, or by its dotted path; None: no such name.

    Raises:
        InputError: a dotted path cannot be imported.
    """
    if name in family.METHODS:
        return family.load_method(name).OBJECTIVE
    return load_object(name, "--model.objective") if "." in name else OBJECTIVES.get(name)


def make_objective(given: str | Mapping[str, Any], margins: tuple[float, float] | None = None) -> Objective:
    """Create an objective by its name in ``OBJECTIVES``, or a user-defined one by its dotted path.

    Args:
        given: a name, ``package.module.Class``, or ``{"class_path": ..., "init_args": {...}}``.
        margins: m_in and m_out of objective ``energy``; None: set before training.

    Raises:
        InputError: unknown name or class, arguments that the class does not take, or a class that is no Objective.

    Example:
        >>> type(make_objective("unknown")).__name__, make_objective("energy", (-1.0, 2.0)).margins
        ('Unknown', (-1.0, 2.0))
    """
    if given == "energy":
        return EnergyMargin(margins)
    if margins is not None:
        raise InputError("--model.energy_margins belong to --model.objective energy: leave them out, or choose energy")
    path, arguments = name_and_arguments(given)
    kind = find_objective(path) if isinstance(path, str) else None
    if kind is None:
        names = ", ".join([*OBJECTIVES, *family.METHODS])
        raise InputError(f"--model.objective {path!r}: take one of {names}, or package.module.Class")
    if not (isinstance(kind, type) and issubclass(kind, Objective)):
        raise InputError(f"--model.objective {path}: not a subclass of clipos_lightning.Objective")
    if path in family.METHODS:
        check_init_args(path, kind, arguments)
    try:
        return kind(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # a user's class may raise anything, or end the program
        raise InputError(f"--model.objective {path}: {describe_failure(error)}") from error


def name_and_arguments(given: Any) -> tuple[Any, Mapping[str, Any]]:
    """The name, or ``class_path``, of an objective, and its ``init_args``.

    Raises:
        InputError: it is neither a name nor a mapping with these keys.

    Example:
        >>> name_and_arguments({"class_path": "fa", "init_args": {"copies": 2}})
        ('fa', {'copies': 2})
    """
    if isinstance(given, str):
        return given, {}
    if not isinstance(given, Mapping):
        raise InputError(f"--model.objective is {given!r}: take a name, or a mapping of class_path and init_args")
    if set(given) - {"class_path", "init_args"}:
        raise InputError(f"--model.objective takes class_path and init_args, not {', '.join(map(str, given))}")
    path, arguments = given.get("class_path", ""), given.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        raise InputError(f"--model.objective {path}: init_args is {arguments!r}: it takes a mapping of arguments")
    return path, arguments


def check_init_args(name: str, kind: type[Objective], arguments: Mapping[str, Any]) -> None:
    """Check the arguments of one of the package's methods against the types of its constructor.

    Raises:
        InputError: one is of another type, or outside its range.
    """
    problem = find_problem(dict(arguments), Fields({}, optional=fields_of(kind.__init__).required))
    if problem is not None:
        raise InputError(f"--model.objective {name}: {problem}")
