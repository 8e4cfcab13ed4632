"""Every benchmark from its archives to a report: miniatures from a local server, MicroCLIP as backbone."""

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from unittest import mock

import numpy as np
import open_clip
import pytest
from file_server import serve
from miniatures import PLACES, make_set, miniature
from running import CPU, clipos, done, options_of, refused, save_noise

from clipos_lightning.cli import data as datasets_command
from clipos_lightning.clip import pretrained
from clipos_lightning.data import download as fetch
from clipos_lightning.data import ood_sets, sources
from clipos_lightning.data.benchmarks import BENCHMARKS, ID_SETS, open_id, open_ood, parse_ood_specs
from clipos_lightning.data.classnames import (
    BLOODMNIST,
    CIFAR10,
    CIFAR100,
    EUROSAT,
    imagenet100_classes,
    imagenet_classes,
)
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.id_sets import id_folder
from clipos_lightning.data.sources import SOURCES
from clipos_lightning.data.splits import digest, draw_shots, limit_positions
from clipos_lightning.errors import InputError
from clipos_lightning.options.configs import find_config, shipped_configs, with_bases

FETCHED = [name for name, source in SOURCES.items() if source.fetchable]
MICRO = (
    "--model.backbone",
    "MicroCLIP",
    "--model.pretrained",
    "null",
    "--model.context.length",
    2,
    "--model.template",
    "{}.",
)


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ood_sets, "places365_names", lambda: PLACES[::2])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data root that ``clipos data download`` filled and ``clipos data verify`` found complete; ImageNet by hand."""
    made, root = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("root")
    clean = {name: "" for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")}
    with serve({}) as server, mock.patch.dict(os.environ, clean), mock.patch.object(fetch, "RETRY_PAUSE", 0.0):
        table = {name: miniature(name, server, made) for name in FETCHED}
        with mock.patch.object(sources, "SOURCES", table):
            server.drops = 3
            for command in ("download", "verify"):
                assert datasets_command.main([command, *FETCHED, "--root", str(root)]) == 0
    make_set("imagenet", root)
    yield root


@pytest.fixture
def roots(tmp_path: Path) -> Callable[..., Path]:
    """Names -> a data root with these sets in miniature."""

    def make(*names: str) -> Path:
        for name in names:
            make_set(name, tmp_path / "root")
        return tmp_path / "root"

    return make


# ---- from archives to reports


@pytest.mark.parametrize("name", [name for name in ID_SETS if not name.startswith("scenes")])
def test_every_benchmark_from_the_archives_to_the_report(name: str, root: Path) -> None:
    words = ["--config", f"{name}_1shot.yaml", *MICRO, "--data.root", root, "--data.limit_per_set", 4]
    if name == "imagenet1k":  # a part, for time
        Path("list.txt").write_text("\n".join(list(imagenet_classes())[::50]))
        words += ["--data.class_list", "list.txt"]
    fit = done("fit", *words, "--trainer.max_steps", 1, "--model.scores", "[msp_unknown,mcm_unknown]")
    shots = json.loads((fit.folder / "shots.json").read_text())["images"]
    assert all(len(keys) == 1 for keys in shots.values())
    assert len(shots) == {"imagenet1k": 20, "medmnist": 8, "cifar10": 10, "eurosat": 10}.get(name, 100)
    report = done("test", "--ckpt_path", fit.checkpoint).report
    marks = BENCHMARKS[name]
    assert list(report["ood"]) == [*marks["near"], *marks["far"]]
    assert ("average_near" in report) == bool(marks["near"])
    assert report["average_far"].keys() >= {report["headline"]}
    assert report["run"]["ood_resolution"] == "native"
    assert all(n["n"] == 4 for scores in report["ood"].values() for n in scores.values())


def test_two_shot_configs_differ_in_shots_alone() -> None:
    names = [name for name in shipped_configs() if "_2shot" in name]
    assert {name.split("_")[0] for name in names} == {"cifar10", "cifar100", "imagenet100"}
    for name in names:
        two, one = (options_of(n) for n in (name, name.replace("_2shot", "_1shot")))
        assert two.pop("data") == one.pop("data") | {"shots": 2}
        assert two == one


@pytest.mark.parametrize("name", [n for n in shipped_configs() if "shot.yaml" in n])
def test_configs_for_large_clips_share_their_base_and_say_that_nothing_is_tuned(name: str) -> None:
    assert with_bases(find_config(name))[0][0] == find_config("large_clip.yaml")
    assert "not tuned here" in shipped_configs()[name]


# ---- what is missing


def test_every_missing_set_is_named_at_once(roots: Callable[..., Path]) -> None:
    root = roots("cifar10", "textures", "isun")
    words = ("--config", "cifar10_1shot.yaml", *MICRO, "--data.root", root, "--data.limit_per_set", 2, *CPU)
    run = clipos("test", *words)
    refused(run, f"OOD sets missing below {root}: cifar100 (no cifar-100-python/train), tiny_imagenet (no ")
    refused(run, f"clipos data download cifar100 tiny_imagenet places365 lsun_crop lsun_resize svhn --root {root}, or ")
    go_on = "--data.ood_sets '[textures,isun]'"
    assert run.err.strip().endswith(go_on)
    assert len(run.err.strip().splitlines()) == 1
    report = done("test", *words, "--data.ood_sets", "[textures,isun]").report
    assert list(report["ood"]) == ["textures", "isun"]
    assert done("fit", *words, "--trainer.max_steps", 1).folder.is_dir()  # which needs none of them
    run = clipos("test", *words, "--data.ood_sets", "[mine=folder:nowhere,a=textures,x=sun]")
    refused(run, f"mine (no folder {root}/nowhere), x (no SUN). clipos data download sun", "'[a=textures]'")


def test_data_without_weights_and_weights_without_data(
    roots: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    words = ("--config", "cifar10_1shot.yaml", *CPU, "--data.root")
    refused(clipos("fit", *words, tmp_path), f"CIFAR-10 is not below {tmp_path}", "clipos data download cifar10")
    monkeypatch.setattr(pretrained.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "CLIP_CACHE", tmp_path / "clip")
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", offline)
    run = clipos("fit", *words, roots("cifar10"))
    refused(run, "weights 'openai' of ViT-B-16-quickgelu are not on this machine", "--model.pretrained")
    assert len(run.err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in ID_SETS if not name.startswith("scenes")])
def test_an_id_set_that_is_not_there(name: str, tmp_path: Path) -> None:
    fetched = {"imagenet1k": "imagenet", "imagenet100": "imagenet"}.get(name, name)
    advice = "see clipos data info imagenet" if fetched == "imagenet" else f"clipos data download {fetched} --root"
    with pytest.raises(InputError, match=f"{SOURCES[fetched].image_paths[0]}.*{advice}.*CLIPOS_DATA"):
        open_id(name, tmp_path, 1, 1)


@pytest.mark.badinput
@pytest.mark.parametrize("name", ["svhn", "medmnist", "cifar100"])
def test_a_broken_file_of_arrays(name: str, roots: Callable[..., Path]) -> None:
    root = roots(name)
    (root / SOURCES[name].image_paths[-1]).write_bytes(b"broken")
    with pytest.raises(InputError, match=f"cannot read {SOURCES[name].title[:4]}.*clipos data download {name} again"):
        open_ood(parse_ood_specs([name])[0], root) if name == "svhn" else open_id(name, root, 1, 1)


def test_an_image_of_the_places_list_that_is_missing(roots: Callable[..., Path]) -> None:
    root = roots("places365")
    (root / "places365/val_256" / PLACES[2]).unlink()
    with pytest.raises(InputError, match=f"lacks 1 of the 4 images of the list, for example {PLACES[2]}"):
        open_ood(parse_ood_specs(["places365"])[0], root)


# ---- classes and their wording


def test_imagenets_classes_are_open_clips_in_timms_order() -> None:
    import timm.data

    ids = (Path(timm.data.__file__).parent / "_info/imagenet_synsets.txt").read_text().split()
    ours = imagenet_classes()
    assert list(ours) == ids == sorted(ids)
    differ = {i: name for i, name, theirs in zip(ids, ours.values(), open_clip.IMAGENET_CLASSNAMES, strict=True)
              if name != theirs}  # fmt: skip
    assert differ == {"n04008634": "projectile", "n04355933": "sunglass"}  # or two classes would read alike
    assert len({name.lower() for name in ours.values()}) == 1000
    assert (ours["n01440764"], ours["n15075141"]) == ("tench", "toilet paper")


def test_imagenet_100_is_mcms() -> None:
    ids = imagenet100_classes()
    assert ids == sorted(set(ids))
    assert len(ids) == 100
    assert set(ids) <= set(imagenet_classes())
    assert digest("\n".join(ids)) == IMAGENET100


def test_counts_and_order_of_names() -> None:
    assert (len(CIFAR10), len(CIFAR100), len(EUROSAT), len(BLOODMNIST)) == (10, 100, 10, 8)
    assert list(CIFAR100) == sorted(CIFAR100)
    assert list(EUROSAT) == sorted(EUROSAT)
    assert [CIFAR100[i] for i in (0, 1, 41, 47, 58, 83, 99)] == [
        *("apple", "aquarium fish", "lawn mower", "maple tree", "pickup truck", "sweet pepper", "worm"),
    ]
    assert (BLOODMNIST[3], BLOODMNIST[7]) == ("immature granulocytes", "platelet")


def test_names_follow_the_labels(root: Path) -> None:
    counts = {"cifar100": 100, "eurosat": 10, "medmnist": 8, "imagenet1k": 1000, "imagenet100": 100}
    for name, count in counts.items():
        opened = open_id(name, root, 1, 1)
        assert len(opened.class_names) == len(set(opened.class_names)) == count
        assert opened.test is not None and opened.test.labels is not None and opened.train.labels is not None
        assert set(opened.test.labels) == set(opened.train.labels) == set(range(count))
    assert opened.class_names[0] == imagenet_classes()[opened.class_keys[0]]
    assert {opened.class_keys[label] for label in opened.train.labels[:2]} == {opened.train.keys[0].split("/")[0]}
    assert open_id("eurosat", root, 1, 1).class_names[0] == "annual crop land"


@pytest.mark.parametrize("name", ["imagenet100", "imagenet1k", "eurosat", "folder:eurosat/2750"])
def test_a_class_list_picks_classes(name: str, root: Path, tmp_path: Path) -> None:
    classes = ["n15075141", "n01440764", "n02099601"] if name.startswith("imagenet") else ["SeaLake", "Forest"]
    (tmp_path / "list.txt").write_text("# mine\n" + "\n".join(classes) + "\n\n")
    data = FewShotOOD(str(root), name, [], class_list=str(tmp_path / "list.txt"))
    data.setup("fit")
    assert data.id_set.class_keys == sorted(classes)
    for images in (data.id_set.train, data.id_set.test):
        assert images is None or set(images.labels.tolist()) == set(range(len(classes)))
    assert len(data.shot_positions) == len(classes)
    assert data.hparams["class_list"] == str(tmp_path / "list.txt")
    if name == "imagenet100":
        assert data.class_names == ["tench", "Golden Retriever", "toilet paper"]


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("eurosat", "Forest\n", "names 1 classes"),
        ("eurosat", "Forest\nRiver\nForest\n", "names 'Forest' twice"),
        ("eurosat", "Forest\nMoon\n", "has no class folder 'Moon' of the 2 requested"),
        ("eurosat", "Forest\n../2750/River\n", "has no class folder"),
        ("imagenet100", "n01440764\nn00000001\nn00000002\n", "has no class folder 'n00000001' and 1 more of the 3"),
        ("cifar10", "0\n1\n", "cifar10 has no class folders"),
        ("scenes", "0\n1\n", "scenes has no class folders"),
        ("eurosat", None, "cannot read"),
    ],
)
def test_a_wrong_class_list(name: str, text: str | None, message: str, root: Path, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        FewShotOOD(str(root), name, class_list=str(tmp_path / "list.txt"))


def test_imagenet_without_its_training_images(root: Path, tmp_path: Path) -> None:
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "imagenet/val").symlink_to(root / "imagenet/val", target_is_directory=True)
    data = FewShotOOD(str(tmp_path), "imagenet100", [])
    data.setup("test")
    assert len(data.test_sets["id"][1]) == 100
    with pytest.raises(InputError, match="has no training images"):
        data.setup("fit")


# ---- draws


def test_the_places365_list_is_the_rule() -> None:
    names = [f"Places365_val_{i:08d}.jpg" for i in range(1, 36_501)]
    drawn = sorted(sorted(names, key=digest)[:10_000])
    packaged = ood_sets.packaged_lines("places365_10000.txt")
    assert [f"Places365_val_{int(n):08d}.jpg" for n in " ".join(packaged).split()] == drawn
    assert digest("\n".join(drawn)) == PLACES365


def test_eurosats_test_half_is_the_rule(roots: Callable[..., Path]) -> None:
    opened = open_id("eurosat", roots("eurosat"), 5, 1)
    files = [f"Forest/Forest_{i}.jpg" for i in range(1, 6)]
    assert opened.test is not None
    assert {key for key in opened.test.keys if key.startswith("Forest/")} == set(sorted(files, key=digest)[:2])
    assert not set(opened.test.keys) & set(opened.train.keys)
    assert len(opened.test.keys) + len(opened.train.keys) == 50


def test_svhns_pixels_are_upright(roots: Callable[..., Path]) -> None:
    images = open_ood(parse_ood_specs(["svhn"])[0], roots("svhn"))
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(images.read(4).image), pixels[:, :, :, 4])


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet100", "eurosat", "medmnist"])
def test_draws_of_every_benchmark_are_nested(name: str, root: Path) -> None:
    draws = []
    for shots in (1, 2):
        data = FewShotOOD(str(root), name, [], shots=shots, seed=4)
        data.setup("fit")
        draws.append({(label, key) for label, keys in data.manifest()["images"].items() for key in keys})
    assert all(a < b for a, b in pairwise(draws))
    assert len(draws[1]) == 2 * len(draws[0])


SHUFFLED = """
import os, random
from pathlib import Path
from clipos_lightning.data.id_sets import id_folder
from clipos_lightning.data.splits import draw_shots, limit_positions
walk, iterdir = os.walk, Path.iterdir
def shuffled(found):
    found = list(found)
    random.Random(3).shuffle(found)
    return found
