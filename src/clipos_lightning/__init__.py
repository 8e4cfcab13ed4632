"""Few-shot out-of-distribution detection with CLIP: the CLIP-OS method (arXiv:2404.00323) in PyTorch Lightning."""

from importlib.metadata import PackageNotFoundError, version
from typing import Any

try:
    __version__ = version("clipos-lightning")
except PackageNotFoundError:  # run from a source tree that is not installed
    __version__ = "0+unknown"

__all__ = ["ClipOS", "Decision", "Detector", "FewShotOOD", "InputError", "__version__", "load_backbone"]

_HOMES = {
    "ClipOS": "module",
    "Decision": "detector",
    "Detector": "detector",
    "FewShotOOD": "data.datamodule",
    "InputError": "errors",
    "load_backbone": "backbone",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when first used, so that ``import clipos_lightning`` stays light."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
