"""Parser, help texts and error messages of the command line. No torch."""

import argparse
import re
from typing import Any, NoReturn

from ..errors import InputError

DETECTOR_HELP = "the detector: detector.safetensors, the last.ckpt of a `clipos fit` run, or hf:owner/name on the hub"
PRETRAINED_HELP = "the backbone's weights: a tag of open_clip or a local file (default: as in training)"
DEVICE_HELP = "cpu, cuda, or auto: cuda if available (default: auto)"
TRUST_HELP = "allow FILE to import a user-defined score or objective by its dotted path, which runs that code"


class CommandParser(argparse.ArgumentParser):
    """An argument parser that raises :class:`InputError` instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise an InputError that names the command and its help."""
        raise InputError(f"{self.prog.removeprefix('clipos ')}: {message}; see {self.prog} --help")


TYPE_NAMES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "NoneType": "null"}
TYPE_NAMES |= {"list": "a list, such as '[a,b]'", "dict": "a mapping"}
NO_PROBLEM = ("Expected a ", "Not a valid subclass", "Import path ", "a class path", "a dict", "Does not validate")
TYPE_PATTERN = r"<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[([^]]*)\]|\b(list|dict)\["


def reword(message: str) -> str:
    r"""Turn jsonargparse's message for a value of the wrong type into plain English; return other messages unchanged.

    Example:
        >>> reword("Parser key \"trainer.max_steps\": Expected a <class 'int'>. Got value: many")
        "--trainer.max_steps is 'many': it must be an integer"
    """
    key = re.match(r'Parser key "([\w.]+)": ', message)
    problem = first_problem(message)
    if key and problem:
        return f"--{key[1]}{class_in(message)}: {problem}"
    one = re.fullmatch(r'Parser key "([\w.]+)": Expected a (.+?)\. Got value: (.*)', message)
    union = re.fullmatch(
        r'Parser key "([\w.]+)": Does not validate against any of the Union subtypes '
        r"Subtypes: \[(.+)\] Errors: .* Given value: (.*)",
        message,
    )
    found = one or union
    types = re.findall(TYPE_PATTERN, found[2]) if found else []
    if found is None or not types:
        return message
    allowed = [TYPE_NAMES.get(name or generic, name) or name_choices(values) for name, values, generic in types]
    return f"--{found[1]} is {found[3]!r}: it must be {' or '.join(allowed)}"


def first_problem(message: str) -> str | None:
    """What is wrong with a class or one of its options, in jsonargparse's message of one line; None for other messages.

    The message lists one problem for each type that an option can have; those that only name a type are left out.

    Example:
        >>> first_problem("Errors: - the following arguments are required: monitor - Expected a bool Given value: x")
        'the following arguments are required: monitor'
    """
    listed = re.split(r"Errors: |(?:^|: )(?=- )", message, maxsplit=1)[-1]
    for text in re.split(r"(?:^| )- ", re.split(r" Given value", listed)[0])[1:]:
        unknown = re.fullmatch("Expected a dot import path string: (.*)", text)
        if unknown:
            return f"no class {unknown[1]!r}; give its name, or its path with dots"
        if not text.startswith(NO_PROBLEM):
            return text
    return None


def class_in(message: str) -> str:
    """The class path in a message, after a space; empty if there is none."""
    found = re.search(r"(?:Namespace\(class_path=|given class_path )'([^']+)'", message)
    return f" {found[1]}" if found else ""


def describe_class_problem(message: str, options: Any = None) -> str | None:
    r"""jsonargparse's message for a class that cannot be instantiated, in one line; None for other messages.

    Args:
        message: of the error.
        options: plain data, in which the class is looked up to name the option.

    Example:
        >>> text = "Problem with given class_path 'a.B':\n no tensorboard\n - Expected a bool"
        >>> describe_class_problem(text), describe_class_problem(text, {"logger": [{"class_path": "a.B"}]})
        ('a.B: no tensorboard', '--logger a.B: no tensorboard')
    """
    text = " ".join(message.split())
    path = class_in(text).strip()
    own = re.search(r"Problem with given class_path '[^']+': (.+?)(?= - |  ?Given value|$)", text)
    problem = own[1] if own else first_problem(text) if text.startswith("Does not validate") else None
    option = option_of(path, options)
    return f"{f'--{option} ' if option else ''}{path}: {problem}" if problem else None


def option_of(path: str, options: Any, name: str = "") -> str | None:
    """The option that a class path is the value of; None if there is none.

    Example:
        >>> option_of("a.B", {"trainer": {"callbacks": [{"class_path": "a.A"}, {"class_path": "a.B"}]}})
        'trainer.callbacks'
    """
    if isinstance(options, dict) and options.get("class_path") == path:
        return name
    if isinstance(options, list):
        inside = [(name, value) for value in options]
    else:
        inside = [(f"{name}.{key}".strip("."), value) for key, value in options.items()] if options else []
    found = (option_of(path, value, key) for key, value in inside if isinstance(value, dict | list))
    return next((option for option in found if option), None)


def name_choices(values: str) -> str:
    """The values of a Literal as text.

    Example:
        >>> name_choices("'pil', 'torch', 'device'")
        'one of pil, torch, device'
    """
    plain = values.replace("'", "")
    return f"one of {plain}" if "," in plain else plain
