"""Augmented views, OOD images at the ID set's resolution, the cache of decoded images, resizing in batches."""

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import PHOTO_OPTIONS, done, make_benchmarks, make_photos, save_noise

from clipos_lightning.data import cache
from clipos_lightning.data.arrays import read_cifar
from clipos_lightning.data.benchmarks import open_ood, parse_ood_specs
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.image_sets import ArraySet, FolderSet, ModelSizeImages, SceneSet, folder_images
from clipos_lightning.data.preprocessing import Preprocessing
from clipos_lightning.data.resolution import DownscaledSet, native_side
from clipos_lightning.data.scenes import render
from clipos_lightning.data.transforms import (
    as_tensor,
    batch_to_model_size,
    resize_on_device,
    to_model_size,
    view,
    view_rng,
)
from clipos_lightning.errors import InputError

DEMO = ("--config", "demo.yaml", "--trainer.max_steps", 1)


def noise(count: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


# ---- views


def shots(root: Path, **options: Any) -> FewShotOOD:
    data = FewShotOOD(str(root), "folder:photos", [], num_workers=0, **options)
    data.setup("fit")
    data.image_size = 24  # as the trainer's model would say
    return data


def shown(width: int, height: int, number: int) -> tuple[bool, list[float]]:
    """Whether a view is mirrored, and its crop (left, top, width, height), recovered from its colours."""
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(width), np.arange(height)[:, None]
    seen = view(Image.fromarray(ramp), Preprocessing(24), view_rng(3, "cat", "a/b.png", number)).double()
    columns, rows = seen[0].mean(0), seen[1].mean(1)  # the source's coordinates, one grey level a pixel
    (left, across), (top, down) = ((float(c[4:20].mean()), float(c[19] - c[4]) / 15) for c in (columns, rows))
    return across < 0, [left + 0.5 - 12 * abs(across), top + 0.5 - 12 * down, 24 * abs(across), 24 * down]


def test_a_view_shows_at_least_half_of_the_image_at_nearly_its_shape() -> None:
    """Over 200 views: areas, shapes and places fill their ranges, and half of the views are mirrored."""
    width, height = 200, 160
    found = [shown(width, height, number) for number in range(1, 201)]
    left, top, across, down = np.array([rectangle for _, rectangle in found]).T
    area, shape = across * down / (width * height), across / down
    assert 0.48 < area.min() < 0.53 and 0.9 < area.max() < 1.02
    assert 0.74 < shape.min() < 0.8 and 1.25 < shape.max() < 1.35
    for start, size, whole in ((left, across, width), (top, down, height)):
        assert start.min() > -2 and (start + size).max() < whole + 2
        at = (start / (whole - size))[size < 0.9 * whole]
        assert at.min() < 0.1 and at.max() > 0.9
    assert 70 < sum(mirrored for mirrored, _ in found) < 130


@pytest.mark.parametrize("number", range(1, 5))
def test_a_view_is_pils_crop_to_the_pixel(number: int) -> None:
    """One of the crops within two pixels of the recovered one equals the view."""
    image = Image.fromarray(noise(1, 160, 200)[0])
    ours = view(image, Preprocessing(24), view_rng(3, "cat", "a/b.png", number))
    assert (ours.shape, ours.dtype, ours.is_contiguous()) == ((3, 24, 24), torch.uint8, True)
    mirrored, (left, top, across, down) = shown(200, 160, number)
    edges = [range(round(e) - 2, round(e) + 3) for e in (left, top, left + across, top + down)]
    wanted = ours.flip(2) if mirrored else ours
    boxes = (b for b in product(*edges) if b[0] >= 0 and b[1] >= 0 and b[2] <= 200 and b[3] <= 160)
    crops = (image.crop(box).resize((24, 24), Image.Resampling.BICUBIC) for box in boxes)
    assert any(torch.equal(as_tensor(crop), wanted) for crop in crops)
    assert not torch.equal(ours, view(image, Preprocessing(24), view_rng(3, "cat", "a/b.png", number + 1)))


@pytest.mark.parametrize("size", [(32, 32), (50, 20), (7, 90), (1, 1)])
def test_views_of_small_and_narrow_images(size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(1, size[1], size[0])[0])
    for number in range(1, 9):
        assert view(image, Preprocessing(24), view_rng(3, "cat", "a/b.png", number)).shape == (3, 24, 24)


def test_known_views() -> None:
    """Fixed values, so that changes, also by another machine, are noticed."""
    draws = [view_rng(*key).random(5).round(6).tolist() for key in ((1, "cat", "0.png", 1), (1, "cat", "0.png", 2))]
    assert draws == KNOWN


def test_views_are_rows_after_the_images(tiny_folder: Path) -> None:
    plain, data = shots(tiny_folder, shots=2), shots(tiny_folder, shots=2, views=3)
    count = len(plain.shot_positions)
    assert data.shot_positions == plain.shot_positions
    assert data.shot_labels.tolist() == plain.shot_labels.tolist() * 3
    assert data.steps_per_epoch == 1
    rows = data.shot_images(torch.arange(3 * count))
    assert torch.equal(rows[:count], plain.shot_images(torch.arange(count)))
    for i, position in enumerate(data.shot_positions):
        path = tiny_folder / "photos/train" / data.id_set.train.keys[position]
        for number in (1, 2):
            rng = view_rng(1, path.parent.name, path.name, number)
            assert torch.equal(rows[number * count + i], view(Image.open(path), Preprocessing(24), rng))
    order = [3 * count - 1, 0, count]
    assert torch.equal(data.shot_images(torch.tensor(order)), rows[order])
    assert len({row.numpy().tobytes() for row in rows}) == 3 * count


def test_any_view_of_the_drawn_images_can_be_asked_for(tiny_folder: Path) -> None:
    plain, data = shots(tiny_folder, shots=2), shots(tiny_folder, shots=2, views=3)
    count = len(plain.shot_positions)
    assert torch.equal(plain.shot_images(torch.arange(3 * count)), data.shot_images(torch.arange(3 * count)))
    assert plain.shot_images(torch.arange(5 * count, 7 * count)).shape == (2 * count, 3, 24, 24)
    assert plain.shot_images(torch.empty(0, dtype=torch.long)).shape == (0, 3, 24, 24)


def test_views_differ_by_seed_and_an_epoch_covers_them(tiny_folder: Path) -> None:
    first, other = shots(tiny_folder, shots="all", views=2), shots(tiny_folder, shots="all", views=2, seed=2)
    row = torch.tensor([len(first.shot_positions) + first.shot_positions.index(5)])
    assert not torch.equal(
        first.shot_images(row),
        other.shot_images(torch.tensor([len(other.shot_positions) + other.shot_positions.index(5)])),
    )
    small = shots(tiny_folder, shots=2, views=3, batch_size=5)
    batches = [small.global_batch(i) for i in range(small.steps_per_epoch)]
    order = torch.cat([b["index"] for b in batches])
    assert sorted(order.tolist()) == list(range(18))
    assert torch.equal(torch.cat([b["label"] for b in batches]), small.shot_labels[order])


def test_a_run_with_views_records_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "data")
    fit = done("fit", *DEMO, *PHOTO_OPTIONS, "--data.views", 3, "--data.shots", 2, "--data.batch_size", 9)
    written = json.loads((fit.folder / "shots.json").read_text())
    assert (written["views"], sum(map(len, written["images"].values()))) == (3, 6)
    with pytest.raises(InputError, match=r"--data\.views is 0"):
        FewShotOOD(views=0)


