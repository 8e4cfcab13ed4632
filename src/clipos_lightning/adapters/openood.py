"""A detector as a post-processor of OpenOOD v1.5 (https://github.com/Jingkang50/OpenOOD), for its ``Evaluator``."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.transforms import Compose
from tqdm import tqdm

from ..detector.detector import Detector
from ..types import Labels
from .model_input import ModelTransform, as_detector, model_pixels

try:
    from openood.postprocessors import BasePostprocessor  # the Evaluator takes only its subclasses
except ImportError:
    BasePostprocessor = object


class DetectorNet(nn.Module):
    """A detector as a classifier, for the ID accuracy of OpenOOD's ``Evaluator``.

    Args:
        detector: stays on its own device.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, data: Tensor) -> Float[Tensor, "batch classes"]:
        """Probabilities of the C classes for a batch, (B, C)."""
        return self.detector.predict(model_pixels(data, self.detector)).probabilities


class OpenOODPostprocessor(BasePostprocessor):  # type: ignore[misc]
    """A :class:`Detector` as an OpenOOD post-processor; its confidence is our score: higher = more ID.

    It scores the images themselves, so it does not look at ``net``; no hyper-parameter is searched.

    Args:
        detector: the detector, or the path of its file (:meth:`Detector.load`). Its classes must be in the order of the
            benchmark's labels.

    Attributes:
        detector: the detector.
        net: the detector as a classifier, for ``Evaluator(net, …)``.
        preprocessor: for ``Evaluator(…, preprocessor=…)``: PIL image to uint8 tensor of the model's size.

    Example:
        >>> from clipos_lightning import ClipOS, ContextOptions, Detector
        >>> words = ContextOptions(words="a photo of a")
        >>> model = ClipOS(["red", "green"], backbone="MicroCLIP", score="energy", context=words)
        >>> post = OpenOODPostprocessor(Detector.of(model))
        >>> images = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
        >>> images[0] = torch.tensor([0, 128, 0], dtype=torch.uint8)[:, None, None]  # green and white
        >>> prediction, confidence = post.postprocess(post.net, images)
        >>> prediction[0].item(), bool(confidence[0] > confidence[1])
        (1, True)
    """

    APS_mode = False
    hyperparam_search_done = True

    def __init__(self, detector: Detector | str | Path) -> None:
        self.detector = as_detector(detector)
        self.net = DetectorNet(self.detector)
        self.preprocessor = Compose([ModelTransform.of(self.detector)])

    def setup(self, net: Any, id_loader_dict: Mapping[str, Any], ood_loader_dict: Mapping[str, Any]) -> None:
        """Nothing to set up: the detector is trained before (``clipos fit``)."""

    def postprocess(self, net: Any, data: Tensor) -> tuple[Labels, Float[Tensor, " batch"]]:
        """Predicted classes and confidences (higher = more ID) of a batch, (B,) and (B,).

        Args:
            net: not used.
            data: images, (B, 3, H, W), as ``preprocessor`` makes them; or of any size, uint8 or floats of ``ToTensor``.

        Raises:
            InputError: not such a batch, such as one that was normalised.
        """
        prediction = self.detector.predict(model_pixels(data, self.detector))
        return prediction.predicted, prediction.score

    def inference(
        self, net: Any, data_loader: Iterable[Mapping[str, Any]], progress: bool = True
    ) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
        """Predictions, confidences and labels of all images of a loader, in its order, each (N,).

        Args:
            net: not used.
            data_loader: yields batches with ``data`` and ``label``.
            progress: show a progress bar.
        """
        results = []
        for batch in tqdm(data_loader, disable=not progress):
            results.append((*self.postprocess(net, batch["data"]), torch.as_tensor(batch["label"])))
        predicted, confidence, labels = (torch.cat(column).cpu().numpy() for column in zip(*results, strict=True))
        return predicted.astype(np.int64), confidence, labels.astype(np.int64)
