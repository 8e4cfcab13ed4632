"""Read text and JSON files that users write or copy, with one-line errors."""

import json
from pathlib import Path
from typing import Any

from ..errors import InputError
from .schema import find_impurity

MAX_TEXT_MIB = 512  # of a text file; a shots.json with all images of ImageNet-1k has 40


def read_text_file(path: str | Path, what: str, max_mib: int = MAX_TEXT_MIB) -> str:
    """Read a UTF-8 text file, with or without a byte order mark.

    Args:
        path: of the file.
        what: how an error message starts, before the path, such as ``cannot read config``.
        max_mib: the largest size that is read.

    Raises:
        InputError: it cannot be read, is not UTF-8, or is too large.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(max_mib * 2**20 + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise InputError(f"{what} {path}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > max_mib * 2**20:
        raise InputError(f"{what} {path}: it is larger than {max_mib} MiB; is it the right file?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{what} {path}: it is not UTF-8 text (byte 0x{content[error.start]:02x} in line {line}); save it as UTF-8"
        ) from error


def parse_json(text: str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.

    >>> parse_json('{"shots": 2}')
    {'shots': 2}
    """
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if find_impurity(value):
        raise ValueError("it is nested too deeply")
    return value


def read_json(path: str | Path, what: str) -> Any:
    """Read a JSON file.

    Args:
        path: of the file.
        what: how an error message starts, before the path.

    Raises:
        InputError: it cannot be read, or is not JSON.
    """
    try:
        return parse_json(read_text_file(path, what))
    except ValueError as error:
        raise InputError(f"{what} {path}: it is not JSON: {error}") from error
