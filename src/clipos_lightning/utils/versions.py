"""Versions of Python and of the libraries that a run's numbers depend on."""

import platform
from importlib.metadata import version

PROVENANCE = "provenance.json"  # of a run's folder: command, versions, weights, device, and its run in W&B
PACKAGES = ("clipos-lightning", "torch", "torchvision", "lightning", "open_clip_torch", "torchmetrics", "numpy")


def installed_versions() -> dict[str, str]:
    """Name to version.

    >>> "torch" in installed_versions(), "python" in installed_versions()
    (True, True)
    """
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
