"""Mixed precision: only the encoders use it; losses and scores stay fp32."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from running import PHOTO_OPTIONS, clipos, done, refused

from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.method.prompts import ContextOptions
from clipos_lightning.method.synthesis import SynthesisOptions
from clipos_lightning.training.module import ClipOS
from clipos_lightning.types import ImageFeatures

DEMO = ("--config", "demo.yaml")
BF16 = ("--trainer.precision", "bf16-mixed")


@pytest.fixture
def options(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple:
    monkeypatch.chdir(tmp_path)
    return (*DEMO, "--data.root", tiny_folder, *PHOTO_OPTIONS)


@pytest.mark.parametrize("objective", ["unknown", "entropy"])
def test_training_and_scores_in_bf16_mixed(objective: str, options: tuple) -> None:
    words = (*options, "--model.objective", objective, "--trainer.max_steps", 2)
    contexts = [done("fit", *words, *precision).context for precision in ((), BF16)]
    assert contexts[1].dtype == torch.float32
    torch.testing.assert_close(contexts[1], contexts[0], rtol=0.05, atol=5e-3)


def test_scores_are_fp32_whatever_the_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    few = ("--data.limit_per_set", 200, "--data.ood_sets", "[noise]")
    exact, mixed = (done("test", *DEMO, *few, *precision).scores for precision in ((), BF16))
    for name in ("mcm", "gl_mcm", "energy", "energy_region"):
        assert len(np.unique(mixed[f"id/{name}"])) > 190, name  # bf16 scores would have some forty values
        assert not np.array_equal(mixed[f"id/{name}"], exact[f"id/{name}"]), name  # and the encoder is in bf16


@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
def test_precisions_that_would_reach_the_scores_are_refused(precision: str, options: tuple) -> None:
    refused(clipos("fit", *options, "--trainer.precision", precision), precision, "bf16-mixed")


# ---- masks: from features that the encoder gives in bf16, all else in fp32


def bf16_trainer(**options: Any) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    return Trainer(accelerator="cpu", precision="bf16-mixed", **quiet, **options)


def encoded(module: ClipOS, images: torch.Tensor) -> ImageFeatures:
    """Features from the encoder in bf16, then in double precision."""
    with torch.autocast("cpu", torch.bfloat16):
        return module.backbone.encode_image(images, frozenset({"clip", "vv"})).map(torch.Tensor.double)


def unit_maps(patches: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Each image's map of one class, from 0 to 1."""
    maps = torch.stack([p @ t for p, t in zip(patches, text.double(), strict=True)])
    low, high = maps.min(1, keepdim=True).values, maps.max(1, keepdim=True).values
    return (maps - low) / (high - low)


@pytest.fixture
def scenes() -> FewShotOOD:
    return FewShotOOD(id="scenes", ood_sets=["noise"], shots=4, limit_per_set=40, num_workers=0)


def test_masks_in_training_are_fp32(scenes: FewShotOOD) -> None:
    module = ClipOS(
        scenes.class_names, "MicroCLIP", context=ContextOptions(length=8), synthesis=SynthesisOptions(level="patch")
    )
    bf16_trainer(max_steps=1).fit(module, datamodule=scenes)
    assert module.store.kept is not None and module.store.kept.mask is not None
    features = encoded(module, scenes.shot_images(torch.arange(40)))
    text = module.class_text[scenes.shot_labels]
    assert features.patches is not None and features.patches_vv is not None
    delta = unit_maps(features.patches_vv, text) - unit_maps(features.patches, text)
    clear = delta.abs() > 1e-5
    assert clear.float().mean() > 0.99
    assert torch.equal(module.store.kept.mask[clear], (delta > 0)[clear])


def test_maps_and_masks_in_testing_are_fp32(scenes: FewShotOOD) -> None:
    module = ClipOS(scenes.class_names, "MicroCLIP", context=ContextOptions(length=8), score="energy_region")
    bf16_trainer().test(module, datamodule=scenes, verbose=False)
    found = module.results["id"]
    rows = [scenes.test_images("id")[i] for i in range(40)]
    features = encoded(module, torch.stack([row["image"] for row in rows]))
    assert features.patches is not None and features.patches_vv is not None
    own = module.class_text[torch.stack([row["label"] for row in rows])]
    for name, patches in (("s", features.patches_vv), ("clip", features.patches)):
        maps = np.stack([found[f"map/{name}/{p}"] for p in range(patches.shape[1])], 1)
        np.testing.assert_allclose(maps, unit_maps(patches, own).numpy(), rtol=0, atol=1e-5)
    text = module.class_text.double()
    cosine = features.cls @ text.T
    predicted = module.class_text[cosine.argmax(1)]
    mask = unit_maps(features.patches_vv, predicted) > unit_maps(features.patches, predicted)
    region = torch.stack([p[m].sum(0) / p[m].sum(0).norm() for p, m in zip(features.patches_vv, mask, strict=True)])
    expected = sum(torch.logsumexp(module.scale * c, 1) for c in (cosine, region @ text.T))
    np.testing.assert_allclose(found["energy_region"], expected.numpy(), rtol=0, atol=1e-3)
