"""Scores of a test in both evaluators' formats and back; their figures are those of the test's report."""

from pathlib import Path

import numpy as np
import pytest
import torch
from adapted import openood_metrics
from running import PHOTO_OPTIONS, Run, done, inside, make_photos

from clipos_lightning import InputError
from clipos_lightning.adapters import (
    ScoredSet,
    from_pytorch_ood,
    read_openood,
    read_test_scores,
    to_pytorch_ood,
    write_openood,
    write_test_scores,
)

Sets = dict[str, ScoredSet]


def same(one: Sets, other: Sets) -> None:
    """Check that two readings hold the same sets, bit for bit."""
    assert list(one) == list(other)
    for name, scored in one.items():
        for column in ("predicted", "score", "labels"):
            np.testing.assert_array_equal(getattr(scored, column), getattr(other[name], column), strict=True)


@pytest.fixture
def sets() -> Sets:
    rng = np.random.default_rng(0)
    made = {}
    for name, count in (("id", 6), ("noise", 4), ("text", 3)):
        labels = rng.integers(0, 3, count) if name == "id" else np.full(count, -1)
        made[name] = ScoredSet(rng.integers(0, 3, count), rng.normal(size=count).astype(np.float32), labels)
    return made


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = make_photos(tmp_path_factory.mktemp("tested"))
    with inside(root):
        options = ("--config", "demo.yaml", *PHOTO_OPTIONS, "--data.root", root, "--trainer.default_root_dir", root)
        return done("test", *options)


def test_a_test_s_scores_give_the_figures_of_its_report(tested: Run, tmp_path: Path) -> None:
    pytest.importorskip("pytorch_ood")
    from pytorch_ood.metrics import OODMetrics

    report = tested.report
    sets = read_test_scores(tested.folder / "scores.npz", report["headline"])
    assert list(sets) == ["id", "other"] and set(sets["other"].labels) == {-1}
    ours = report["ood"]["other"][report["headline"]]
    theirs = OODMetrics().update(*to_pytorch_ood(sets, "other")).compute()
    assert 100 * theirs["AUROC"] == pytest.approx(ours["auroc"], abs=1e-3)
    assert 100 * theirs["FPR95TPR"] == pytest.approx(ours["fpr95_ood_pos"], abs=1e-3)
    assert 100 * theirs["ACC"] == pytest.approx(report["id"]["accuracy"], abs=1e-3)
    write_openood(tmp_path, sets)
    files = [np.load(tmp_path / f"{name}.npz") for name in ("id", "other")]
    found = openood_metrics(*(np.concatenate([file[column] for file in files]) for column in ("conf", "label")))
    assert found["AUROC"] == pytest.approx(ours["auroc"], abs=1e-3)
    with pytest.raises(InputError, match=r"no score 'energi' of the tested detector: it has .*energy"):
        read_test_scores(tested.folder / "scores.npz", "energi")


def test_there_and_back_through_every_format(sets: Sets, tmp_path: Path) -> None:
    write_test_scores(tmp_path / "scores.npz", "energy", sets)
    same(read_test_scores(tmp_path / "scores.npz", "energy"), sets)
    write_openood(tmp_path / "openood", sets)
    same(read_openood(tmp_path / "openood"), sets)
    for name in ("noise", "text"):
        same(from_pytorch_ood(name, *to_pytorch_ood(sets, name)), {"id": sets["id"], name: sets[name]})


def test_openood_s_files_are_as_its_evaluator_writes_them(sets: Sets, tmp_path: Path) -> None:
    for name, scored in sets.items():
        label = np.arange(len(scored.score)) if name == "text" else scored.labels  # some OOD lists have classes
        file = "cifar10" if name == "id" else name
        np.savez(tmp_path / file, pred=scored.predicted, conf=scored.score, label=label)
    same(read_openood(tmp_path, "cifar10"), sets)
    write_openood(tmp_path / "ours", sets)
    with np.load(tmp_path / "ours/noise.npz") as arrays:
        assert sorted(arrays) == ["conf", "label", "pred"] and arrays["label"].tolist() == [-1] * 4
    with pytest.raises(InputError, match=r"has no id\.npz: give the name of the ID set's file as id_name"):
        read_openood(tmp_path)


def test_outlier_scores_have_the_other_sign(sets: Sets) -> None:
    score, labels, predicted = to_pytorch_ood(sets, "noise")
    assert torch.equal(score, -torch.from_numpy(np.concatenate([sets["id"].score, sets["noise"].score])))
    assert (labels < 0).tolist() == [False] * 6 + [True] * 4 and predicted.dtype == torch.int64
    back = from_pytorch_ood("noise", score, torch.where(labels < 0, -7, labels), predicted)  # any negative is OOD
    same(back, {"id": sets["id"], "noise": sets["noise"]})
    with pytest.raises(InputError, match="no set 'id' and 'nois' in the scores: they have id, noise, text"):
        to_pytorch_ood(sets, "nois")


def test_the_other_detectors_of_a_test_have_prefixes(sets: Sets, tmp_path: Path) -> None:
    """An OOD set may be called ``text``, as the prefix of text alone."""
    arrays = {"id/labels": sets["id"].labels}
    for prefix, shift in (("", 0), ("zero_shot/", 1), ("text/", 2)):
        for name, scored in sets.items():
            arrays |= {f"{prefix}{name}/predicted": scored.predicted, f"{prefix}{name}/mcm": scored.score + shift}
    np.savez(tmp_path / "scores.npz", **arrays)
    for detector, shift in (("", 0), ("zero_shot", 1), ("text", 2)):
        found = read_test_scores(tmp_path / "scores.npz", "mcm", detector)
        wanted = {n: ScoredSet(s.predicted, s.score + np.float32(shift), s.labels) for n, s in sets.items()}
        same(found, wanted)
    with pytest.raises(InputError, match=r"no score 'mcm' of images: it is not the scores\.npz of such a test"):
        read_test_scores(tmp_path / "scores.npz", "mcm", "images")


def test_files_are_neither_overwritten_nor_trusted(sets: Sets, tmp_path: Path) -> None:
    write_openood(tmp_path, {"noise": sets["noise"]})
    before = (tmp_path / "noise.npz").read_bytes()
    with pytest.raises(InputError, match=r"noise\.npz exists"):
        write_openood(tmp_path, sets)
    assert [path.name for path in tmp_path.iterdir()] == ["noise.npz"]
    assert (tmp_path / "noise.npz").read_bytes() == before
    np.savez(tmp_path / "id.npz", pred=np.array([print], dtype=object), conf=[1.0], label=[0])
    (tmp_path / "broken.npz").write_bytes(b"not an archive")
    for call, piece in (
        (lambda: read_openood(tmp_path), r"id\.npz is broken: .*; give a file of scores"),
        (lambda: read_test_scores(tmp_path / "broken.npz", "mcm"), r"broken\.npz is broken: .*; give a file of scores"),
        (lambda: read_test_scores(tmp_path / "none.npz", "mcm"), r"none\.npz is broken: .*; give a file of scores"),
        (lambda: ScoredSet(np.zeros(2, int), np.zeros(3), np.zeros(3, int)), r"\(2,\), \(3,\) and \(3,\)"),
    ):
        with pytest.raises(InputError, match=piece):
            call()
