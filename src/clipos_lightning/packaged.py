"""Finds shipped configs by their bare name, in a wheel and in an editable install. No torch."""

from pathlib import Path

from .errors import InputError


def config_folder() -> Path:
    """Where the shipped configs are: inside the installed package, or ``configs/`` of the source tree."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def shipped_configs() -> dict[str, str]:
    """File name to its first comment line."""
    found = {}
    for path in sorted(config_folder().glob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        found[path.name] = first.removeprefix("#").strip()
    return found


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
    raise InputError(f"no config {name!r}: neither a file nor a shipped config; `clipos configs` lists those")
