"""Boxes as true masks in the mask study and the report; invalid files."""

import json

import numpy as np
import pytest
from PIL import Image
from running import clipos, done, refused

from clipos_lightning.data.boxes import BoxedSet, fill_boxes, read_boxes
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.data.image_sets import FolderSet
from clipos_lightning.data.scenes import ID_SHAPES, render
from clipos_lightning.errors import InputError
from clipos_lightning.reporting.report import mask_metrics

SHAPES = ("circle", "star", "heart")


@pytest.fixture
def boxed(tmp_path):
    """photos/{train,test}/SHAPE/N.png, wider than high, and test/boxes.csv with the boxes of the objects."""
    lines = ["path,x0,y0,x1,y1"]
    for split, stream, count in (("train", "train", 2), ("test", "report", 4)):
        for shape in SHAPES:
            for n in range(count):
                scene = render("id", stream, 3, ID_SHAPES.index(shape) + n * len(ID_SHAPES))
                path = tmp_path / "photos" / split / shape / f"{n}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                canvas = Image.new("RGB", (48, 32))
                canvas.paste(Image.fromarray(scene.image), (8, 0))
                canvas.save(path)
                rows, columns = np.nonzero(scene.mask > 0.5)
                if split == "test":
                    ends = (columns.min() + 8, rows.min(), columns.max() + 9, rows.max() + 1)
                    lines.append(f"{shape}/{n}.png,{','.join(map(str, ends))}")
    (tmp_path / "photos/test/boxes.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_filled_boxes():
    mask = fill_boxes([(1, 0, 3, 2), (2, 1, 9, 9)], 4, 3)
    assert mask.tolist() == [[0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]]
    assert not fill_boxes([], 4, 3).any()
    assert not fill_boxes([(-9, -9, -2, -1), (5, 0, 9, 3), (-3, 0, -1, 3)], 4, 3).any()


def test_the_mask_study_reads_boxes(boxed):
    options = ("--data.id", "folder:photos", "--data.root", boxed, "--data.num_workers", 0)
    run = clipos("benchmark", "masks", *options, "--out", boxed / "out")
    assert run.code == 0, run.err
    rows = json.loads((run.folder / "results.json").read_text())["rows"]
    for row in rows[:4]:
        assert row["maps"]["s"]["pointing"] > 0.7  # MicroCLIP finds these objects
        assert row["maps"]["s"]["iou"] > row["maps"]["clip"]["iou"]
    report = done(
        "test", "--config", "demo.yaml", *options, "--data.ood_sets", "[]", "--trainer.default_root_dir", boxed
    )
    assert set(report.report["masks"]) == {"delta", "s", "clip"}


def test_a_mask_study_of_boxes_that_cover_no_patch(boxed):
    (boxed / "photos/test/boxes.csv").write_text("path,x0,y0,x1,y1\nstar/0.png,20,4,21,5\n")
    options = ("--data.id", "folder:photos", "--data.root", boxed, "--data.num_workers", 0)
    refused(clipos("benchmark", "masks", *options, "--out", boxed / "out"), "covers half of a patch")


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("path,left\n", "the first line must be path,x0,y0,x1,y1"),
        ("path,x0,y0,x1,y1\nstar/9.png,0,0,1,1\n", "line 2: no image 'star/9.png'"),
        ("path,x0,y0,x1,y1\nstar/0.png,4,0,1,1\n", "line 2: the box is empty"),
        ("path,x0,y0,x1,y1\nstar/0.png,a,0,1,1\n", "not a CSV table"),
        ("path,x0,y0,x1,y1\nstar/0.png,0,0,inf,1\n", "line 2: x0, y0, x1 and y1 must be finite numbers"),
        ("path,x0,y0,x1,y1\nstar/0.png,1\n", "not a CSV table"),
    ],
)
def test_files_that_cannot_be(boxed, text, piece):
    (boxed / "photos/test/boxes.csv").write_text(text)
    options = ("--data.id", "folder:photos", "--data.root", boxed, "--data.num_workers", 0)
    refused(clipos("benchmark", "masks", *options, "--out", boxed / "out"), "boxes.csv", piece)


def test_boxes_of_classes_that_were_not_picked(boxed):
    path = boxed / "photos/test/boxes.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as spreadsheets write it
    (boxed / "two.txt").write_bytes(b"\xef\xbb\xbfcircle\nstar\n")
    (boxed / "names.yaml").write_bytes(b"\xef\xbb\xbfcircle: disc\n")
    files = {"class_list": str(boxed / "two.txt"), "class_names": str(boxed / "names.yaml")}
    data = FewShotOOD(str(boxed), "folder:photos", [], num_workers=0, **files)
    assert data.class_names == ["disc", "star"]
    assert isinstance(data.id_set.test, BoxedSet) and set(data.id_set.test.boxes) == set(data.id_set.test.keys)


def test_masks_without_any_true_patch_are_not_judged():
    table = {f"map/{kind}/{p}": np.zeros(3) for kind in ("s", "clip", "truth") for p in range(4)}
    assert mask_metrics(table, (2, 2)) == {}


def test_without_masks_the_study_says_what_it_takes(boxed):
    (boxed / "photos/test/boxes.csv").unlink()
    options = ("--data.id", "folder:photos", "--data.root", boxed, "--data.num_workers", 0)
    refused(clipos("benchmark", "masks", *options, "--out", boxed / "out"), "has no ground-truth masks", "boxes.csv")


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_turned_with_their_image(orientation, suffix, tmp_path):
    """A red block stays below its box, which is given in stored pixels."""
    pixels = np.zeros((20, 32, 3), dtype=np.uint8)
    pixels[2:9, 5:17] = (255, 0, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / f"a/0.{suffix}", exif=exif)
    plain = FolderSet("x", tmp_path, [f"a/0.{suffix}"], np.zeros(1, dtype=np.int64))
    sample = BoxedSet(plain, {f"a/0.{suffix}": [(5, 2, 17, 9)]}).read(0)
    assert sample.image.size == ((32, 20) if orientation < 5 else (20, 32))
    np.testing.assert_array_equal(np.asarray(sample.image)[..., 0] > 127, sample.mask > 0.5)


def test_a_box_file_that_cannot_be_opened(tmp_path):
    (tmp_path / "boxes.csv").mkdir()
    with pytest.raises(InputError) as error:
        read_boxes(tmp_path / "boxes.csv", set())
    assert str(error.value) == f"cannot read {tmp_path / 'boxes.csv'}: Is a directory"
