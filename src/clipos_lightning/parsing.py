"""Options of the commands that are not Lightning's. No torch."""

import argparse
from typing import NoReturn

from .errors import InputError

TRUST = "import the score or objective that FILE names by its dotted path: code that is not of clipos"


class Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what the front door prints."""
        raise InputError(f"{self.prog.removeprefix('clipos ')}: {message}; see {self.prog} --help")
