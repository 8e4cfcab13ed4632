"""Our detectors and scores in other benchmarks: pytorch-ood and OpenOOD v1.5 (docs/adapters.md)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time __getattr__ imports them, so that each needs its own optional package only
    from .model_input import ModelTransform
    from .openood import OpenOODPostprocessor
    from .pytorch_ood import PytorchOODDetector
    from .score_files import ScoredSet, read_test_scores, write_test_scores
    from .score_formats import from_pytorch_ood, read_openood, to_pytorch_ood, write_openood

__all__ = [
    "ModelTransform",
    "OpenOODPostprocessor",
    "PytorchOODDetector",
    "ScoredSet",
    "from_pytorch_ood",
    "read_openood",
    "read_test_scores",
    "to_pytorch_ood",
    "write_openood",
    "write_test_scores",
]

_HOMES = {
    "ModelTransform": "model_input",
    "OpenOODPostprocessor": "openood",
    "PytorchOODDetector": "pytorch_ood",
    "ScoredSet": "score_files",
    "from_pytorch_ood": "score_formats",
    "read_openood": "score_formats",
    "read_test_scores": "score_files",
    "to_pytorch_ood": "score_formats",
    "write_openood": "score_formats",
    "write_test_scores": "score_files",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
