"""`clipos explain`: the figure shows the detector's results, as pixels or vectors; errors are one line."""

import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from running import clipos, refused, save_noise, save_scene

from clipos_lightning.cli.explain import explain_images
from clipos_lightning.detector.detector import Detector
from clipos_lightning.evaluation.heads import Head
from clipos_lightning.evaluation.scores import ScoreOptions
from clipos_lightning.method.mask import MaskOptions
from clipos_lightning.reporting.captions import format_probability
from clipos_lightning.reporting.paper_figure import Explanation, paper_figure, shorten

NAMES = ["circle", "star", "heart"]


@pytest.fixture(scope="module")
def place(microclip, tmp_path_factory):
    """A folder with a detector, a star, and a picture of noise that is not square."""
    folder = tmp_path_factory.mktemp("explain")
    text = microclip.encode_text([f"a photo of a {name}." for name in NAMES])
    constants = (float(microclip.scale), ["energy_region"], microclip.surgery, MaskOptions(), ScoreOptions())
    Detector(microclip, Head("", text, text, *constants), NAMES, threshold=18.0, temperature=2.0).save(
        folder / "detector.safetensors"
    )
    save_scene(folder / "star.png", "star", 2)
    save_noise(folder / "noise $1.png", 3)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    return place


def texts_of(path):
    return [e.text for e in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]


def test_a_figure_of_several_images(inside):
    run = clipos("explain", "detector.safetensors", "star.png", "noise $1.png", "--out", "two.svg")
    assert run.code == 0, run.err
    detector = Detector.load("detector.safetensors", "cpu")
    star, noise = detector(["star.png", "noise $1.png"])
    assert run.lines[0].startswith(
        f"star.png: star ({100 * star.probability:.1f} %); energy_region {star.score:.4g} ≥ 18"
    )
    assert run.lines[1].endswith("→ unknown") and noise.label == "unknown" and run.lines[2] == "figure: two.svg"
    texts = texts_of("two.svg")  # text stays text
    assert {*NAMES, "star.png", "noise $1.png", "for “star”", "→ star", "→ unknown"} <= set(texts)
    assert f"energy_region {noise.score:.4g} < 18" in texts and format_probability(star.probability) in texts
    again = clipos("explain", "detector.safetensors", "star.png", "noise $1.png", "--out", "again.svg")
    assert again.code == 0 and (inside / "again.svg").read_bytes() == (inside / "two.svg").read_bytes()


def test_a_broken_image_is_left_out(inside):
    words = ("explain", "detector.safetensors", "star.png", "broken.png", "noise $1.png", "--out")
    run = clipos(*words, "others.svg")
    assert run.code == 0, run.err
    reason = "cannot read image broken.png: unknown image format. Repair it, or remove it from the folder"
    assert run.err == f"left out: {reason}\n"
    assert [line.partition(":")[0] for line in run.lines] == ["star.png", "noise $1.png", "figure"]
    assert {"star.png", "noise $1.png"} <= set(texts_of("others.svg")) and "broken.png" not in texts_of("others.svg")
    refused(clipos(*words[:2], "broken.png", "--out", "x.svg"), f"explain: {reason}")
    refused(clipos(*words[:2], "broken.png", "broken.png", "--out", "x.svg"), "none of 2 images can be read: ", reason)
    refused(clipos(*words[:3], "gone.png", "--out", "x.svg"), "explain: no file gone.png")
    assert not (inside / "x.svg").exists()


def test_maps_of_another_class_and_other_formats(inside):
    run = clipos("explain", "detector.safetensors", "star.png", "--class", "heart", "--top", 2)
    assert run.code == 0, run.err
    with Image.open("explanation.png") as picture:
        assert picture.width == 2130 and picture.height > 400
    assert clipos("explain", "detector.safetensors", "star.png", "--out", "one.pdf").code == 0
    assert (inside / "one.pdf").read_bytes().startswith(b"%PDF")
    detector = Detector.load("detector.safetensors", "cpu")
    with Image.open("star.png") as picture:
        own, other = (explain_images(detector, [picture], ["star.png"], label, 2)[0] for label in (None, 2))
    seen, maps = detector.maps(detector.prepare("star.png"))
    assert own.shown == "star" and other.shown == "heart" and own.classes == other.classes
    assert len(own.classes) == 2 and own.classes[0][1] == pytest.approx(float(seen.probability))
    assert own.score == other.score == pytest.approx(float(seen.score))
    for name in ("surgery", "clip", "mask"):
        assert np.array_equal(getattr(own, name).ravel(), getattr(maps, name)[0].numpy())
        assert not np.array_equal(getattr(own, name), getattr(other, name))


