"""Mined negative words (`--model.negatives neg_label` or `csp`): in a fit, and back from its checkpoint."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from running import CPU, Run, clipos, done, make_photos, refused

from clipos_lightning import ClipOS, ContextOptions, Detector, InputError
from clipos_lightning.clip import text_cache
from clipos_lightning.data.word_lists import WordList, microclip_words, wordnet_words
from clipos_lightning.experiments.plan import make_plan
from clipos_lightning.method.negative_words import RECIPES
from clipos_lightning.training import class_features, negatives
from clipos_lightning.training.negatives import mine_negatives, restore_negatives

OPTIONS = ("--config", "own_micro.yaml", "--data.root", ".", "--data.id", "folder:photos", "--data.ood_sets", "[noise]")
OPTIONS += ("--model.image_weight", 0, "--data.limit_per_set", 20, "--model.score", "csp", "--model.scores", "[csp]")
WORDS = {"context": ContextOptions(length=2), "backbone": "MicroCLIP"}
SHORT = [
    [word for word in some if len(word) < 9 and word.isalpha()]
    for some in (wordnet_words().nouns, wordnet_words().adjectives)
]
POOL = WordList(tuple(SHORT[0][:560]), tuple(SHORT[1][:220]))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("mined"))


@pytest.fixture(scope="module")
def fitted(home: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        return done("fit", *OPTIONS, "--model.negatives", "csp", "--data.shots", 2)


@pytest.fixture
def there(home: Path, fitted: Run, monkeypatch: pytest.MonkeyPatch) -> str:
    """The working directory; the checkpoint; nothing is mined from here on."""
    monkeypatch.chdir(home)
    monkeypatch.setattr(class_features, "mine_negatives", None)
    return fitted.checkpoint


def recorded(checkpoint: str) -> dict:
    return torch.load(checkpoint, weights_only=True)["hyper_parameters"]["negatives"]


def test_a_fit_names_and_records_its_words(there: str, fitted: Run) -> None:
    record = recorded(there)
    pool = RECIPES["csp"].join(microclip_words())
    assert record["mined"] == "csp" and set(record["adjectives"]) < set(pool.adjectives)
    assert set(record["nouns"]) < set(pool.nouns) and not {"circle", "heart", "star"} & set(record["nouns"])
    assert (len(record["nouns"]), len(record["adjectives"])) == (34, 2)
    (line,) = (line for line in fitted.lines if "negative words" in line)
    assert line.startswith(f'36 negative words, mined from 248 as in CSP: "{record["nouns"][0]}", ')


def test_a_checkpoint_restores_them_without_mining(there: str, tmp_path: Path) -> None:
    test = done("test", "--ckpt_path", there, "--model.negatives", "csp")  # the option may be repeated
    assert list(test.report["average"]) == ["csp"] == list(test.report["zero_shot"]["average"])
    assert test.report["run"]["config"]["model"]["negatives"] == "csp" and "36 negative words" in test.out
    detector = Detector.load(there, "cpu")
    detector.save(tmp_path / "d.safetensors")
    again = Detector.load(tmp_path / "d.safetensors", "cpu")
    assert torch.equal(again.head.extra.negatives, detector.head.extra.negatives) and again.score == "csp"
    scores = [decision.score for decision in again([f"photos/test/{path}" for path in test.scores["id/paths"]])]
    np.testing.assert_allclose(scores, test.scores["id/csp"], atol=1e-4)


def test_a_module_takes_the_words_of_the_checkpoint_that_it_loads(there: str) -> None:
    checkpoint = torch.load(there, weights_only=True)
    expected = Detector.load(there, "cpu").head.extra.negatives
    module = ClipOS(**{**checkpoint["hyper_parameters"], "negatives": "csp"})
    module.on_load_checkpoint(checkpoint)
    assert torch.equal(module.negatives, expected) and module.hparams["negatives"] == recorded(there)


@pytest.mark.badinput
def test_words_of_another_method_are_refused(there: str, tmp_path: Path) -> None:
    run = clipos("test", "--ckpt_path", there, "--model.negatives", "neg_label", *CPU)
    refused(run, "--model.negatives is 'neg_label', but the checkpoint was trained with 'csp'")
    run = clipos("test", "--ckpt_path", there, "--model.score", "neg_label", *CPU)
    refused(run, "'neg_label' compares with words of NegLabel or of a file", "or take the score csp")
    run = clipos("fit", *OPTIONS, "--model.negatives", "neg_label", *CPU, "--trainer.default_root_dir", tmp_path)
    refused(run, "--model.score 'csp' compares with words that CSP mined: give --model.negatives csp")
    for wrong in ({"mined": "csp"}, {"mined": "csp", "nouns": [], "adjectives": []}):
        with pytest.raises(InputError, match="these are no mined words: take a file, neg_label or csp"):
            ClipOS(["cat", "dog"], negatives=wrong, **WORDS)


def test_a_file_of_that_name_has_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("csp").write_text("sky\nsea\n", encoding="utf-8")
    assert ClipOS(["cat", "dog"], negatives="./csp", score="neg_label", **WORDS).hparams["negatives"] == ["sky", "sea"]
    assert ClipOS(["cat", "dog"], negatives="csp", score="csp", **WORDS).negatives.shape == (36, 128)


def test_rows_of_a_grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = {name: {"options": {"model.negatives": name, "model.score": name}} for name in ("csp", "neg_label")}
    grid = {"configs": ["own_micro.yaml"], "seeds": [1], "rows": {k: {"train": False, **v} for k, v in rows.items()}}
    Path("g.yaml").write_text(yaml.safe_dump(grid))
    _, runs, entries = make_plan(Path("g.yaml"), [], ["--data.id=folder:photos"])
    assert [entry.score for entry in entries] == ["csp", "neg_label"] == [r.options["model"]["negatives"] for r in runs]
    Path("csp").write_text("sky\n")  # another file of that name changes nothing
    assert [run.id for run in make_plan(Path("g.yaml"), [], ["--data.id=folder:photos"])[1]] == [run.id for run in runs]
    grid["rows"]["csp"]["options"]["model.score"] = "neg_label"
    Path("g.yaml").write_text(yaml.safe_dump(grid))
    with pytest.raises(InputError, match="row 'csp', headlines: 'neg_label' compares with words of NegLabel"):
        make_plan(Path("g.yaml"), [], ["--data.id=folder:photos"])


@pytest.mark.parametrize("how", RECIPES)
def test_words_of_a_checkpoint_are_those_of_the_pool_with_and_without_a_cache(
    how: str, tiny_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """780 words of WordNet, for a CLIP that is not MicroCLIP."""
    monkeypatch.setenv("CLIPOS_CACHE", str(tmp_path))
    monkeypatch.setattr(text_cache, "MIN_GROUPS", 700)
    monkeypatch.setattr(negatives, "words_for", lambda _: POOL)
    record, mined = mine_negatives(tiny_clip(), [["tench"], ["goldfish", "gold fish"]], how)
    assert len(mined) == 100 == len(record["nouns"]) + len(record["adjectives"])  # 84 + 33 without a remainder
    assert torch.equal(restore_negatives(tiny_clip(), record), mined)
    for file in tmp_path.iterdir():
        file.unlink()
    torch.testing.assert_close(restore_negatives(tiny_clip(), record), mined, atol=1e-3, rtol=0)
    assert list(tmp_path.iterdir()) == []  # a checkpoint's own words are few
