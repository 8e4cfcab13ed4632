"""Config files: shipped ones by their bare name, in a wheel or an editable install; their bases. No torch."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError

EMBEDDED = "MicroCLIP"  # the backbone inside the package


def config_folder() -> Path:
    """Where the shipped configs are: inside the installed package, or ``configs/`` of the source tree."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "configs"


def shipped_configs() -> dict[str, str]:
    """File name to its first comment line."""
    found = {}
    for path in sorted(config_folder().glob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        found[path.name] = first.removeprefix("#").strip()
    return found


def shipped_grids() -> dict[str, str]:
    """``grids/`` and the name of each shipped grid of ``clipos benchmark`` to its first comment line."""
    paths = sorted((config_folder() / "grids").glob("*.yaml"))
    return {f"grids/{p.name}": p.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("#").strip() for p in paths}


def find_grid(name: str) -> Path:
    """A grid file by its path, or by the bare name of a shipped one (``main.yaml`` or ``main``).

    Raises:
        InputError: neither.
    """
    grids = config_folder() / "grids"
    for path in (Path(name), config_folder() / name, grids / name, grids / f"{name}.yaml"):
        if path.is_file():
            return path
    known = [Path(grid).name for grid in shipped_grids()]
    raise InputError(f"benchmark: no grid {name!r}: neither a file nor one of {', '.join(known)}{close(name, known)}")


def find_config(name: str, folder: Path = Path()) -> Path:
    """A config file by its path, or by the bare name of a shipped one (``demo.yaml`` or ``demo``).

    Args:
        name: a path or a shipped config's name.
        folder: where relative paths start; the working directory by default.

    Raises:
        InputError: neither.
    """
    if (folder / name).is_file():
        return folder / name
    for candidate in (name, f"{name}.yaml"):
        if "/" not in name and (config_folder() / candidate).is_file():
            return config_folder() / candidate
    hint = close(name, shipped_configs())
    raise InputError(f"no config {name!r}: neither a file nor a shipped config; `clipos configs` lists those{hint}")


def with_bases(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A config file and the files that its ``base`` key refers to, each with its own options, bases first.

    ``base: large_clip.yaml`` names one file, relative to the file it is in, or a shipped config. The options of a file
    override those of its base, as with ``--config large_clip.yaml --config FILE``.

    Raises:
        InputError: a file cannot be read, its base is not a config, or leads back to the file.
    """
    chain: list[tuple[Path, dict[str, Any]]] = []
    while True:
        if any(path.samefile(seen) for seen, _ in chain):
            raise InputError(f"{chain[0][0]}: base leads back to {path}")
        options = read_config(path)
        chain.insert(0, (path, options))
        if "base" not in options:
            return chain
        path = find_base(options.pop("base"), path)


def find_base(name: Any, path: Path) -> Path:
    """The file that the ``base`` key of the config at ``path`` refers to.

    Raises:
        InputError: there is none.
    """
    if not isinstance(name, str):
        raise InputError(f"{path}: base is {name!r}: it takes one file or shipped config, such as large_clip.yaml")
    try:
        return find_config(name, path.parent)
    except InputError as error:
        raise InputError(f"{path}: base: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """The options in a config file; empty if it holds nothing but comments.

    Raises:
        InputError: it cannot be read, or is not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"cannot read config {path}: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise InputError(f"config {path} is not a mapping of options")
    return content or {}


def close(name: str, known: Iterable[str]) -> str:
    """A suggestion, or nothing."""
    found = difflib.get_close_matches(name, [*known], 1) or difflib.get_close_matches(f"{name}.yaml", [*known], 1)
    return f". Did you mean {found[0]!r}?" if found else ""
