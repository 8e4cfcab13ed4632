"""``--model.objective`` with arguments: values of configs and of the command line are merged by the objective's name.

The parser does it for classes of known types, such as the optimizer; objectives are named freely. No torch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

OPTION = "--model.objective"
ARGUMENTS = "init_args"


def merge_objective(below: Any, above: Any) -> Any:
    """The objective that results from a later value on top of an earlier one.

    Arguments are kept if the later value names the same objective or none; a plain name sets all to their defaults.

    Args:
        below: the earlier value, a name or a mapping.
        above: the later value, a name or a mapping; without a ``class_path`` it changes arguments only.

    Example:
        >>> merge_objective("gallop", {"init_args": {"count": 2}})
        {'class_path': 'gallop', 'init_args': {'count': 2}}
        >>> merge_objective({"class_path": "gallop", "init_args": {"count": 2}}, {"class_path": "fa", "init_args": {}})
        {'class_path': 'fa', 'init_args': {}}
    """
    if not isinstance(above, Mapping):
        return above
    former = dict(below) if isinstance(below, Mapping) else {} if below is None else {"class_path": below}
    name = former.get("class_path")
    if above.get("class_path", name) != name or not all(
        isinstance(value.get(ARGUMENTS) or {}, Mapping) for value in (former, above)
    ):
        return dict(above)
    arguments = {**(former.get(ARGUMENTS) or {}), **(above.get(ARGUMENTS) or {})}
    return {**former, **above, **({ARGUMENTS: arguments} if arguments else {})}


def objective_as_configs(words: Sequence[str], load: Callable[[str], Any]) -> list[str]:
    r"""A command line with each ``--model.objective…`` as a config in its place.

    Args:
        words: of the command line.
        load: reads a value; raises yaml.YAMLError for one that is not YAML.

    Example:
        >>> objective_as_configs(["fit", "--model.objective.init_args.count", "2"], yaml.safe_load)[2]
        'model:\n  objective:\n    init_args:\n      count: 2\n'
    """
    found, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        is_option = name == OPTION or name.startswith(f"{OPTION}.")
        if not is_option or not (equals or (rest and not rest[0].startswith("--"))):
            found.append(word)
            continue
        content = read_value(value if equals else rest.pop(0), load)
        part = name.removeprefix(OPTION).removeprefix(".").removeprefix(f"{ARGUMENTS}.")
        if part == "class_path":
            content = {"class_path": content}
        elif part and part != ARGUMENTS:
            content = {ARGUMENTS: {part: content}}
        elif part:
            content = {ARGUMENTS: content}
        found += ["--config", yaml.safe_dump({"model": {"objective": content}}, default_flow_style=False)]
    return found


def read_value(text: str, load: Callable[[str], Any]) -> Any:
    """A value of the command line as plain data; if it is not YAML, the text."""
    try:
        return load(text)
    except yaml.YAMLError:
        return text
