"""The stand-ins of a first run's downloads: the commands and readers accept them, and every set of CIFAR's is there."""

import json
import os
import runpy
from dataclasses import replace
from pathlib import Path

import pytest
from running import clipos
from stand_in_downloads import SETS, build_set, build_weights
from web_on_loopback import serve_web

from clipos_lightning.clip.loading import model_config
from clipos_lightning.clip.pretrained import known_config
from clipos_lightning.clip.weight_checks import check_weights
from clipos_lightning.clip.weights import read_weights
from clipos_lightning.data import ood_sets
from clipos_lightning.data.benchmarks import BENCHMARKS, open_id, open_ood, parse_ood_specs
from clipos_lightning.data.sources import SOURCES

SITE = Path(__file__).parents[2] / "scripts" / "stand_in_site" / "sitecustomize.py"
SHRINK = 1000
COUNTS = {"cifar10": 60, "cifar100": 60, "textures": 141, "svhn": 26, "places365": 36, "lsun_crop": 10}
COUNTS |= {"lsun_resize": 10, "isun": 8, "tiny_imagenet": 220}


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("web")
    record = {name: build_set(name, folder, SHRINK) for name in SETS}
    (folder / "record.json").write_text(json.dumps(record))
    return folder


def test_they_are_all_that_a_first_run_on_cifar_downloads() -> None:
    needed = [part for name in ("cifar10", "cifar100") for part in BENCHMARKS[name].values()]
    assert {"cifar10", "cifar100"}.union(*needed) == set(SETS) == set(COUNTS)


def test_the_patch_covers_every_file_and_changes_nothing_else(web) -> None:
    table, record = dict(SOURCES), json.loads((web / "record.json").read_text())
    runpy.run_path(str(SITE))["redirect"](table, record, "http://here")
    for name in SETS:
        assert [file.name for file in table[name].files] == list(record[name])
        for file, real in zip(table[name].files, SOURCES[name].files, strict=True):
            path = web / file.url.removeprefix("http://here/")
            assert path.stat().st_size == file.size and file.md5 != real.md5
            assert replace(file, url=real.url, md5=real.md5, size=real.size) == real
        assert replace(table[name], files=SOURCES[name].files) == SOURCES[name]
    assert all(table[name] is SOURCES[name] for name in set(SOURCES) - set(SETS))


def test_commands_and_readers_accept_them(web, tmp_path, monkeypatch) -> None:
    for name, count in COUNTS.items():
        monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], images=count))
    names = [f"Places365_val_{i:08d}.jpg" for i in range(1, 37)]
    monkeypatch.setattr(ood_sets, "places365_names", lambda: names)
    monkeypatch.setattr(os, "sync", lambda: None)  # writes what other processes have written, too
    with serve_web(web) as server:
        runpy.run_path(str(SITE))["redirect"](SOURCES, json.loads((web / "record.json").read_text()), server.address)
        run = clipos("data", "download", *SETS, "--root", tmp_path)
    assert run.code == 0, run.out
    run = clipos("data", "verify", *SETS, "--root", tmp_path, "--num_workers", "1")
    assert run.code == 0, run.out
    for name in ("cifar10", "cifar100"):
        images = open_id(name, tmp_path, seed=1, shots=1)
        assert len(images.train) == 50 and len(images.test) == 10
    sizes = {}
    for spec in parse_ood_specs([name for part in BENCHMARKS["cifar10"].values() for name in part]):
        images = open_ood(spec, tmp_path)
        sizes[spec.name] = images.read(0).image.size
    small = {"cifar100": (32, 32), "svhn": (32, 32), "lsun_resize": (32, 32), "isun": (32, 32)}
    assert sizes.items() >= {**small, "places365": (256, 256), "tiny_imagenet": (64, 64)}.items()


def test_the_weights_have_their_names_and_configuration(tmp_path) -> None:
    config = model_config("MicroCLIP")
    path = build_weights(tmp_path, "MicroCLIP")
    check_weights(str(path), "MicroCLIP", read_weights(path).state, None, None)
    known = known_config(path)
    assert known.items() >= config.items() and known["interpolation"] == "bicubic" and len(known["mean"]) == 3
