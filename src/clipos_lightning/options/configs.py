"""Find and read config files, shipped ones by name, with the bases that they build on. No torch."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import InputError
from .yaml_files import read_yaml

EMBEDDED_BACKBONE = "MicroCLIP"  # the backbone inside the package


def config_folder() -> Path:
    """The folder of the shipped configs: inside the installed package, or ``configs/`` of the source tree."""
    inside = Path(__file__).parents[1] / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[3] / "configs"


def shipped_configs() -> dict[str, str]:
    """File name of each shipped config, to its description."""
    return {path.name: describe(path) for path in sorted(config_folder().glob("*.yaml"))}


def shipped_grids() -> dict[str, str]:
    """``grids/`` and file name of each shipped grid of ``clipos benchmark``, to its description."""
    return {f"grids/{path.name}": describe(path) for path in sorted((config_folder() / "grids").glob("*.yaml"))}


def describe(path: Path) -> str:
    """The description of a shipped config or grid: the first line of the file, which is a comment."""
    return path.read_text(encoding="utf-8").split("\n", 1)[0].removeprefix("#").strip()


def find_grid(name: str) -> Path:
    """Find a grid file by its path, or a shipped grid by name (``main.yaml`` or ``main``).

    Raises:
        InputError: there is neither.
    """
    grids = config_folder() / "grids"
    for path in (Path(name), config_folder() / name, grids / name, grids / f"{name}.yaml"):
        if path.is_file():
            return path
    known = [Path(grid).name for grid in shipped_grids()]
    raise InputError(f"benchmark: no grid {name!r}: neither a file nor one of {', '.join(known)}{suggest(name, known)}")


def find_config(name: str, folder: Path = Path()) -> Path:
    """Find a config file by its path, or a shipped config by name (``demo.yaml`` or ``demo``).

    Args:
        name: a path or a shipped config's name.
        folder: the folder that relative paths start from; the working directory by default.

    Raises:
        InputError: there is neither.
    """
    if (folder / name).is_file():
        return folder / name
    for candidate in (name, f"{name}.yaml"):
        if "/" not in name and (config_folder() / candidate).is_file():
            return config_folder() / candidate
    hint = suggest(name, shipped_configs())
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
        InputError: it cannot be read, it or a section of it is not a mapping, or it has a section or an option twice.
    """
    content = read_yaml(path, "cannot read config")
    if content is not None and not isinstance(content, dict):
        raise InputError(f"config {path} is not a mapping of options, such as `data: {{shots: 1}}`")
    for section in ("model", "data", "trainer"):
        value = (content or {}).get(section, {})
        if not isinstance(value, dict | None):
            raise InputError(f"config {path}: {section} is {value!r}: it takes a mapping of options")
    return content or {}


def suggest(name: str, known: Iterable[str]) -> str:
    """A suggestion of the most similar known name, for an error message; "" if none is similar."""
    found = difflib.get_close_matches(name, [*known], 1) or difflib.get_close_matches(f"{name}.yaml", [*known], 1)
    return f". Did you mean {found[0]!r}?" if found else ""
