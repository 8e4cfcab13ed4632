"""Read YAML that users write: duplicate keys and unreasonable sizes are refused, class names can be read as text."""

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import InputError
from .text_files import read_text_file

MAX_MIB = 16  # names and 80 templates for each class of ImageNet-1k take 4
MAX_DEPTH = 50  # levels of nesting; configs have at most 8
MAX_REPEATED = 1_000  # values that aliases stand for; jsonargparse takes seconds for more
MAX_REPEATED_TEXT = 100_000  # in files of names: 80 templates for each class of ImageNet-1k are 80,000


def read_yaml(path: str | Path, what: str, as_text: bool = False) -> Any:
    """Read a YAML file.

    Args:
        path: of the file.
        what: how an error message starts, before the path, such as ``cannot read config``.
        as_text: whether values stay text as written (``010``, ``yes``, ``1e3``, ``null``), as keys always do; otherwise
            they have YAML's types, without dates.

    Raises:
        InputError: it cannot be read, is not YAML, has a key twice, or is too large or too deeply nested.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "names.yaml"
    >>> _ = file.write_text("010: yes")
    >>> read_yaml(file, "names"), read_yaml(file, "names", as_text=True)
    ({'010': True}, {'010': 'yes'})
    """
    text = read_text_file(path, what, MAX_MIB)
    check_yaml(text, f"{what} {path}", MAX_REPEATED_TEXT if as_text else MAX_REPEATED)
    return parse_yaml(text, f"{what} {path}", as_text)


def parse_yaml(text: str, where: str, as_text: bool = False) -> Any:
    """Parse YAML that :func:`check_yaml` has accepted.

    Args:
        text: one YAML document.
        where: how an error message starts, with the path.
        as_text: whether values stay text as written, as keys do.

    Raises:
        InputError: it cannot be parsed, or a value does not fit its tag.
    """
    import yaml  # imported here to keep the entry point fast

    try:
        return yaml.load(text, Loader=yaml_loader(as_text))  # a SafeLoader  # nosec B506
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise InputError(describe_yaml_error(error, text, where)) from error


@cache
def yaml_loader(as_text: bool) -> Any:
    """PyYAML's safe loader with keys as they are written, without dates; with ``as_text``, values stay text, too."""
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    removed = {"tag:yaml.org,2002:timestamp"}

    class Loader(base):  # type: ignore[misc]
        yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML's own name)
            first: [(tag, pattern) for tag, pattern in pairs if tag not in removed and not as_text]
            for first, pairs in base.yaml_implicit_resolvers.items()
        }

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            """Keys are text as written: ``1.1`` and ``1.10`` are two names, not one number."""
            if isinstance(node, yaml.MappingNode):
                self.flatten_mapping(node)
                for key, _ in node.value:
                    if isinstance(key, yaml.ScalarNode):
                        key.tag = "tag:yaml.org,2002:str"
            return super().construct_mapping(node, deep)

    if as_text:
        Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile("^(?:<<)$"), ["<"])
    return Loader


@dataclass
class Level:
    """A mapping or a list that is being read: its anchor, number of values, and in a mapping its keys with lines."""

    anchor: str | None
    is_mapping: bool
    size: int = 1
    children: int = 0
    keys: dict[str, int] = field(default_factory=dict)


def check_yaml(text: str, where: str, most: int = MAX_REPEATED) -> None:
    """Check the structure of YAML before anything is built from it, in linear time.

    Args:
        text: YAML.
        where: how an error message starts, with the path.
        most: number of values that aliases may stand for.

    Raises:
        InputError: it is not YAML; a mapping has a key twice; it is nested more than :data:`MAX_DEPTH` levels deep; or
            its aliases stand for more than ``most`` values, or for a value that contains them.

    >>> check_yaml("model: {score: mcm}", "mine.yaml")
    """
    import yaml

    try:
        check_events(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)), where, most)
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(describe_yaml_error(error, text, where)) from error


def check_events(events: Any, where: str, most: int) -> None:
    """:func:`check_yaml` over the parser's events."""
    import yaml

    levels = [Level(None, False)]
    sizes: dict[str, int] = {}  # number of values below each anchor
    repeated = 0
    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 1)  # an undefined anchor is reported by the loader
            repeated += size
            if repeated > most or any(level.anchor == event.anchor for level in levels):
                raise InputError(
                    f"{where}, line {line}: aliases (*{event.anchor}) stand for too many values: write them out"
                )
            add_value(levels[-1], size)
        elif isinstance(event, yaml.ScalarEvent):
            note_key(levels[-1], event.value, line, where)
            add_value(levels[-1], 1)
            sizes[event.anchor or ""] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            if len(levels) > MAX_DEPTH:
                raise InputError(f"{where}, line {line}: nested more than {MAX_DEPTH} levels deep")
            levels.append(Level(event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = levels.pop()
            add_value(levels[-1], closed.size)
            sizes[closed.anchor or ""] = closed.size


def add_value(level: Level, size: int) -> None:
    """Count a key or value of a mapping, or an item of a list."""
    level.size += size
    level.children += 1


def note_key(level: Level, key: str, line: int, where: str) -> None:
    """Keep the key of a mapping; a scalar in another place is no key.

    Raises:
        InputError: the mapping has the key already.
    """
    if not level.is_mapping or level.children % 2:
        return
    if key in level.keys:
        raise InputError(
            f"{where}, line {line}: {key!r} is a second time in one mapping (first in line "
            f"{level.keys[key]}), and only one of them would count: merge them, or remove one"
        )
    level.keys[key] = line


def describe_yaml_error(error: Exception, text: str, where: str) -> str:
    """PyYAML's error in one line, with the number of the line if it is known, and a remedy for tabs."""
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", None)
    number = mark.line + 1 if mark else text.count("\n", 0, position) + 1 if isinstance(position, int) else None
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
    lines = text.splitlines()
    tab = number is not None and number <= len(lines) and "\t" in lines[number - 1]
    cure = "; indent with spaces, not with tabs" if tab else ""
    return f"{where}{f', line {number}' if number else ''}: not valid YAML: {' '.join(str(problem).split())}{cure}"
