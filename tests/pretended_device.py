"""A fake device: its tensors hold their values on the CPU, and an operation that mixes both is an error.

Code that runs here also finds all tensors on the right device on a GPU. As a script, this file fits, validates and
tests on the CPU and on the device, and prints the results of both as JSON. PyTorch's backends written in Python
(``PrivateUse1``) are experimental; without them the script exits with code 77.
"""

import json
import logging
import sys
import warnings
from typing import Any

import torch
import torch.utils.backend_registration as registration
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.detector.detector import Detector
from clipos_lightning.method.prompts import ContextOptions
from clipos_lightning.method.synthesis import SynthesisOptions
from clipos_lightning.training.module import ClipOS

NAME = "elsewhere"
CASES: dict[str, dict[str, Any]] = {
    "unknown": {"objective": "unknown", "feature_budget_mb": 0},
    "patches": {"objective": "energy", "synthesis": SynthesisOptions(level="patch"), "image_weight": "auto"},
    "entropy": {"objective": "entropy", "image_weight": 0.5},
    "sct": {"objective": "sct", "feature_budget_mb": 0, "resize": "device"},
}


def supported() -> bool:
    """Whether this PyTorch knows backends written in Python."""
    return hasattr(registration, "_setup_privateuseone_for_python_backend")


def device() -> torch.device:
    """The fake device."""
    return torch.device(NAME, 0)


class Away(Tensor):
    """A tensor on the device; its values are ``held`` on the CPU."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> "Away":
        shape = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        return Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device=device(), **shape)

    def __init__(self, held: Tensor) -> None:
        self.held = held

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})


def run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the device of its tensors; only copies move tensors between devices."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    away = [t for t in tensors if isinstance(t, Away)]
    here = [t for t in tensors if not isinstance(t, Away) and t.ndim]  # a CPU scalar goes with everything
    name = operation._schema.name
    indexed = name in ("aten::index", "aten::index_put_") and isinstance(args[0], Away)  # indices may be on the CPU
    if away and here and not indexed and name not in ("aten::_to_copy", "aten::copy_"):
        raise RuntimeError(f"{name} mixes devices: on the CPU {[tuple(t.shape) for t in here]}")
    asked = kwargs.get("device")
    plain = kwargs | ({} if asked is None else {"device": torch.device("cpu")})
    result = operation(*tree_map_only(Away, lambda t: t.held, args), **tree_map_only(Away, lambda t: t.held, plain))
    if name.endswith("_"):  # in place
        return args[0]
    there = bool(away) if asked is None else torch.device(asked).type == NAME
    return tree_map_only(Tensor, Away, result) if there else result


class Everywhere(TorchDispatchMode):
    """Tensors that are made on the device are ``Away``."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})


def install() -> None:
    """Register the device, once per process."""

    class Backend(registration._DummyBackendModule):
        def get_amp_supported_dtype(self) -> list[torch.dtype]:
            return [torch.bfloat16]

    registration._setup_privateuseone_for_python_backend(NAME, backend_module=Backend())
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) too comes by our way


class Accelerator(CPUAccelerator):
    """A Lightning accelerator without any set-up."""

    def setup_device(self, device: torch.device) -> None:
        """Accept any device."""


def figures(options: dict[str, Any], away: bool) -> dict[str, float]:
    """Everything that a fit, a validation, a test and a detector log or return."""
    options = dict(options)
    sets = {"ood_sets": ["texture", "noise"], "shots": 2, "batch_size": 8, "limit_per_set": 20, "num_workers": 0}
    data = FewShotOOD(**sets, resize=options.pop("resize", "pil"))
    context = ContextOptions(words="a photo of a")
    model = ClipOS(data.class_names, backbone="MicroCLIP", context=context, seed=1, **options)
    where: Any = SingleDeviceStrategy(device() if away else "cpu", Accelerator())
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=3, strategy=where, inference_mode=False, enable_model_summary=False, **quiet)
    trainer.fit(model, datamodule=data)
    trainer.validate(model, datamodule=data, verbose=False)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    trainer.test(model, datamodule=data, verbose=False)
    found |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    model.to(where.root_device)
    with torch.no_grad():
        seen, maps = Detector.maps.__wrapped__(Detector.of(model), data.shot_images(torch.arange(4)))
    assert (seen.score.device == maps.mask.device == where.root_device) and len(found) > 20
    return found | {f"score/{i}": float(score) for i, score in enumerate(seen.score.cpu())}


def check_mixtures() -> None:
    """Mixing devices is an error here, too."""
    try:
        torch.ones(3).to(device()) + torch.ones(3)
    except RuntimeError as error:
        if "mixes devices" in str(error):
            return
    raise SystemExit("a mixture was not seen")


def main() -> None:
    """Print both runs of the cases named on the command line, one line each."""
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    if not supported():
        sys.exit(77)
    install()
    for case in sys.argv[1:]:
        options = CASES[case]
        cpu = figures(options, away=False)
        with Everywhere():
            check_mixtures()
            away = figures(options, away=True)
        print(json.dumps([case, cpu, away]), flush=True)


if __name__ == "__main__":
    main()
