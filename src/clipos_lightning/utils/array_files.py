"""Read numpy arrays from files."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, message_of


def load_arrays(path: Path, *names: str, cure: str) -> dict[str, NDArray[Any]]:
    """Arrays of an ``npz`` file; without names, all of them. Pickled objects are not read.

    Args:
        path: of the file.
        names: of the arrays.
        cure: what to do if the file is broken, for the message.

    Raises:
        InputError: the file or an array is missing or cannot be read.
    """
    try:
        with np.load(path) as file:
            return {name: file[name] for name in names or file.files}
    except Exception as error:  # the type depends on how the file is broken
        raise InputError(f"{path} is broken: {message_of(error, 120)}; {cure}") from error
