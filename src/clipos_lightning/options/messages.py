"""Options of the commands that are not Lightning's. No torch."""

import argparse
import re
from typing import NoReturn

from ..errors import InputError

TRUST = "import the score or objective that FILE names by its dotted path: code that is not of clipos"


class CommandParser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the front door prints."""
        raise InputError(f"{self.prog.removeprefix('clipos ')}: {message}; see {self.prog} --help")


WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text", "NoneType": "null"}
WORDS |= {"list": "a list, as '[a,b]'", "dict": "a mapping"}
KIND = r"<class '(?:\w+\.)*(\w+)'>|typing\.Literal\[([^]]*)\]|\b(list|dict)\["


def reword(message: str) -> str:
    r"""jsonargparse's message for a value of the wrong type, in plain words; any other as it is.

    Example:
        >>> reword("Parser key \"trainer.max_steps\": Expected a <class 'int'>. Got value: many")
        "--trainer.max_steps is 'many': it takes a whole number"
    """
    one = re.fullmatch(r'Parser key "([\w.]+)": Expected a (.+?)\. Got value: (.*)', message)
    many = re.fullmatch(
        r'Parser key "([\w.]+)": Does not validate against any of the Union subtypes '
        r"Subtypes: \[(.+)\] Errors: .* Given value: (.*)",
        message,
    )
    found = one or many
    kinds = re.findall(KIND, found[2]) if found else []
    if found is None or not kinds:
        return message
    takes = [WORDS.get(name or generic, name) or values.replace("'", "") for name, values, generic in kinds]
    return f"--{found[1]} is {found[3]!r}: it takes {' or '.join(takes)}"
