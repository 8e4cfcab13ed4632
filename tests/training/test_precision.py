"""Mixed precision: the encoders alone run in it, losses and scores stay fp32."""

from pathlib import Path

import numpy as np
import pytest
import torch
from running import PHOTO_OPTIONS, clipos, done, refused

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
