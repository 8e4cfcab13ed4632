"""Selection and reading of images: the few-shot draw, the limit, folders, CIFAR's files, training batches."""

import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from running import make_benchmarks, make_photos, save_noise, write_cifar_batch

from clipos_lightning.data.arrays import RestrictedUnpickler, read_cifar_batch
from clipos_lightning.data.benchmarks import BENCHMARKS, OOD_SETS, kind_of, open_id, open_ood, parse_ood_specs
from clipos_lightning.data.class_prompts import read_wordings
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.decoding import open_image
from clipos_lightning.data.image_files import list_images
from clipos_lightning.data.image_sets import ModelSizeImages, SceneSet
from clipos_lightning.data.pixels import as_rgb
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.data.sampler import ShardSampler
from clipos_lightning.data.splits import draw_shots, limit_positions, manifest
from clipos_lightning.data.transforms import mask_to_model_size, to_model_size
from clipos_lightning.errors import InputError
from clipos_lightning.utils.files import write_json

KEYS = [f"{i:03}.png" for i in range(40)]
LABELS = [i % 4 for i in range(40)]
CLASSES = ["ant", "bee", "cat", "dog"]


def sha(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


# ---- the few-shot draw


@pytest.mark.parametrize("seed", [0, 1, 2, 77])
@pytest.mark.parametrize("shots", [1, 3, 10])
def test_the_draw_is_the_smallest_hashes(shots: int, seed: int) -> None:
    expected = []
    for label, name in enumerate(CLASSES):
        own = [(sha(f"{seed}/{name}/{KEYS[i]}"), i) for i in range(40) if LABELS[i] == label]
        expected += [i for _, i in sorted(own)[:shots]]
    assert draw_shots(KEYS, LABELS, CLASSES, shots, seed) == expected


def test_known_draws() -> None:
    """Fixed values, so that changes are noticed."""
    assert draw_shots(KEYS, LABELS, CLASSES, 1, 1) == KNOWN[1]
    assert draw_shots(KEYS, LABELS, CLASSES, 1, 0) == KNOWN[0]


def test_draws_are_nested_and_differ_by_seed() -> None:
    for seed in range(5):
        draws = [set(draw_shots(KEYS, LABELS, CLASSES, k, seed)) for k in (1, 2, 4, 8, 10)]
        assert all(a < b for a, b in pairwise(draws))
    assert len({tuple(draw_shots(KEYS, LABELS, CLASSES, 2, seed)) for seed in range(8)}) == 8


def test_the_draw_does_not_depend_on_the_order_of_the_files() -> None:
    order = list(range(40))
    random.Random(3).shuffle(order)
    drawn = draw_shots([KEYS[i] for i in order], [LABELS[i] for i in order], CLASSES, 3, 5)
    assert [order[i] for i in drawn] == draw_shots(KEYS, LABELS, CLASSES, 3, 5)


def test_all_takes_every_image_of_unequal_classes() -> None:
    labels = [0] * 5 + [1] * 2
    drawn = draw_shots(KEYS[:7], labels, ["ant", "bee"], "all", 1)
    assert sorted(drawn) == list(range(7))
    assert drawn[:2] == draw_shots(KEYS[:7], labels, ["ant", "bee"], 2, 1)[:2]


@pytest.mark.parametrize(("shots", "message"), [(3, "'bee' has 2"), (0, "at least 1"), (-2, "at least 1")])
def test_a_draw_that_cannot_be(shots: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_shots(KEYS[:7], [0] * 5 + [1] * 2, ["ant", "bee"], shots, 1)


def test_folders_are_drawn_by_class_and_path(tiny_folder: Path) -> None:
    data = FewShotOOD(str(tiny_folder), "folder:photos", shots=2, seed=9)
    data.setup("fit")
    expected = {}
    for name in ("circle", "heart", "star"):
        files = [p.name for p in (tiny_folder / "photos/train" / name).iterdir()]
        expected[name] = sorted(files, key=lambda f, name=name: sha(f"9/{name}/{f}"))[:2]
    assert data.manifest()["images"] == expected
    assert data.shot_labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_images_in_sub_folders_of_a_class_are_drawn_by_their_posix_path(tmp_path: Path) -> None:
    for kind in ("cat", "dog"):
        for i in range(6):
            save_noise(tmp_path / "mine" / kind / f"{kind}{i % 2}" / f"{i}.png", i)
    data = FewShotOOD(str(tmp_path), "folder:mine", shots=3, seed=0)
    data.setup("fit")
    keys = [f"dog{i % 2}/{i}.png" for i in range(6)]
    assert data.manifest()["images"]["dog"] == sorted(keys, key=lambda k: sha(f"0/dog/{k}"))[:3]


def test_scenes_are_drawn_by_class_index_and_image_index() -> None:
    data = FewShotOOD(id="scenes", shots=2, seed=4)
    data.setup("fit")
    train = data.id_set.train
    assert len(train) >= 10_000
    for label, keys in data.manifest()["images"].items():
        own = [str(i) for i in range(int(label), len(train), 10)]
        assert keys == sorted(own, key=lambda k, label=label: sha(f"4/{label}/{k}"))[:2]


def test_the_manifest_and_its_digest() -> None:
    drawn = draw_shots(KEYS, LABELS, CLASSES, 2, 6)
    written = manifest("zoo", 6, 2, CLASSES, [(LABELS[i], KEYS[i]) for i in drawn])
    assert (written["set"], written["seed"], written["shots"]) == ("zoo", 6, 2)
    assert written["images"] == {name: [KEYS[i] for i in drawn if LABELS[i] == k] for k, name in enumerate(CLASSES)}
    assert written["digest"] == sha(json.dumps(written["images"], sort_keys=True))
    other = manifest("zoo", 6, 2, CLASSES, [(LABELS[i], KEYS[i]) for i in drawn[:-1]])
    assert other["digest"] != written["digest"]


def golden(seed: int, pools: dict[str, list[str]]) -> str:
    """The digest of a draw of two images per class, by the published rule alone."""
    drawn = {name: sorted(keys, key=lambda key: sha(f"{seed}/{name}/{key}"))[:2] for name, keys in pools.items()}
    return sha(json.dumps(drawn, sort_keys=True))


def test_the_digest_of_a_draw_from_folders_is_pinned(tmp_path: Path) -> None:
    """A fixed value: changing the rule would change every published draw."""
    keys = ["a.png", "b.png", "sub/a.png", "sub/c d.png", "é.png"]
    for name in ("bee", "émeu"):
        for i, key in enumerate(keys):
            save_noise(tmp_path / "mine" / name / key, i)
    data = FewShotOOD(str(tmp_path), "folder:mine", shots=2, seed=5)
    data.setup("fit")
    pinned = "ff89bedb47e8a5af629e5fbeb1b35c5af16cba4e8e55d3ddf4fc2b6d15eda5f5"
    assert data.manifest()["digest"] == golden(5, {"bee": keys, "émeu": keys}) == pinned


def test_the_digest_of_a_draw_from_arrays_is_pinned() -> None:
    data = FewShotOOD(id="scenes", shots=2, seed=1)
    data.setup("fit")
    pools = {str(label): [str(i) for i in range(label, 10_000, 10)] for label in range(10)}
    pinned = "b84c8fd96286f5a90883bb143463dc15dc7317e2ce68a22e1a5d4ee0bcd56bdb"
    assert data.manifest()["digest"] == golden(1, pools) == pinned


def test_a_shots_file_takes_a_given_draw(tiny_folder: Path, tmp_path: Path) -> None:
    first = FewShotOOD(str(tiny_folder), "folder:photos", shots=2, seed=9)
    first.setup("fit")
    path = tmp_path / "shots.json"
    path.write_text(json.dumps(first.manifest()))
    again = FewShotOOD(str(tiny_folder), "folder:photos", shots=1, seed=1, shots_file=str(path))
    again.setup("fit")
    assert again.shot_positions == first.shot_positions
    assert again.manifest()["images"] == first.manifest()["images"]
    assert again.manifest()["digest"] == first.manifest()["digest"]


@pytest.mark.parametrize("shots", [2, 1500])
def test_a_shots_file_of_rendered_pictures_brings_its_seed(shots: int, tmp_path: Path) -> None:
    """Another seed renders other pictures under the same index; the pool has as many as the file's draw."""
    first = FewShotOOD(str(tmp_path), "scenes", [], shots=shots, seed=3, num_workers=0)
    first.setup("fit")
    first.image_size = 32
    write_json(tmp_path / "shots.json", first.manifest())
    again = FewShotOOD(str(tmp_path), "scenes", [], seed=1, shots_file=str(tmp_path / "shots.json"), num_workers=0)
    again.setup("fit")
    again.image_size = 32
    assert again.shot_positions == first.shot_positions and again.manifest() == first.manifest()
    assert torch.equal(again.shot_images(torch.arange(10)), first.shot_images(torch.arange(10)))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seed": 1, "shots": 1}', '{"images": {"star": ["0.png"]}}'])
def test_a_file_that_is_no_shots_file(text: str, tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "shots.json").write_text(text)
    data = FewShotOOD(str(tiny_folder), "folder:photos", shots_file=str(tmp_path / "shots.json"))
    reason = "shots.json is not a shots.json of a run" if text else "shots.json: it is not JSON"
    with pytest.raises(InputError, match=rf"--data\.shots_file: .*{reason}"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heart": []}, "has no image of class heart"),
        ({"heart": None}, "has no image of class heart"),
        ({"star": ["99.png"]}, "names star/99.png, which the ID set photos does not have"),
        ({"sun": ["0.png"]}, "names sun/0.png, which the ID set photos does not have"),
    ],
)
def test_a_shots_file_of_other_images(change: dict[str, Any], message: str, tiny_folder: Path, tmp_path: Path) -> None:
    images = {"circle": ["0.png"], "heart": ["1.png"], "star": ["2.png"]} | change
    images = {name: members for name, members in images.items() if members is not None}
    path = tmp_path / "shots.json"
    write_json(path, {"seed": 1, "shots": 1, "images": images})
    data = FewShotOOD(str(tiny_folder), "folder:photos", shots_file=str(path))
    with pytest.raises(InputError, match=re.escape(f"--data.shots_file: {path} {message}")):
        data.setup("fit")


# ---- the limit on test sets


def test_the_limit_is_the_smallest_hashes_in_their_own_order() -> None:
    for limit in (1, 7, 39):
        assert limit_positions(KEYS, limit) == sorted(sorted(range(40), key=lambda i: sha(KEYS[i]))[:limit])
    assert limit_positions(KEYS, None) == limit_positions(KEYS, 40) == limit_positions(KEYS, 99) == list(range(40))


def test_the_limit_is_the_same_whatever_the_seed(tiny_folder: Path) -> None:
    tests = []
    for seed in (0, 1):
        data = FewShotOOD(str(tiny_folder), "folder:photos", ["folder:other"], seed=seed, limit_per_set=4)
        data.setup("test")
        tests.append({name: [images.keys[i] for i in rows] for name, (images, rows) in data.test_sets.items()})
    assert tests[0] == tests[1]
    assert {name: len(keys) for name, keys in tests[0].items()} == {"id": 4, "other": 4}
    paths = [f"{name}/{i}.png" for name in ("circle", "heart", "star") for i in range(5)]
    assert set(tests[0]["id"]) == set(sorted(paths, key=sha)[:4])


# ---- class names


def test_class_names_from_folders_and_from_a_file(tmp_path: Path) -> None:
    for kind in ("polar_bear", "red_fox"):
        save_noise(tmp_path / "mine" / kind / "0.png", 0)
    assert FewShotOOD(str(tmp_path), "folder:mine").class_names == ["polar bear", "red fox"]
    (tmp_path / "names.yaml").write_text("red_fox: fox in the snow\n")
    data = FewShotOOD(str(tmp_path), "folder:mine", class_names=str(tmp_path / "names.yaml"))
    assert data.class_names == ["polar bear", "fox in the snow"]


def test_class_names_of_sets_without_folders(tmp_path: Path) -> None:
    (tmp_path / "names.yaml").write_text("1: aeroplane\ndeer: roe deer\n")
    file = str(tmp_path / "names.yaml")
    found = read_wordings(file, ["0", "1", "2"], ["deer", "plane", "cat"])
    assert found == [{"names": ["roe deer"]}, {"names": ["aeroplane"]}, {"names": ["cat"]}]


# ---- folders


def test_a_folder_with_train_and_test(tiny_folder: Path) -> None:
    opened = open_id("folder:photos", tiny_folder, 1, 1)
    assert (opened.name, opened.class_keys) == ("photos", ["circle", "heart", "star"])
    assert opened.test is not None
    assert (len(opened.train), len(opened.test)) == (12, 15)
    assert opened.test.labels is not None
    assert opened.test.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5


def test_a_folder_of_classes_alone_has_no_test_set(tiny_folder: Path) -> None:
    opened = open_id("folder:photos/train", tiny_folder, 1, 1)
    assert opened.test is None
    with pytest.raises(InputError, match="no test images"):
        FewShotOOD(str(tiny_folder), "folder:photos/train").setup("test")


def test_an_absolute_folder_does_not_lie_below_the_root(tiny_folder: Path, tmp_path: Path) -> None:
    data = FewShotOOD(str(tmp_path), f"folder:{tiny_folder / 'photos'}", [f"x=folder:{tiny_folder / 'other'}"])
    data.setup("test")
    assert len(data.test_sets["x"][0]) == 7


def test_images_are_found_recursively_whatever_their_suffix(tmp_path: Path) -> None:
    for name in ("b.PNG", "a/c.jpeg", "a/b/d.bmp", "z.webp", ".hidden.png", ".cache/e.png"):
        save_noise(tmp_path / name, 0) if not name.endswith("PNG") else save_noise(tmp_path / "b.png", 0)
    (tmp_path / "b.png").rename(tmp_path / "b.PNG")
    (tmp_path / "notes.txt").write_text("words")
    assert list_images(tmp_path) == ["a/b/d.bmp", "a/c.jpeg", "b.PNG", "z.webp"]


def test_loops_of_links_end(tmp_path: Path) -> None:
    save_noise(tmp_path / "a/0.png", 0)
    (tmp_path / "a/again").symlink_to(tmp_path, target_is_directory=True)
    assert list_images(tmp_path) == ["a/0.png"]
    assert list_images(tmp_path / "nowhere") == []


def test_a_class_that_is_called_train(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("train", "bus", "car"):
        shutil.copytree(tiny_folder / "other", tmp_path / "photos" / name)
    data = FewShotOOD(str(tmp_path), "folder:photos", [])
    assert data.class_names == ["bus", "car", "train"] and data.id_set.test is None
    for name in ("train", "test"):  # images without class folders
        shutil.copytree(tiny_folder / "other", tmp_path / "flat" / name)
    with pytest.raises(InputError, match="train has no class folders: put the images of each class into a folder"):
        FewShotOOD(str(tmp_path), "folder:flat", [])


def test_names_that_are_not_utf8(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "photos/train", tmp_path / "photos")
    os.rename(tmp_path / "photos/star/0.png", os.fsencode(tmp_path / "photos/star") + b"/caf\xe9.png")
    data = FewShotOOD(str(tmp_path), "folder:photos", [], shots="all", views=2)
    data.image_size = 32
    data.setup("fit")
    assert len(data.shot_images(torch.arange(2 * len(data.shot_positions)))) == 24
    write_json(tmp_path / "shots.json", data.manifest())
    again = FewShotOOD(str(tmp_path), "folder:photos", [], shots_file=str(tmp_path / "shots.json"))
    again.setup("fit")
    assert again.shot_positions == data.shot_positions and "caf\udce9.png" in again.manifest()["images"]["star"]


def test_class_folders_whose_names_are_not_utf8(tiny_folder: Path, tmp_path: Path) -> None:
    """The names can be written to any file; the folders keep theirs, and so does the draw."""
    shutil.copytree(tiny_folder / "photos/train", tmp_path / "photos")
    os.rename(tmp_path / "photos/star", os.fsencode(tmp_path / "photos") + b"/caf\xe9_au_lait")
    data = FewShotOOD(str(tmp_path), "folder:photos", [], shots=1)
    assert data.class_names == ["café au lait", "circle", "heart"]
    data.setup("fit")
    assert os.fsencode(data.id_set.class_keys[0]) == b"caf\xe9_au_lait" and len(data.shot_positions) == 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_phone_pictures_are_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    picture, upright = Image.open(tmp_path / "x.png"), open_image(tmp_path / "x.png")
    assert upright.tobytes() == ImageOps.exif_transpose(picture).tobytes()
    assert upright.size == ((9, 7) if orientation < 5 else (7, 9))
    assert as_rgb(upright).tobytes() == upright.tobytes()
    assert torch.equal(to_model_size(picture, Preprocessing(5)), to_model_size(upright, Preprocessing(5)))
    picture.info["exif"] = b"Exif\0\0broken"
    assert as_rgb(picture).size in ((9, 7), (7, 9))


def test_16_bits_are_the_same_by_path_and_as_a_picture(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)).save(tmp_path / "x.png")
    by_path = open_image(tmp_path / "x.png")
    assert len(set(by_path.tobytes())) > 50
    assert torch.equal(
        to_model_size(Image.open(tmp_path / "x.png"), Preprocessing(8)), to_model_size(by_path, Preprocessing(8))
    )


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK", "I;16"])
def test_every_kind_of_picture_becomes_rgb(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    Image.new(mode, (9, 7)).save(path)
    picture = open_image(path)
    assert (picture.mode, picture.size) == ("RGB", (9, 7))


# ---- OOD sets by name, folder, or both


@pytest.mark.parametrize(
    ("entry", "name", "folder"),
    [
        ("texture", "texture", None),
        ("folder:svhn-images", "svhn-images", "svhn-images"),
        ("folder:/data/svhn/", "svhn", "/data/svhn/"),
        ("mine=folder:/x/y", "mine", "/x/y"),
        ("mine=texture", "mine", None),
        ("mine=folder:/x=1/y", "mine", "/x=1/y"),
        ("folder:/x=1/y", "y", "/x=1/y"),
    ],
)
def test_entries_of_ood_sets(entry: str, name: str, folder: str | None) -> None:
    (spec,) = parse_ood_specs([entry])
    assert (spec.name, spec.folder) == (name, folder)


@pytest.mark.parametrize(
    "entries",
    [
        ["cats"],
        ["folder:"],
        ["a=b=texture"],
        ["texture", "texture"],
        ["folder:a/x", "folder:b/x"],
        ["texture=folder:x", "texture"],
        ["zero_shot=texture"],
        ["id=texture"],
        ["x="],
        [""],
    ],
)
def test_wrong_entries_of_ood_sets(entries: list[str]) -> None:
    with pytest.raises(InputError, match=r"--data\.ood_sets"):
        parse_ood_specs(entries)


def test_benchmarks_name_sets_that_there_are() -> None:
    for id_name, kinds in BENCHMARKS.items():
        for kind, names in kinds.items():
            assert set(names) <= set(OOD_SETS)
            assert all(kind_of(id_name, name) == kind for name in names)
    assert kind_of("scenes", "textures") is None


def test_streams_of_scenes_share_no_picture_and_the_report_does_not_depend_on_the_seed() -> None:
    pools = []
    for seed in (1, 2):
        data = FewShotOOD(id="scenes", seed=seed, limit_per_set=3)
        data.setup("test")
        pools.append([images.read(i).image.tobytes() for images, rows in data.test_sets.values() for i in rows])
    assert pools[0] == pools[1]
    train = [SceneSet("id", "train", seed, 50).read(i).image.tobytes() for seed in (1, 2) for i in range(50)]
    assert len(set(train)) == 100
    assert not set(train) & set(pools[0])


def test_scenes_have_as_many_training_pictures_as_are_asked_for() -> None:
    data = FewShotOOD(id="scenes", shots=1200)
    data.setup("fit")
    assert Counter(data.shot_labels.tolist()) == dict.fromkeys(range(10), 1200)


# ---- reading: sizes, CIFAR, DTD


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (50, 40), (37, 90), (20, 33), (7, 5)])
def test_resizing_is_pils_bicubic_and_a_centre_crop(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    scale = 32 / min(size)
    width, height = (32, int(32 * size[1] / size[0])) if size[0] <= size[1] else (int(32 * size[0] / size[1]), 32)
    assert abs(width - scale * size[0]) < 1
    assert abs(height - scale * size[1]) < 1
    left, top = round((width - 32) / 2), round((height - 32) / 2)
    expected = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 32, top + 32))
    tensor = to_model_size(image, Preprocessing(32))
    assert tensor.dtype == torch.uint8
    assert tensor.is_contiguous()
    np.testing.assert_array_equal(tensor.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_masks_are_resized_by_area() -> None:
    mask = np.zeros((32, 32), dtype=np.float32)
    mask[:16] = 1
    for size in (8, 16, 32, 64):
        resized = mask_to_model_size(mask, Preprocessing(size))
        assert resized.shape == (size, size)
        assert resized.mean().item() == pytest.approx(0.5, abs=1e-3)
        assert resized[0].min() > 0.99
        assert resized[-1].max() < 0.01


def test_items_of_a_set_with_masks_and_of_one_without(tiny_folder: Path) -> None:
    scene = ModelSizeImages(SceneSet("id", "report", 0, 20), [13, 4], Preprocessing(48))[0]
    assert scene["image"].shape == (3, 48, 48)
    assert scene["mask"].shape == (48, 48)
    assert (scene["label"].item(), scene["index"].item()) == (3, 13)
    spec = parse_ood_specs(["folder:other"])[0]
    picture = ModelSizeImages(open_ood(spec, tiny_folder), [5], Preprocessing(32))[0]
    assert "mask" not in picture
    assert (picture["label"].item(), picture["index"].item()) == (-1, 5)


def test_cifar10_is_read_from_its_batches(tmp_path: Path) -> None:
    root = make_benchmarks(tmp_path)
    rows = write_cifar_batch(root / "cifar-10-batches-py/test_batch", np.random.default_rng(3), np.array([7, 0, 9]))
    opened = open_id("cifar10", root, 1, 1)
    assert opened.class_names[:2] == ["airplane", "automobile"]
    assert len(opened.train) == 100
    assert opened.test is not None and opened.test.labels is not None
    assert opened.test.labels.tolist() == [7, 0, 9]
    picture = np.asarray(opened.test.read(1).image)
    assert picture.shape == (32, 32, 3)
    np.testing.assert_array_equal(picture[:, :, 0].ravel(), rows[1, :1024])  # red plane first, row by row
    np.testing.assert_array_equal(picture[:, :, 2].ravel(), rows[1, 2048:])
    drawn = FewShotOOD(str(root), "cifar10", shots=2, seed=3)
    drawn.setup("fit")
    own = [str(i) for i in range(100) if i % 10 == 4]
    assert drawn.manifest()["images"]["4"] == sorted(own, key=lambda k: sha(f"3/4/{k}"))[:2]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_cifar10_as_newer_pythons_pickle_it(protocol: int) -> None:
    """The published batches were pickled by Python 2; a subset written by a user's script was not."""
    data = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    text = pickle.dumps({"data": data, "fine_labels": [1, 2]}, protocol=protocol)
    images, labels = read_cifar_batch(io.BytesIO(text))
    np.testing.assert_array_equal(images[1, :, :, 1].ravel(), data[1, 1024:2048])
    assert labels.tolist() == [1, 2]


@pytest.mark.parametrize("content", [b"", b"words", pickle.dumps({"labels": [1]}), pickle.dumps([1, 2])], ids=range(4))
def test_a_broken_cifar_batch(content: bytes, tmp_path: Path) -> None:
    root = make_benchmarks(tmp_path)
    (root / "cifar-10-batches-py/data_batch_3").write_bytes(content)
    with pytest.raises(InputError, match="cannot read CIFAR-10"):
        open_id("cifar10", root, 1, 1)


class Call:
    """An object whose pickle calls a function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.reduced


@pytest.mark.parametrize(
    "call", [Call(os.system, "touch opened"), Call(eval, "1"), Call(np.load, "x"), Call(getattr, "", "a")]
)
def test_pickles_cannot_call_anything(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="not allowed"):
        RestrictedUnpickler(io.BytesIO(pickle.dumps({"data": call}))).load()
    assert not (tmp_path / "opened").exists()
    root = make_benchmarks(tmp_path / "data")
    (root / "cifar-10-batches-py/test_batch").write_bytes(pickle.dumps({"data": call}))
    with pytest.raises(InputError, match="not allowed"):
        open_id("cifar10", root, 1, 1)


def test_textures_are_all_three_splits_of_dtd(tmp_path: Path) -> None:
    images = open_ood(parse_ood_specs(["textures"])[0], make_benchmarks(tmp_path))
    assert sorted(images.keys) == ["banded/banded_0001.jpg", "banded/banded_0001.jpg", "dotted/dotted_0001.jpg"]
    assert images.read(0).image.size == (40, 36)


# ---- batches of training and shares of testing


def fitted_data(batch_size: int, shots: int = 3, seed: int = 1) -> FewShotOOD:
    data = FewShotOOD(id="scenes", shots=shots, seed=seed, batch_size=batch_size)
    data.setup("fit")
    return data


@pytest.mark.parametrize("batch_size", [1, 7, 10, 30, 64])
def test_an_epoch_covers_every_image_once(batch_size: int) -> None:
    data = fitted_data(batch_size)
    steps = data.steps_per_epoch
    assert steps == -(-30 // batch_size)
    assert len(list(data.train_dataloader())) == steps
    epochs = []
    for epoch in range(3):
        batches = [data.global_batch(epoch * steps + i) for i in range(steps)]
        assert all(len(b["index"]) == batch_size for b in batches[:-1])
        order = torch.cat([b["index"] for b in batches])
        assert sorted(order.tolist()) == list(range(30))
        assert torch.equal(torch.cat([b["label"] for b in batches]), data.shot_labels[order])
        epochs.append(tuple(order.tolist()))
    assert len(set(epochs)) == 3


def test_a_batch_is_a_pure_function_of_seed_and_step() -> None:
    first, again, other = fitted_data(7), fitted_data(7), fitted_data(7, seed=2)
    for step in (11, 3, 0, 11):
        torch.manual_seed(step)
        assert torch.equal(first.global_batch(step)["index"], again.global_batch(step)["index"])
        assert first.global_batch(step)["step"] == step
    assert not torch.equal(first.global_batch(0)["index"], other.global_batch(0)["index"])


@pytest.mark.parametrize(("count", "world"), [(31, 1), (31, 2), (31, 4), (3, 4), (0, 2)])
def test_shares_are_a_partition(count: int, world: int) -> None:
    shares = [list(ShardSampler(count, rank, world)) for rank in range(world)]
    assert sorted(i for share in shares for i in share) == list(range(count))
    assert [len(ShardSampler(count, rank, world)) for rank in range(world)] == [len(share) for share in shares]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_validation_images_are_the_held_out_ones(tmp_path: Path) -> None:
    data = FewShotOOD(str(make_photos(tmp_path)), "folder:photos", shots=1, num_workers=0)
    data.setup("validate")
    data.image_size = 32  # as the trainer's model would say
    seen = [int(i) for batch in data.val_dataloader() for i in batch["index"]]
    assert len(seen) == 9
    assert not set(seen) & set(data.shot_positions)
    everything = FewShotOOD(str(tmp_path), "folder:photos", shots=4, num_workers=0)
    everything.setup("validate")
    with pytest.raises(InputError, match="every training image was drawn"):
        everything.val_dataloader()


KNOWN: dict[int, list[int]] = {0: [0, 1, 14, 3], 1: [16, 21, 34, 31]}
