"""``--model.compile``: fixed shapes, so that a pass compiles once; the same features; free to change at test time."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import CPU, done

from clipos_lightning.clip.compiled import FixedShapes
from clipos_lightning.detector.detector import Detector


def test_smaller_batches_are_filled_up_and_larger_ones_compiled_anew(monkeypatch):
    sizes, options = [], []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: options.append(dynamic) or function)

    def double(images, sign):
        sizes.append(len(images))
        return sign * 2 * images, None

    run = FixedShapes(double)
    for count in (4, 2, 4, 1, 6, 3):
        images = torch.arange(count * 3.0).view(count, 3)
        found, nothing = run(images, sign=-1)
        assert torch.equal(found, -2 * images)
        assert nothing is None
    assert sizes == [4, 4, 4, 4, 6, 6]
    run(torch.ones(1, 3), sign=1)
    assert sizes[-1] == 1
    assert options == [False, False]  # once for each kind of call, with fixed shapes


def test_a_checkpoint_is_tested_with_or_without(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(torch, "compile", lambda function, dynamic: calls.append(function) or function)
    short = ("--data.limit_per_set", "5", "--data.ood_sets", "[noise]", *CPU, "--trainer.default_root_dir", tmp_path)
    fit = done("fit", "--config", "demo.yaml", "--trainer.max_steps", "1", "--trainer.max_epochs", "1", *short)
    assert not calls
    fast = done("fit", "--config", "demo.yaml", "--model.compile", "true", "--trainer.max_steps", "1", *short)
    assert calls and Detector.load(fast.checkpoint, "cpu").backbone.compiled is None  # a few images are not worth it
    calls.clear()
    plain = done("test", "--ckpt_path", fit.checkpoint, *short)
    compiled = done("test", "--ckpt_path", fit.checkpoint, "--model.compile", "true", *short)
    assert len(calls) == 1  # one kind of call for all sets
    assert plain.report["average"] == compiled.report["average"]


@pytest.mark.slow
def test_a_pass_compiles_once_and_gives_the_same_features():
    """In a separate process: the shape checks of the tests would break the graph."""
    command = [sys.executable, Path(__file__).parents[1] / "compile_once.py"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "1 graph, 0 breaks\n"
