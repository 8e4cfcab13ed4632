"""Check the data of a file against types: the first part that does not fit is named. No torch."""

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from ..errors import InputError

MAX_LEVELS = 50  # of nesting; files of clipos have at most 8
PLAIN = (str, int, float, bool, NoneType, dict, list, tuple)
NAMES: dict[Any, str] = {
    **{str: "text", int: "a whole number", float: "a finite number", bool: "true or false"},
    **dict.fromkeys((None, NoneType), "null"),
}
LARGEST_INT = 2**63 - 1


@dataclass(frozen=True)
class Where:
    """A condition on a value, as in ``Annotated[int, Where("above 0", lambda value: value > 0)]``.

    Attributes:
        expected: the value in words, for messages.
        holds: the condition; called with values of the annotated type only.
    """

    expected: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Fields:
    """A mapping with these keys.

    Attributes:
        required: key to type.
        optional: key to type, of keys that may be missing.
        closed: whether other keys are options that this version does not know; otherwise they are ignored.
    """

    required: Mapping[str, Any]
    optional: Mapping[str, Any] = field(default_factory=dict)
    closed: bool = False


class Problem(NamedTuple):
    """A part that does not fit: its name, such as ``mask.kind``, what is wrong, and whether it is an unknown option."""

    part: str
    text: str
    unknown: bool = False

    def __str__(self) -> str:
        return f"{self.part or 'it'} {self.text}"


Count = Annotated[int, Where("a whole number, at least 1", lambda value: value >= 1)]
Several = Annotated[int, Where("a whole number, at least 2", lambda value: value >= 2)]
NonNegative = Annotated[int, Where("a whole number, at least 0", lambda value: value >= 0)]
PositiveNumber = Annotated[float, Where("a number above 0", lambda value: value > 0)]
Fraction = Annotated[float, Where("a number in [0, 1]", lambda value: 0 <= value <= 1)]
BelowOne = Annotated[float, Where("a number in [0, 1)", lambda value: 0 <= value < 1)]
Name = Annotated[str, Where("text that is not empty", bool)]
Names = Annotated[list[Name], Where("a list of names", bool)]


def fields_of(source: Any, kinds: Mapping[str, Any] | None = None, added: tuple[str, ...] = ()) -> Fields:
    """The options of a class or a function, from its type hints, as closed :class:`Fields`.

    Args:
        source: a dataclass, or a function with annotated arguments.
        kinds: types in place of the hints; None: the option is not in files.
        added: options of later versions, which files may lack.

    Example:
        >>> def train(shots: int, mode: Literal["fast", "slow"] = "fast") -> None: ...
        >>> print(find_problem({"shots": 2, "mode": "fsat"}, fields_of(train)))
        mode is 'fsat', expected fast or slow
    """
    hints = {name: kind for name, kind in get_type_hints(source, include_extras=True).items() if name != "return"}
    given = {name: kind for name, kind in {**hints, **(kinds or {})}.items() if kind is not None}
    optional = {name: given.pop(name) for name in added}
    return Fields(given, optional, closed=True)


def find_problem(value: Any, kind: Any, name: str = "") -> Problem | None:
    """The first part of a value that does not fit a type; None: it fits.

    Args:
        value: of a file.
        kind: ``str``, ``int``, ``float`` (finite; whole numbers, too), ``bool``, ``None``, ``Any``, another class, a
            union, ``Literal``, ``list[…]``, ``tuple[…]`` (a list, too), ``dict[str, …]``, ``Annotated[…, Where(…)]``
            or :class:`Fields`.
        name: of the value, for messages.

    Example:
        >>> print(find_problem({"seeds": [1, "2"]}, Fields({"seeds": list[int]})))
        seeds[1] is '2', expected a whole number
    """
    if isinstance(kind, Fields):
        return find_in_fields(value, kind, name)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = find_problem(value, arguments[0], name)
        if found is None and all(where.holds(value) for where in arguments[1:]):
            return None
        return found if found is not None and found.part != name else mismatch(value, kind, name)
    if origin in (UnionType, Union):
        found_each = [find_problem(value, one, name) for one in arguments]
        inside = [found for found in found_each if found is not None and found.part != name]
        return None if None in found_each else inside[0] if inside else mismatch(value, kind, name)
    if origin in (list, tuple, dict):
        items = parts_of(value, origin, arguments, name)
        if items is None:
            return mismatch(value, kind, name)
        return next(filter(None, (find_problem(*item) for item in items)), None)
    return None if has_type(value, kind) else mismatch(value, kind, name)


