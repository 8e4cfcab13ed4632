"""A checkpoint and a detector written by version 0.1.0 load, and give the scores that 0.1.0 gave."""

import json
from pathlib import Path

import pytest
import torch
from running import CPU, clipos, done, refused

from clipos_lightning import Detector
from clipos_lightning.data.scenes import render

FILES = Path(__file__).parents[1] / "files" / "0.1.0"
EXPECTED = json.loads((FILES / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["last.ckpt", "detector.safetensors"])
def test_scores_and_decisions_are_those_of_then(name: str) -> None:
    detector = Detector.load(FILES / name, "cpu")
    images = torch.stack([torch.from_numpy(render("id", "report", 0, i).image).permute(2, 0, 1) for i in range(6)])
    expected = EXPECTED[name]
    assert not detector.head.mask.feature_surgery  # an option of later versions
    found = detector(images)
    assert [decision.label for decision in found] == expected["labels"]
    assert [decision.score for decision in found] == pytest.approx(expected["scores"], abs=1e-4)
    assert [decision.probability for decision in found] == pytest.approx(expected["probabilities"], abs=1e-5)


def test_a_former_checkpoint_is_tested_with_the_options_it_was_trained_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = done("test", "--ckpt_path", FILES / "last.ckpt", "--data.limit_per_set", 50)
    assert run.report["headline"] == "energy_region"
    assert run.report["average"]["energy_region"]["auroc"] == pytest.approx(EXPECTED["average_auroc"], abs=1e-3)


def test_an_option_that_the_former_version_did_not_have_cannot_be_added_to_its_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = clipos("test", "--ckpt_path", FILES / "last.ckpt", "--model.mask.feature_surgery", "true", *CPU)
    refused(run, "--model.mask.feature_surgery is True", "trained with False")