def walked(*args, **kwargs):
    for folder, folders, names in walk(*args, **kwargs):
        folders[:] = shuffled(folders)
        yield folder, folders, shuffled(names)
os.walk, Path.iterdir = walked, lambda self: iter(shuffled(iterdir(self)))
"""


def drawn_keys(root: Path) -> tuple[list[str], list[str]]:
    """Two shots per class, and a limited test set."""
    opened = id_folder(root / "mine")
    train, test = opened.train, opened.test
    assert train.labels is not None and test is not None
    drawn = draw_shots(train.shot_keys(), train.labels.tolist(), opened.class_keys, 2, 3)
    return [train.keys[i] for i in drawn], [test.keys[i] for i in limit_positions(test.keys, 3)]


def test_draws_do_not_depend_on_the_order_of_folders_or_on_the_hash_seed(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for kind in ("cat", "cat-big", "dog"):
            for i in range(5):
                save_noise(tmp_path / "mine" / split / kind / f"{kind} {i % 2}/{i}.png", i, (4, 4))
    environment = {**os.environ, "PYTHONHASHSEED": "17", "OMP_NUM_THREADS": "1"}
    code = f"{SHUFFLED}{inspect.getsource(drawn_keys)}print(drawn_keys(Path({str(tmp_path)!r})))"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout.strip() == str(drawn_keys(tmp_path)), run.stderr


IMAGENET100 = "03614d17127166823c69de1557967383bcf9fbabe3132f70540373919ecd5764"
PLACES365 = "d934692289ab6027b333430dc7331e3d7b018769eaa9d57dba6470326cced0fa"
