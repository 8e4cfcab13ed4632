"""A detector in OpenOOD's published loop: a stand-in for its Evaluator, which is no package that can be installed."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from adapted import BasePostprocessor, evaluate, openood_metrics, tiny_detector
from PIL import Image
from running import PHOTOS, save_noise, save_scene
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import Compose, Normalize, ToTensor

from clipos_lightning import Detector
from clipos_lightning.evaluation.metrics import ood_metrics

OURS = "clipos_lightning.adapters.openood"


class ImageList(Dataset):
    """Files with their labels, as OpenOOD's ImglistDataset gives them: a dictionary for each image."""

    def __init__(self, files: list[Path], label: int | None, preprocessor: Any) -> None:
        self.files, self.label, self.preprocessor = files, label, preprocessor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label = index % len(PHOTOS) if self.label is None else self.label
        image = Image.open(self.files[index]).convert("RGB")
        return {"image_name": self.files[index].name, "data": self.preprocessor(image), "label": label}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny_detector()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Pictures of the classes, in turn, and noise."""
    root = tmp_path_factory.mktemp("pictures")
    found: dict[str, list[Path]] = {"id": [], "noise": [], "small": []}
    for i in range(15):
        found["id"].append(root / f"id/{i:02}.png")
        save_scene(found["id"][-1], sorted(PHOTOS)[i % len(PHOTOS)], 100 + i)
    for name, side in (("noise", 40), ("small", 12)):
        for i in range(7):
            found[name].append(root / f"{name}/{i:02}.png")
            save_noise(found[name][-1], i, (side, side))
    return found


@pytest.fixture
def post(detector: Detector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The post-processor where OpenOOD is installed."""
    package, module = ModuleType("openood"), ModuleType("openood.postprocessors")
    module.BasePostprocessor = BasePostprocessor  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "openood", package)
    monkeypatch.setitem(sys.modules, "openood.postprocessors", module)
    before = sys.modules.pop(OURS, None)
    from clipos_lightning.adapters import OpenOODPostprocessor

    yield OpenOODPostprocessor(detector)
    del sys.modules[OURS]
    if before is not None:
        sys.modules[OURS] = before


def loaders(files: dict[str, list[Path]], preprocessor: Any) -> dict[str, Any]:
    labels = {"id": None, "noise": -1, "small": 4}  # some lists of OOD sets have labels of their own
    sets = {name: ImageList(paths, labels[name], preprocessor) for name, paths in files.items()}
    return {name: DataLoader(images, batch_size=4) for name, images in sets.items()}


def test_the_evaluator_takes_it_and_finds_our_figures(post: Any, detector: Detector, files) -> None:
    found, accuracy = evaluate(post, post.net, loaders(files, post.preprocessor))
    decisions = {name: detector(paths) for name, paths in files.items()}
    score = {name: np.array([decision.score for decision in row]) for name, row in decisions.items()}
    for name in ("noise", "small"):
        ours = ood_metrics(score["id"], score[name])
        assert found[name]["AUROC"] == pytest.approx(ours["auroc"], abs=1e-6)
        assert found[name]["FPR@95"] > ours["fpr95_ood_pos"] - 1e-6
    right = [found.class_name == sorted(PHOTOS)[i % len(PHOTOS)] for i, found in enumerate(decisions["id"])]
    assert accuracy == pytest.approx(100 * np.mean(right))


def test_their_fpr_drops_points_of_the_curve_that_lie_on_a_line() -> None:
    """An ID and an OOD image at each of 20 scores: the curve is a diagonal, whose point at 95 % is dropped."""
    confidence, label = np.repeat(np.arange(20.0), 2), np.tile([0, -1], 20)
    found, ours = openood_metrics(confidence, label), ood_metrics(np.arange(20.0), np.arange(20.0))
    assert (found["FPR@95"], ours["fpr95_ood_pos"]) == (100, pytest.approx(95))
    assert found["AUROC"] == pytest.approx(ours["auroc"]) and found["AUPR_IN"] > ours["aupr_in"]


def test_its_inference_is_the_published_loop(post: Any, files) -> None:
    given = loaders(files, post.preprocessor)
    for name in ("id", "small"):
        ours, published = (f(post.net, given[name], False) for f in (post.inference, super(type(post), post).inference))
        for column, wanted in zip(ours, published, strict=True):
            np.testing.assert_array_equal(column, wanted)
        assert [column.dtype for column in ours] == [np.int64, np.float32, np.int64]


def test_an_imagenet_preprocessor_gets_its_mean_and_std(post: Any, files) -> None:
    """OpenOOD normalises ImageNet-C by the mean and std of the given preprocessor's last transform: by nothing."""
    last = post.preprocessor.transforms[-1]
    theirs = Compose([ToTensor(), Normalize(last.mean, last.std)])
    image = Image.open(files["id"][0]).convert("RGB")
    both = [post.postprocess(None, f(image)[None])[1] for f in (theirs, post.preprocessor)]
    assert isinstance(post.preprocessor, Compose) and torch.equal(*both)


def test_it_needs_no_openood(detector: Detector, images, capfd: pytest.CaptureFixture[str]) -> None:
    from clipos_lightning.adapters import OpenOODPostprocessor

    post, batch = OpenOODPostprocessor(detector), images(3, 32)
    assert not isinstance(post, BasePostprocessor) and not post.APS_mode and not list(post.net.parameters())
    for progress in (False, True):
        _, confidence, labels = post.inference(None, [{"data": batch, "label": [2, 0, 1]}], progress)
        assert bool(capfd.readouterr().err) == progress
    assert confidence.tolist() == detector.predict(batch).score.tolist() and labels.tolist() == [2, 0, 1]