def test_a_detector_without_a_threshold_and_long_names():
    square = np.zeros((4, 4))
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    classes = [("a very long name of a class", 0.996), ("b", 0.004)]
    explanation = Explanation("x" * 40, image, square, square, square > 0, "b", classes, "energy", -3.0)
    assert explanation.text.accepted and explanation.text.decision == ("energy -3", "no threshold: not calibrated")
    bars = paper_figure([explanation]).axes[5]
    assert [label.get_text() for label in bars.get_yticklabels()] == [shorten(name, 16) for name, _ in classes]
    assert [text.get_text() for text in bars.texts[:2]] == ["> 99 %", "< 1 %"]
    assert len(shorten("x" * 40, 22)) == 22


def test_the_threshold_is_that_of_the_predicted_class(inside):
    detector = Detector.load("detector.safetensors", "cpu")
    detector.class_thresholds = [1.0, 99.0, 3.0]  # a star is rejected
    with Image.open("star.png") as picture:
        (explanation,) = explain_images(detector, [picture], ["star.png"], 0)
    assert (explanation.threshold, explanation.text.accepted) == (99.0, False)
    assert detector("star.png").label == "unknown"


def test_a_detector_of_one_class():
    square = np.zeros((4, 4))
    explanation = Explanation("a.png", np.zeros((8, 8, 3), np.uint8), square, square, square > 0, "cat", [("cat", 1.0)],
                              "mcm", 0.2, 0.25)  # fmt: skip
    bars = paper_figure([explanation]).axes[5]
    assert [label.get_text() for label in bars.get_yticklabels()] == ["cat"]
    assert bars.texts[-1].get_text() == "mcm 0.2 < 0.25\n→ unknown"


def test_the_map_of_a_detector_of_one_class_is_the_distance_to_the_known_images():
    square = np.zeros((4, 4))
    one = Explanation("a.png", np.zeros((8, 8, 3), np.uint8), square, square, square > 0, "cat", [("cat", 1.0)], "knn",
                      0.2, 0.25, square)  # fmt: skip
    for explanation, title, ticks in (
        (one, "distance to known", [0, 0.25, 0.5]),
        (replace(one, distance=None), "$\\Delta = S - S_{clip}$", [-1, 0, 1]),
    ):
        axes = paper_figure([explanation]).axes
        assert axes[3].get_title() == title and axes[7].get_xticks().tolist() == ticks


def test_what_cannot_be_is_said_in_one_line(inside):
    file = "detector.safetensors"
    (inside / "there.png").touch()
    for words, pieces in [
        ((file, "star.png", "--class", "hart", "--out", "x.png"), ("--class 'hart'", "heart")),
        ((file, "star.png", "--out", "x.gif"), ("x.gif", ".png, .pdf or .svg")),
        ((file, "star.png", "--out", "there.png"), ("there.png exists",)),
        ((file, "star.png", "--out", "no/x.png"), ("no folder",)),
        ((file, "broken.png", "--out", "x.png"), ("broken.png",)),
        ((file, "missing.png", "--out", "x.png"), ("missing.png",)),
        ((file, "star.png", "--top", 0, "--out", "x.png"), ("--top is 0",)),
        ((file, *["star.png"] * 13, "--out", "x.png"), ("13 images", "at most 12")),
        (("star.png", "star.png", "--out", "x.png"), ("star.png",)),
        ((file,), ("clipos explain --help",)),
    ]:
        refused(clipos("explain", *words), *pieces)
    assert not (inside / "x.png").exists()
