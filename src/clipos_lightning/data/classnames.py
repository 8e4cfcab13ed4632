"""Class names as they stand in the prompts."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from ..errors import InputError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # its own order


def folder_class_names(folders: Sequence[str]) -> list[str]:
    """Folder names with ``_`` as space."""
    return [name.replace("_", " ") for name in folders]


def read_class_names(file: str, keys: Sequence[str], defaults: Sequence[str]) -> list[str]:
    """Wording from a YAML file that maps a class folder (or its default name) to its wording.

    Raises:
        InputError: no such file, not a mapping, a class that the set has not, an empty name.
    """
    try:
        given = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--data.class_names: cannot read {file}: {' '.join(str(error).split())}") from error
    if not isinstance(given, dict) or not all(isinstance(v, str) and v.strip() for v in given.values()):
        raise InputError(f"--data.class_names: {file} must map each class folder to its wording, like `cat: tabby cat`")
    wording = {str(k): v.strip() for k, v in given.items()}
    unknown = sorted(set(wording) - set(keys) - set(defaults))
    if unknown:
        raise InputError(f"--data.class_names: {file} names {unknown[0]!r}, which is not a class of the ID set")
    return [wording.get(key, wording.get(name, name)) for key, name in zip(keys, defaults, strict=True)]
