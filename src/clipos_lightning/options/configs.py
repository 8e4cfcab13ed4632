"""Finds shipped configs by their bare name, in a wheel and in an editable install. No torch."""

import difflib
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError


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


def find_config(name: str) -> Path:
    """A config file by its path, or by the bare name of a shipped one (``demo.yaml`` or ``demo``).

    Raises:
        InputError: neither.
    """
    if Path(name).is_file():
        return Path(name)
    for candidate in (name, f"{name}.yaml"):
        if "/" not in name and (config_folder() / candidate).is_file():
            return config_folder() / candidate
    hint = close(name, shipped_configs())
    raise InputError(f"no config {name!r}: neither a file nor a shipped config; `clipos configs` lists those{hint}")


def close(name: str, known: Iterable[str]) -> str:
    """A suggestion, or nothing."""
    found = difflib.get_close_matches(name, [*known], 1) or difflib.get_close_matches(f"{name}.yaml", [*known], 1)
    return f". Did you mean {found[0]!r}?" if found else ""
