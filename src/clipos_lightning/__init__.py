"""Few-shot out-of-distribution detection with CLIP: the CLIP-OS method (arXiv:2404.00323) in PyTorch Lightning."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time __getattr__ imports them
    from .clip.loading import load_backbone
    from .clip.surgery import SurgeryOptions
    from .data.datamodule import FewShotOOD
    from .detector.decisions import Decision
    from .detector.detector import Detector
    from .errors import InputError
    from .evaluation.metrics import OODMetrics
    from .evaluation.scores import ScoreOptions
    from .method.base_scores import Score
    from .method.feature_store import Crops
    from .method.logits import ExtraTexts, Logits
    from .method.mask import MaskOptions
    from .method.objectives import Objective
    from .method.prompts import ContextOptions
    from .method.step import Step
    from .method.synthesis import SynthesisOptions
    from .reporting.callback import TestReport
    from .training.module import ClipOS
    from .training.schedule import WarmupCosine

    __version__: str

__all__ = [
    "ClipOS",
    "ContextOptions",
    "Crops",
    "Decision",
    "Detector",
    "ExtraTexts",
    "FewShotOOD",
    "InputError",
    "Logits",
    "MaskOptions",
    "OODMetrics",
    "Objective",
    "Score",
    "ScoreOptions",
    "Step",
    "SurgeryOptions",
    "SynthesisOptions",
    "TestReport",
    "WarmupCosine",
    "__version__",
    "load_backbone",
]

_HOMES = {
    "ClipOS": "training.module",
    "ContextOptions": "method.prompts",
    "Crops": "method.feature_store",
    "Decision": "detector.decisions",
    "Detector": "detector.detector",
    "ExtraTexts": "method.logits",
    "FewShotOOD": "data.datamodule",
    "InputError": "errors",
    "Logits": "method.logits",
    "MaskOptions": "method.mask",
    "OODMetrics": "evaluation.metrics",
    "Objective": "method.objectives",
    "Score": "method.base_scores",
    "ScoreOptions": "evaluation.scores",
    "Step": "method.step",
    "SurgeryOptions": "clip.surgery",
    "SynthesisOptions": "method.synthesis",
    "TestReport": "reporting.callback",
    "WarmupCosine": "training.schedule",
    "load_backbone": "clip.loading",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that ``import clipos_lightning`` stays light."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    if name == "__version__":
        return _installed_version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _installed_version() -> str:
    """The version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version  # takes as long as all other imports

    try:
        return version("clipos-lightning")
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "0+unknown"


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return sorted({*globals(), *__all__})
