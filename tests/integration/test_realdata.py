"""On real images: the shipped MicroCLIP config for CIFAR-10 in folders. Needs the folders below $CLIPOS_DATA."""

import json
import os
from pathlib import Path

import pytest
from running import Run, done

CONFIG = ("--config", "cifar10_1shot_micro.yaml")
OOD = ("textures-10class", "svhn-images", "intel-scenes")
DATA = Path(os.environ.get("CLIPOS_DATA", "nowhere"))
pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(not (DATA / "cifar10-images").is_dir(), reason="no cifar10-images below $CLIPOS_DATA"),
]


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("runs")
    return done("fit", *CONFIG, "--trainer.default_root_dir", runs, env={"CLIPOS_DATA": str(DATA)})


@pytest.fixture(scope="module")
def tested(fitted: Run) -> Run:
    words = ("--data.limit_per_set", 300, "--trainer.default_root_dir", fitted.folder.parent)
    return done("test", "--ckpt_path", fitted.checkpoint, *words, pictures=True)


def test_the_draw_is_of_training_images_that_are_not_tested(fitted: Run, tested: Run) -> None:
    images = json.loads((fitted.folder / "shots.json").read_text())["images"]
    assert len(images) == 10
    shots = [DATA / "cifar10-images/train" / name / key for name, keys in images.items() for key in keys]
    assert len(shots) == 10
    assert all(path.is_file() for path in shots)
    tests = [DATA / "cifar10-images/test" / path for path in tested.scores["id/paths"]]
    assert all(path.is_file() for path in tests)
    assert not {path.read_bytes() for path in shots} & {path.read_bytes() for path in tests}


def test_accuracy_and_auroc_are_where_they_belong(tested: Run) -> None:
    report = tested.report
    headline = report["headline"]
    assert report["id"]["n"] == 300
    assert {name: scores[headline]["n"] for name, scores in report["ood"].items()} == dict.fromkeys(OOD, 300)
    assert report["id"]["accuracy"] > 65
    assert report["average"][headline]["auroc"] > 85
    assert report["zero_shot"]["average"][headline]["auroc"] > 85


def test_validate_reads_the_held_out_training_images(fitted: Run) -> None:
    words = ("--data.limit_per_set", 300, "--trainer.default_root_dir", fitted.folder.parent)
    run = done("validate", "--ckpt_path", fitted.checkpoint, *words)
    (line,) = [line for line in run.lines if line.startswith("val/accuracy")]
    assert float(line.split()[-1]) > 65
