"""A detector in pytorch-ood: its benchmark, its metrics, and where their definitions differ from ours."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import tiny_detector
from running import PHOTOS, save_noise, save_scene

from clipos_lightning import Detector, InputError, OODMetrics, adapters
from clipos_lightning.evaluation.metrics import ood_metrics

pytest.importorskip("pytorch_ood")

from pytorch_ood.api import Detector as OutlierDetector
from pytorch_ood.benchmark import CIFAR10_OpenOOD
from pytorch_ood.metrics import OODMetrics as TheirMetrics
from torch.utils.data import DataLoader

from clipos_lightning.adapters import PytorchOODDetector

SAME = {"AUROC": "auroc", "FPR95TPR": "fpr95_ood_pos"}  # their figure, a fraction, and ours, in percent
AREAS = {"AUPR-IN": "aupr_in", "AUPR-OUT": "aupr_out"}  # equal but for their trapezoids


def theirs(scores: np.ndarray, is_id: np.ndarray) -> dict[str, float]:
    """pytorch-ood's figures of our scores, in percent."""
    metrics = TheirMetrics().update(-torch.from_numpy(scores), torch.from_numpy(is_id.astype(int) - 1))
    return {name: 100 * value for name, value in metrics.compute().items()}


@pytest.fixture(scope="module")
def detector() -> Detector:
    return tiny_detector()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [0, 7, 1])  # distinct scores; 0: all differ
def test_auroc_and_fpr_are_ours(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    is_id = rng.permutation(np.arange(150) < 90)
    scores = rng.normal(30 + is_id, 1.0).astype(np.float32)
    scores = np.floor(levels * (scores - 27)).astype(np.float32) if levels else scores
    scores = np.zeros_like(scores) if levels == 1 else scores
    ours, found = ood_metrics(scores[is_id], scores[~is_id]), theirs(scores, is_id)
    for name, metric in SAME.items():
        assert found[name] == pytest.approx(ours[metric], abs=1e-9), name


def test_their_aupr_takes_trapezoids() -> None:
    """Equal scores: the precision is n / (n + m) at every recall, which trapezoids join with (0, 1) by a line."""
    is_id = np.arange(8) < 4
    ours, found = ood_metrics(np.zeros(4), np.zeros(4)), theirs(np.zeros(8), is_id)
    assert (ours["aupr_in"], found["AUPR-IN"]) == (50, 75)
    rng = np.random.default_rng(0)
    is_id = np.arange(4000) < 2000
    scores = rng.normal(is_id, 1.0)
    ours, found = ood_metrics(scores[is_id], scores[~is_id]), theirs(scores, is_id)
    for name, metric in AREAS.items():
        assert found[name] != ours[metric] and found[name] == pytest.approx(ours[metric], abs=0.05)


def test_scores_have_their_sign(detector: Detector, images) -> None:
    ood = PytorchOODDetector(detector)
    assert isinstance(ood, OutlierDetector) and not ood.requires_fit and ood.fit(DataLoader([])) is ood
    batch = images(3, 32)
    assert torch.equal(ood(batch), -detector.predict(batch).score)
    assert ood.to("cpu") is ood and ood.device == torch.device("cpu")
    with pytest.raises(InputError, match="cannot be used"):
        ood.to("cuda:99")


@pytest.fixture
def openood_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folders and image lists as CIFAR10_OpenOOD reads them, with two images for each class and set."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    lists = Path(torch.hub.get_dir()) / "openood_benchmark_imglist/benchmark_imglist/cifar10"
    lists.mkdir(parents=True)
    rows = []
    for label, shape in enumerate(sorted(PHOTOS)):
        for i in range(4):
            path = f"cifar10/test_cifar10/{shape}-{i}.png"
            save_scene(tmp_path / path, shape, 100 + i)
            rows.append(f"{path} {label}\n")
    for name in ("train_cifar10", "val_cifar10", "test_cifar10"):  # only the last one is read
        (lists / f"{name}.txt").write_text("".join(rows))
    for seed, name in enumerate(
        ("val_tin", *(f"test_{n}" for n in "cifar100 tin mnist svhn texture places365".split()))
    ):
        for i in range(5):
            save_noise(tmp_path / f"{name}/{i}.png", 10 * seed + i, (28, 28))
        (lists / f"{name}.txt").write_text("".join(f"{name}/{i}.png -1\n" for i in range(5)))
    yield tmp_path


def test_it_runs_in_their_benchmark(detector: Detector, openood_layout: Path) -> None:
    ood = PytorchOODDetector(detector)
    benchmark = CIFAR10_OpenOOD(str(openood_layout), transform=ood.transform, download=False)
    rows = benchmark.evaluate(ood, loader_kwargs={"batch_size": 8})
    assert [row["Dataset"] for row in rows] == benchmark.ood_names and len(rows) == 6
    known = [found.score for found in detector(sorted((openood_layout / "cifar10/test_cifar10").iterdir()))]
    for row, name in zip(rows, ("cifar100", "tin", "mnist", "svhn", "texture", "places365"), strict=True):
        others = [found.score for found in detector(sorted((openood_layout / f"test_{name}").iterdir()))]
        ours = ood_metrics(np.array(known), np.array(others))
        for theirs_name, metric in SAME.items():
            assert 100 * row[theirs_name] == pytest.approx(ours[metric], abs=1e-9), (name, theirs_name)


def test_the_metric_classes_agree(detector: Detector, images) -> None:
    """Both accumulate batches: ours with higher = more ID, theirs with higher = more OOD."""
    ours, found, ood = OODMetrics(), TheirMetrics(), PytorchOODDetector(detector)
    for seed, size in enumerate((3, 5, 4)):
        batch, labels = images(size, 32 + seed), torch.arange(size) % 3 - 1
        ours.update(-ood(batch), labels >= 0)
        found.update(ood(batch), labels)
    assert 100 * found.compute()["AUROC"] == pytest.approx(ours.compute()["auroc"], abs=1e-9)


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "clipos_lightning.adapters.pytorch_ood")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pytorch_ood"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(InputError, match=r"^PytorchOODDetector needs the package pytorch-ood: run pip install "):
        _ = adapters.PytorchOODDetector
    assert adapters.read_openood and adapters.OpenOODPostprocessor  # these do without
    assert set(adapters.__all__) <= set(dir(adapters))