def find_in_fields(value: Any, kind: Fields, name: str) -> Problem | None:
    """:func:`find_problem` for a mapping with known keys."""
    if not isinstance(value, dict):
        return mismatch(value, dict, name)
    prefix = f"{name}." if name else ""
    known = {**kind.required, **kind.optional}
    unknown = [key for key in value if key not in known] if kind.closed else []
    if unknown:
        return Problem(f"{prefix}{unknown[0]}", "is unknown", unknown=True)
    missing = [key for key in kind.required if key not in value]
    if missing:
        return Problem(f"{prefix}{missing[0]}", "is missing")
    found = (find_problem(value[key], one, f"{prefix}{key}") for key, one in known.items() if key in value)
    return next(filter(None, found), None)


def parts_of(value: Any, origin: Any, kinds: tuple[Any, ...], name: str) -> Iterator[tuple[Any, Any, str]] | None:
    """Each part of a list, a tuple or a mapping with its type and its name; None: the value is no such container."""
    if origin is dict:
        plain = isinstance(value, dict) and all(isinstance(key, str) for key in value)
        return ((item, kinds[1], f"{name}.{key}") for key, item in value.items()) if plain else None
    exact = origin is tuple and kinds[-1] is not Ellipsis
    if not isinstance(value, list | tuple) or (exact and len(value) != len(kinds)):
        return None
    each = kinds if exact else kinds[:1] * len(value)
    return ((item, one, f"{name}[{i}]") for i, (item, one) in enumerate(zip(value, each, strict=True)))


def has_type(value: Any, kind: Any) -> bool:
    """Whether a value has a type without parts; true and false are no numbers, and whole numbers are floats, too."""
    if kind is Any:
        return True
    if get_origin(kind) is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(kind))
    if kind is NoneType or kind is None:
        return value is None
    if kind in (int, float) and isinstance(value, int):
        return not isinstance(value, bool) and abs(value) <= LARGEST_INT
    return isinstance(value, kind) and (kind is not float or math.isfinite(value))


def mismatch(value: Any, kind: Any, name: str) -> Problem:
    """The problem that a value is not of a type."""
    text = reprlib.repr(value) if isinstance(value, PLAIN) else f"a {type(value).__name__}"
    return Problem(name, f"is {text}, expected {describe_kind(kind)}")


def describe_kind(kind: Any) -> str:
    """A type in words.

    Example:
        >>> describe_kind(list[int] | None), describe_kind(Literal["a", "b"])
        ('a list or null', 'a or b')
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(arguments[1].expected)
    if origin in (UnionType, Union):
        return " or ".join(map(describe_kind, arguments))
    if origin is Literal:
        return " or ".join(filter(None, (", ".join(map(str, arguments[:-1])), str(arguments[-1]))))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)} values"
    if isinstance(kind, Fields):
        return "a mapping"
    containers = {list: "a list", tuple: "a list", dict: "a mapping"}
    return containers.get(origin or kind) or NAMES.get(kind) or f"a {kind.__name__}"


def find_impurity(value: Any, name: str = "", allowed: tuple[type, ...] = PLAIN) -> Problem | None:
    """What is not plain data in a value: other objects, or nesting below :data:`MAX_LEVELS`; None: it is plain.

    Values that contain themselves are nested too deeply.

    Example:
        >>> print(find_impurity({"lr": [1, {2}]}, "recipe"))
        recipe holds a set, expected plain data
    """
    level = [value]
    for _ in range(MAX_LEVELS):
        wrong = next((item for item in level if not isinstance(item, allowed)), None)
        if wrong is not None:
            return Problem(name, f"holds a {type(wrong).__name__}, expected plain data")
        distinct = {id(item): item for item in level if isinstance(item, dict | list | tuple)}.values()
        level = [inner for item in distinct for inner in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return None
    return Problem(name, f"is nested more than {MAX_LEVELS} levels deep")


def check_file(path: str | Path, value: Any, kind: Any, cure: str, part: str = "") -> None:
    """Check the data of a file that clipos wrote.

    Args:
        path: of the file, for messages.
        value: its data, or a part of it.
        kind: as for :func:`find_problem`.
        cure: what to do if the file is broken, for messages.
        part: name of the part.

    Raises:
        InputError: a part is missing, or not of its type, or is an option that this version does not know.
    """
    problem = find_problem(value, kind, part)
    if problem is None:
        return
    if problem.unknown:
        raise InputError(
            f"{path} was written by another version, with options that this one does not know: {problem.part}; "
            f"update clipos-lightning, or {cure} with this version"
        )
    raise InputError(f"{path} is broken: {problem}; {cure}")