# ---- resolution


def test_ood_images_go_down_to_the_id_sets_size(tmp_path: Path) -> None:
    root = make_benchmarks(tmp_path)
    save_noise(root / "big/0.png", 1, (90, 70))
    save_noise(root / "big/1.png", 2, (30, 20))
    data = FewShotOOD(str(root), "cifar10", ["folder:big", "texture"], ood_resolution="id", num_workers=0)
    data.setup("test")
    data.image_size = 48
    images, positions = data.test_sets["big"]
    first, second = (ModelSizeImages(images, positions, Preprocessing(48))[i]["image"] for i in (0, 1))
    big = Image.open(root / "big/0.png")
    down = big.resize((41, 32), Image.Resampling.BICUBIC).crop((4, 0, 36, 32))
    assert torch.equal(first, to_model_size(down, Preprocessing(48)))
    assert torch.equal(second, to_model_size(Image.open(root / "big/1.png"), Preprocessing(48)))  # smaller already
    assert images.keys == ["0.png", "1.png"]
    assert not isinstance(data.test_sets["id"][0], DownscaledSet)
    assert data.hparams["ood_resolution"] == "id"


def test_the_native_side(tmp_path: Path) -> None:
    assert native_side(SceneSet("id", "report", 0, 5)) == 32
    assert native_side(ArraySet("x", noise(2, 28, 28), None)) == 28
    for i in range(3):
        save_noise(tmp_path / "same" / f"{i}.png", i, (24, 24))
        save_noise(tmp_path / "mixed" / f"{i}.png", i, (24, 24 + i // 2))
        save_noise(tmp_path / "wide" / f"{i}.png", i, (24, 20))
    assert native_side(folder_images("same", tmp_path / "same")) == 24
    with pytest.raises(InputError, match=r"not squares of one size .24x24 and 24x25.*use .*native"):
        native_side(folder_images("mixed", tmp_path / "mixed"))
    with pytest.raises(InputError, match=r"not squares of one size .24x20.; use .*native"):
        native_side(folder_images("wide", tmp_path / "wide"))


def test_the_report_says_which_resolution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("test", *DEMO, "--data.ood_sets", "[texture]", "--data.limit_per_set", 3)
    for resolution in ("native", "id"):
        run = done(*words, "--data.ood_resolution", resolution)
        assert run.report["run"]["ood_resolution"] == resolution
        assert f"resolution of the OOD images: {resolution}" in (run.folder / "report.md").read_text()


# ---- the cache


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A root with a folder of a few small images that is treated as a large one."""
    monkeypatch.setattr(cache, "MIN_IMAGES", 5)
    for i in range(8):
        save_noise(tmp_path / "root/small" / f"{i}.png", i, (16, 12))
    return tmp_path / "root"


def kept(root: Path) -> list[Path]:
    return sorted((root / cache.CACHE_FOLDER).glob("*")) if (root / cache.CACHE_FOLDER).is_dir() else []


def pixels(images: Any) -> list[bytes]:
    return [images.read(i).image.tobytes() for i in range(len(images))]


def test_a_folder_of_small_images_is_read_from_one_file(many: Path) -> None:
    images = folder_images("small", many / "small")
    first = cache.cached_folder(images, many, 8)
    assert isinstance(first, ArraySet)
    assert (pixels(first), first.keys, first.name) == (pixels(images), images.keys, "small")
    (path,) = kept(many)
    again = cache.cached_folder(images, many, 4)
    assert isinstance(again, ArraySet)
    assert isinstance(again.images, np.memmap)
    assert kept(many) == [path]
    save_noise(many / "small/3.png", 99, (16, 12))
    changed = cache.cached_folder(folder_images("small", many / "small"), many, 8)
    assert pixels(changed)[3] != pixels(again)[3]
    (current,) = set(kept(many)) - {path}
    current.write_bytes(b"not an array")
    assert pixels(cache.cached_folder(images, many, 8)) == pixels(images)
    assert kept(many) == sorted([path, current]) and current.stat().st_size > 1000


@pytest.mark.parametrize("kind", ["loop", "broken"])
def test_a_folder_with_an_unreadable_image_is_not_cached(kind: str, many: Path) -> None:
    path = many / "small/0.png"
    path.unlink()
    if kind == "loop":
        path.symlink_to(path)
    else:
        path.write_bytes(b"no image")
    images = folder_images("small", many / "small")
    assert cache.cached_folder(images, many, 8) is images and not kept(many)


def test_two_folders_of_equal_names_sizes_and_times(many: Path) -> None:
    """A copy with the same times and other pixels."""
    for name, seed in (("a", 0), ("b", 100)):
        for i in range(8):
            save_noise(many / name / f"{i}.bmp", seed + i, (16, 12))
            os.utime(many / name / f"{i}.bmp", ns=(5, 5))
    for name in ("a", "b", "a"):
        images = folder_images("small", many / name)
        assert pixels(cache.cached_folder(images, many, 8)) == pixels(images)
    assert len(kept(many)) == 2
    for i in range(8):  # in place, with the times of before
        save_noise(many / "a" / f"{i}.bmp", 200 + i, (16, 12))
        os.utime(many / "a" / f"{i}.bmp", ns=(5, 5))
    assert pixels(cache.cached_folder(images, many, 8)) == pixels(images)


@pytest.mark.parametrize("spoil", ["size", "large", "broken", "few", "limit", "root"])
def test_where_there_is_no_cache(spoil: str, many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if spoil == "size":
        save_noise(many / "small/5.png", 5, (12, 16))
    elif spoil == "large":
        monkeypatch.setattr(cache, "MAX_SIDE", 15)
    elif spoil == "broken":
        (many / "small/7.png").write_bytes(b"not an image")
    elif spoil == "few":
        monkeypatch.setattr(cache, "MIN_IMAGES", 9)
    elif spoil == "root":
        monkeypatch.setattr(os, "access", lambda *_: False)
    images = folder_images("small", many / "small")
    assert cache.cached_folder(images, many, 3 if spoil == "limit" else 8) is images
    assert kept(many) == []


def test_a_root_that_is_read_only(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    images = folder_images("small", many / "small")
    assert pixels(cache.cached_folder(images, many, 8)) == pixels(images)
    assert kept(many) == []


def test_a_root_that_cannot_be_written(many: Path, tmp_path: Path) -> None:
    (many / cache.CACHE_FOLDER).write_text("in the way")
    images = folder_images("small", many / "small")
    assert pixels(cache.cached_folder(images, many, 8)) == pixels(images)
    root = make_benchmarks(tmp_path / "data")
    (root / cache.CACHE_FOLDER).write_text("in the way")
    assert len(open_ood(parse_ood_specs(["cifar10"])[0], root)) == 20


def test_arrays_are_kept_by_the_files_contents(many: Path, tmp_path: Path) -> None:
    root = make_benchmarks(tmp_path / "data")
    paths = [root / "cifar-10-batches-py/test_batch"]
    images, labels = read_cifar(paths)
    for _ in range(2):
        found = cache.cached_arrays(root, paths, lambda: read_cifar(paths))
        assert isinstance(found[0], np.memmap)
        np.testing.assert_array_equal(found[0], images)
        np.testing.assert_array_equal(found[1], labels)
    assert len(kept(root)) == 1
    assert cache.cached_arrays(None, paths, lambda: (images, labels))[0] is images
    never = cache.cached_arrays(root, paths, lambda: pytest.fail("read again"))
    np.testing.assert_array_equal(never[0], images)
    paths[0].write_bytes((root / "cifar-10-batches-py/data_batch_1").read_bytes())
    assert cache.cached_arrays(root, paths, lambda: read_cifar(paths))[0].shape == (20, 32, 32, 3)
    assert len(kept(root)) == 2
    assert len(cache.cached_arrays(root, paths, lambda: (noise(6), np.zeros(6, dtype=np.int64)), "part")[0]) == 6


def test_a_test_reads_the_same_with_the_cache_and_without(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(many)
    words = ("test", *DEMO, "--data.root", many, "--data.id", "folder:photos", "--data.ood_sets", "[folder:small]")
    runs = [done(*words, "--data.cache", value, "--model.scores", "[energy]") for value in ("true", "true", "false")]
    assert len(kept(many)) == 2
    for run in runs[1:]:
        assert run.scores.keys() == runs[0].scores.keys()
        for name, values in run.scores.items():
            np.testing.assert_array_equal(values, runs[0].scores[name], err_msg=name)


# ---- resizing in batches


@pytest.mark.parametrize("size", [28, 32, 64, 224])
@pytest.mark.parametrize("kind", ["noise", "extremes", "scenes"])
def test_torchs_resizing_is_nearly_pils(kind: str, size: int) -> None:
    """Some pixels differ by more than 1/255, so it is not the default; the test bounds their share."""
    images = noise(24)
    if kind == "extremes":
        images = (images > 127).astype(np.uint8) * 255
    elif kind == "scenes":
        scenes = SceneSet("id", "report", 0, 24)
        images = np.stack([np.asarray(scenes.read(i).image) for i in range(24)])
    plain = torch.stack([to_model_size(Image.fromarray(image), Preprocessing(size)) for image in images])
    batch = batch_to_model_size(images, Preprocessing(size))
    assert batch.shape == plain.shape
    assert batch.is_contiguous()
    differences = (batch.int() - plain.int()).abs()
    assert differences.max() <= 2
    assert (differences > 1).double().mean() < 1e-4
    assert (differences > 0).double().mean() < 0.01
    assert size != 32 or not differences.any()


def test_only_arrays_are_resized_in_batches(tmp_path: Path) -> None:
    images = ArraySet("x", noise(6), np.arange(6))
    sized = ModelSizeImages(images, [5, 1, 3], Preprocessing(40), batched=True)
    items = sized.__getitems__([2, 0])
    assert torch.equal(items[0]["image"], batch_to_model_size(images.images[3:4], Preprocessing(40))[0])
    assert [(item["label"].item(), item["index"].item()) for item in items] == [(3, 3), (5, 5)]
    plain = ModelSizeImages(images, [5, 1, 3], Preprocessing(40))
    assert torch.equal(plain.__getitems__([2])[0]["image"], plain[2]["image"])
    save_noise(tmp_path / "0.png", 0)
    folder = ModelSizeImages(FolderSet("y", tmp_path, ["0.png"]), [0], Preprocessing(16), batched=True)
    assert torch.equal(folder.__getitems__([0])[0]["image"], folder[0]["image"])
    wide = batch_to_model_size(noise(2, 20, 30), Preprocessing(16))
    assert torch.equal(wide[1], to_model_size(Image.fromarray(noise(2, 20, 30)[1]), Preprocessing(16)))


@pytest.mark.parametrize(("side", "size"), [(32, 224), (64, 32), (500, 224), (32, 32)])
def test_resizing_on_the_device_is_pils_but_for_one_in_255(side: int, size: int) -> None:
    pictures = [Image.fromarray(render("id", "tune", 1, i).image).resize((side, side)) for i in range(4)]
    expected = torch.stack([to_model_size(picture, Preprocessing(size)) for picture in pictures]).int()
    pixels = torch.stack([as_tensor(picture) for picture in pictures])
    off = (resize_on_device(pixels, Preprocessing(size)).int() - expected).abs()
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.01


def test_the_backbone_resizes_what_the_loader_left_small(microclip) -> None:
    images = ArraySet("x", noise(6, 20, 20), np.arange(6))
    raw = ModelSizeImages(images, range(6), Preprocessing(32), raw=True)
    pixels = torch.stack([item["image"] for item in raw.__getitems__([0, 3])])
    assert pixels.shape == (2, 3, 20, 20)
    found = microclip.encode_image(pixels)
    assert torch.equal(found.cls, microclip.encode_image(resize_on_device(pixels, Preprocessing(32))).cls)
    wide = ModelSizeImages(ArraySet("y", noise(2, 20, 30), None), range(2), Preprocessing(32), raw=True)
    assert wide.__getitems__([1])[0]["image"].shape == (3, 32, 32)  # not square: cropped as ever


KNOWN = [[0.6752, 0.751431, 0.515173, 0.822943, 0.981209], [0.744728, 0.81648, 0.437428, 0.361135, 0.108408]]
