"""Words that are none of the classes (`--model.negatives`) and the score `neg_label`: from fit to predict."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from running import CPU, Run, clipos, done, make_photos, refused

from clipos_lightning import ClipOS, ContextOptions, Detector, ExtraTexts, load_backbone

WORDS = ["letter", "noise", "red wall"]
OPTIONS = ("--config", "own_micro.yaml", "--data.root", ".", "--data.id", "folder:photos", "--data.ood_sets", "[noise]")
OPTIONS += ("--model.image_weight", 0, "--model.scores", "[energy, neg_label]", "--data.limit_per_set", 20)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes, and a file of words."""
    root = tmp_path_factory.mktemp("negatives")
    make_photos(root)
    (root / "words.txt").write_text("# things\n" + "\n".join([*WORDS, "", WORDS[0]]), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def fitted(home: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return done("fit", *OPTIONS, "--model.negatives", "words.txt", "--model.score", "neg_label", "--data.shots", 2)


@pytest.fixture
def there(home: Path, fitted: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """The working directory; the checkpoint."""
    monkeypatch.chdir(home)
    return fitted.checkpoint


def test_the_features_are_those_of_the_template_and_stay_with_the_checkpoint(there: str) -> None:
    detector = Detector.load(there, "cpu")
    expected = load_backbone().encode_text([f"a photo of a {word}." for word in WORDS])
    torch.testing.assert_close(detector.head.extra.negatives, expected)
    options = {"negatives": WORDS, "template": ["a {}.", "one {}"], "score": "neg_label"}
    own = ClipOS(["circle", "star"], "MicroCLIP", context=ContextOptions(length=2), **options)
    assert own.negatives is not None and own.negatives.shape == (3, 128) and own.hparams["negatives"] == WORDS


def test_from_test_to_predict(there: str, tmp_path: Path) -> None:
    test = done("test", "--ckpt_path", there, "--model.negatives", "words.txt")  # the same words as the checkpoint's
    assert list(test.report["average"]) == ["energy", "neg_label"] == list(test.report["zero_shot"]["average"])
    images = [str(path) for path in Path("photos/test").rglob("*.png")]
    calibrated = clipos("calibrate", there, *images, "--out", tmp_path / "d.safetensors", "--num_workers", 0)
    assert calibrated.code == 0, calibrated.err
    run = clipos("predict", tmp_path / "d.safetensors", *images, "--format", "csv", "--num_workers", 0)
    scores = {row["path"]: float(row["score"]) for row in csv.DictReader(run.lines)}
    paths, values = test.scores["id/paths"], test.scores["id/neg_label"]
    found = [next(score for path, score in scores.items() if path.endswith(str(name))) for name in paths]
    np.testing.assert_allclose(found, values, atol=1e-4)


def test_other_words_than_the_checkpoints_are_refused(there: str) -> None:
    Path("others.txt").write_text("sky\n")
    run = clipos("test", "--ckpt_path", there, "--model.negatives", "others.txt", *CPU)
    refused(run, "--model.negatives is ['sky']", "the checkpoint was trained with ['letter', 'noise', 'red wall']")


def test_validation_and_a_grid(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    words = ("--model.negatives", "words.txt", "--model.score", "neg_label", "--data.shots", 2)
    run = done("validate", *OPTIONS, *words)
    assert "val/outliers/auroc" in run.out
    rows = {"words": {"options": {"model.negatives": "words.txt", "model.score": "neg_label"}}, "none": {}}
    grid = {"configs": ["own_micro.yaml"], "seeds": [1], "rows": {k: {"train": False, **v} for k, v in rows.items()}}
    Path("g.yaml").write_text(yaml.safe_dump(grid))
    shared = ("--data.id", "folder:photos", "--data.ood_sets", "[noise]", "--data.limit_per_set", 20)
    shared += ("--data.root", ".", "--model.image_weight", 0, "--model.score", "energy", "--data.num_workers", 0)
    run = clipos("benchmark", "g.yaml", *shared, "--out", "out")
    assert run.code == 0, run.err
    assert "neg_label" in (run.folder / "results.md").read_text(encoding="utf-8")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("content", "pieces"),
    [
        (None, ["cannot read", "No such file"]),
        ("# nothing\n\n", ["has no word: write one per line"]),
        ("sky\nStar\n", ["'Star' is the class 'star': remove it"]),
        ("sky\n\u200b\n", ["'\\u200b' has no word for CLIP: remove it"]),
    ],
)
def test_words_that_cannot_be(content: str | None, pieces: list[str], there: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "w.txt").write_text(content, encoding="utf-8")
    run = clipos("fit", *OPTIONS, "--model.negatives", tmp_path / "w.txt", *CPU, "--trainer.default_root_dir", tmp_path)
    refused(run, "--model.negatives", *pieces)


@pytest.mark.badinput
def test_the_score_without_words(there: str, tmp_path: Path) -> None:
    words = ("--config", "demo.yaml", *CPU, "--trainer.default_root_dir", tmp_path)
    refused(
        clipos("fit", *words, "--model.score", "neg_label"), "'neg_label' needs words", "give --model.negatives FILE"
    )
    detector = Detector.load(there, "cpu")
    detector.head.extra = ExtraTexts()
    detector.save(tmp_path / "d.safetensors")
    refused(clipos("predict", tmp_path / "d.safetensors", "photos"), "neg_label needs negative words", "fit again")
