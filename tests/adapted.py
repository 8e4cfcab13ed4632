"""A small detector, and OpenOOD's published loop and metrics as a stand-in, for the tests of the adapters."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from running import PHOTOS
from sklearn import metrics

from clipos_lightning import ClipOS, ContextOptions, Detector


def tiny_detector(score: str = "energy") -> Detector:
    """An untrained detector of the pictures' classes."""
    words = ContextOptions(words="a photo of a")
    return Detector.of(ClipOS(sorted(PHOTOS), backbone="MicroCLIP", score=score, context=words))


class BasePostprocessor:
    """Stands in for OpenOOD's base class: the Evaluator takes its subclasses only, and calls these methods."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def setup(self, net: Any, id_loader_dict: Any, ood_loader_dict: Any) -> None:
        raise AssertionError("overridden")

    def inference(self, net: Any, data_loader: Iterable[Mapping[str, Any]], progress: bool = True) -> Any:
        """The loop: a prediction and a confidence for each image, a batch at a time."""
        rows: list[tuple[int, float, int]] = []
        for batch in data_loader:
            predicted, confidence = self.postprocess(net, batch["data"])  # type: ignore[attr-defined]
            columns = (predicted.tolist(), confidence.tolist(), batch["label"].tolist())
            rows += list(zip(*columns, strict=True))
        predicted, confidence, labels = zip(*rows, strict=True)
        return np.array(predicted, int), np.array(confidence), np.array(labels, int)


def openood_metrics(confidence: np.ndarray, label: np.ndarray) -> dict[str, float]:
    """OpenOOD's figures in percent, as its page defines them: OOD positive, scikit-learn's curves with trapezoids."""
    ood = (label == -1).astype(int)
    fpr, tpr, _ = metrics.roc_curve(ood, -confidence)
    precision, recall, _ = metrics.precision_recall_curve(1 - ood, confidence)
    return {
        "FPR@95": 100 * float(fpr[np.argmax(tpr >= 0.95)]),
        "AUROC": 100 * float(metrics.auc(fpr, tpr)),
        "AUPR_IN": 100 * float(metrics.auc(recall, precision)),
    }


def evaluate(post: Any, net: Any, loaders: Mapping[str, Any]) -> tuple[dict[str, dict[str, float]], float]:
    """What OpenOOD's Evaluator does with a post-processor: figures of each OOD set, and the accuracy by the net."""
    if not isinstance(post, BasePostprocessor):
        raise TypeError("postprocessor should inherit BasePostprocessor in OpenOOD")
    post.setup(net, {"test": loaders["id"]}, loaders)
    assert not (post.APS_mode and not post.hyperparam_search_done)
    net.eval()
    _, id_confidence, id_labels = post.inference(net, loaders["id"], False)
    found = {}
    for name in [name for name in loaders if name != "id"]:
        _, confidence, labels = post.inference(net, loaders[name], False)
        label = np.concatenate([id_labels, -np.ones_like(labels)])
        found[name] = openood_metrics(np.concatenate([id_confidence, confidence]), label)
    with torch.no_grad():
        right = torch.cat([net(batch["data"]).argmax(1) == batch["label"] for batch in loaders["id"]])
    return found, 100 * float(right.float().mean())
