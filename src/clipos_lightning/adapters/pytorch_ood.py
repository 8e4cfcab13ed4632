"""A detector as one of pytorch-ood's, for its benchmarks and metrics (https://github.com/kkirchheim/pytorch-ood)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from ..detector.detector import Detector
from ..errors import InputError
from .model_input import ModelTransform, as_detector, model_pixels

try:
    from pytorch_ood.api import Detector as OutlierDetector
except ImportError as missing:
    raise InputError("PytorchOODDetector needs the package pytorch-ood: run pip install pytorch-ood") from missing


class PytorchOODDetector(OutlierDetector):
    """A :class:`Detector` as a pytorch-ood detector; its outlier score is minus our score: higher = more OOD.

    ``fit`` does nothing: a detector is trained before (``clipos fit``). Threshold and calibration have no effect.

    Args:
        detector: the detector, or the path of its file (:meth:`Detector.load`).

    Attributes:
        detector: the detector.
        transform: for pytorch-ood's data sets and benchmarks: PIL image to uint8 tensor of the model's size.

    Example:
        >>> from pytorch_ood.metrics import OODMetrics
        >>> from clipos_lightning import ClipOS, ContextOptions, Detector
        >>> words = ContextOptions(words="a photo of a")
        >>> model = ClipOS(["red", "green"], backbone="MicroCLIP", score="energy", context=words)
        >>> ood = PytorchOODDetector(Detector.of(model))
        >>> images = torch.full((3, 3, 32, 32), 255, dtype=torch.uint8)
        >>> images[:2] = torch.tensor([0, 128, 0], dtype=torch.uint8)[:, None, None]  # two green images, a white one
        >>> metrics = OODMetrics().update(ood(images), torch.tensor([1, 1, -1]))
        >>> metrics.compute()["AUROC"]
        1.0
    """

    def __init__(self, detector: Detector | str | Path) -> None:
        self.detector = as_detector(detector)
        self.transform = ModelTransform.of(self.detector)

    def predict(self, x: Tensor) -> Float[Tensor, " batch"]:
        """Outlier scores of a batch, (B,): higher = more OOD.

        Args:
            x: images, (B, 3, H, W), as ``transform`` makes them; or of any size, uint8 or floats of ``ToTensor``.

        Raises:
            InputError: not such a batch, such as one that was normalised.
        """
        return -self.detector.predict(model_pixels(x, self.detector)).score

    def to(self, device: str | torch.device) -> "PytorchOODDetector":
        """Move the detector to a device; benchmarks do, to their ``device``.

        Raises:
            InputError: no such device.
        """
        self.detector.to(device)
        return self

    @property
    def device(self) -> torch.device:
        """The detector's device."""
        return self.detector.backbone.device
