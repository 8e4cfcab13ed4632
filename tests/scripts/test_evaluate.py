"""The script that evaluates MicroCLIP weights."""

import runpy
import shutil
from pathlib import Path

import pytest
import torch

import clipos_lightning
from clipos_lightning.data.scenes import ID_SHAPES

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate_microclip.py"
SHIPPED = Path(clipos_lightning.__file__).parent / "assets" / "MicroCLIP.safetensors"


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.slow
def test_weights_beside_each_other(script, tmp_path, tiny_folder, capsys):
    shutil.copy(SHIPPED, tmp_path / "copy.safetensors")
    images = tiny_folder / "photos" / "test"
    words = ["--weights", "shipped", tmp_path / "copy.safetensors", "--scenes", "40", "--cifar10", images]
    script["main"]([str(word) for word in words])
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][1:] == ["shipped", str(tmp_path / "copy.safetensors")]
    figures = {line[0]: line[1:] for line in lines[2:]}
    assert all(one == other for what, (one, other) in figures.items() if "forward" not in what)
    assert float(figures["20 shapes, zero-shot"][0].removesuffix(" %")) > 90
    assert figures["size of the file"][0] == "16.3 MB"
    assert any(what.startswith("CIFAR-10, zero-shot") for what in figures) and len(figures) == 15
    assert len([what for what in figures if "words of style retrieved" in what]) == 7


def test_iou_and_hits_are_the_plain_loops(script):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(30, 16, generator=generator)
    truth = torch.rand(30, 16, generator=generator) < 0.3
    truth[:, 0] |= ~truth.any(1)
    ious, hits = [], []
    for row, inside in zip(scores.tolist(), truth.tolist(), strict=True):
        chosen = {i for i, value in enumerate(row) if value > 0.5}
        true = {i for i, value in enumerate(inside) if value}
        ious.append(len(chosen & true) / len(chosen | true))
        hits.append(row.index(max(row)) in true)
    assert script["iou"](scores > 0.5, truth) == pytest.approx(sum(ious) / 30)
    assert script["hits"](scores, truth) == pytest.approx(100 * sum(hits) / 30)


def test_scenes_are_of_twenty_shapes_in_equal_numbers(script):
    images, labels, cover = script["draw_scenes"](40, 32, (8, 8))
    assert images.shape == (40, 3, 32, 32) and cover.shape == (40, 64)
    assert labels.bincount().tolist() == [2] * 20 and len(ID_SHAPES) == 10
    assert 0 <= cover.min() and 0.5 < cover.max() <= 1


@pytest.mark.parametrize("wrong", [["--scenes", "3"], ["--cifar10", "nowhere"]])
def test_refuses_wrong_options(script, wrong):
    with pytest.raises(SystemExit) as caught:
        script["main"](wrong)
    assert caught.value.code == 2
