"""Parser, help texts and error messages of the command line. No torch."""

import argparse
import re
from typing import NoReturn

from ..errors import InputError

DETECTOR_HELP = "the detector: detector.safetensors, or the last.ckpt of a `clipos fit` run"
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
TYPE_PATTERN = r"<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[([^]]*)\]|\b(list|dict)\["


def reword(message: str) -> str:
    r"""Turn jsonargparse's message for a value of the wrong type into plain English; return other messages unchanged.

    Example:
        >>> reword("Parser key \"trainer.max_steps\": Expected a <class 'int'>. Got value: many")
        "--trainer.max_steps is 'many': it must be an integer"
    """
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


def describe_class_problem(message: str) -> str | None:
    r"""jsonargparse's message for a class that cannot be instantiated, in one line; None for other messages.

    Example:
        >>> describe_class_problem("Problem with given class_path 'a.B':\n no tensorboard\n - Expected a bool")
        'a.B: no tensorboard'
    """
    pattern = r"Problem with given class_path '([^']+)': (.+?)(?= - Expected| - Not a valid| Given value|$)"
    found = re.search(pattern, " ".join(message.split()))
    return f"{found[1]}: {found[2]}" if found else None


def name_choices(values: str) -> str:
    """The values of a Literal as text.

    Example:
        >>> name_choices("'pil', 'torch', 'device'")
        'one of pil, torch, device'
    """
    plain = values.replace("'", "")
    return f"one of {plain}" if "," in plain else plain
