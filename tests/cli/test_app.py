"""``clipos app``: what the page shows equals ``clipos predict``, and errors are one line; without Gradio."""

import csv
import importlib.util
import socket
from dataclasses import replace
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import PHOTOS, clipos, inside, refused, save_classes, save_noise, save_scene

from clipos_lightning import ClipOS, ContextOptions, Detector, InputError
from clipos_lightning.cli.app import app_parser, choose_port, launch_page, prepare_gradio
from clipos_lightning.cli.app_page import AppPage, ImageRows
from clipos_lightning.cli.app_results import Upload, as_recall, csv_text, decide_again, predict_uploads
from clipos_lightning.data.decoding import Decoding
from clipos_lightning.detector.row_readers import ROW_COLUMNS

QUIET = ("--num_workers", 0, "--device", "cpu")
TURNED = 6  # EXIF orientation


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated detector with a green background, and images of many kinds, one broken."""
    root = tmp_path_factory.mktemp("app")
    model = ClipOS(sorted(PHOTOS), backbone="MicroCLIP", score="energy", context=ContextOptions(words="a photo of a"))
    replace(Detector.of(model), background="#20c020").save(root / "plain.safetensors")
    save_classes(root / "more", 9)
    with inside(root):
        words = ("--recall", 0.9, "--out", "detector.safetensors", *QUIET)
        assert clipos("calibrate", "plain.safetensors", "more", *words).code == 0
    (root / "images").mkdir()
    save_scene(root / "images/star.png", "star", 2)
    save_noise(root / "images/noise.png", 3, (90, 40))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 44, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(root / "images/clear.png")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 256).save(root / "images/deep.png")
    exif = Image.Exif()
    exif[0x0112] = TURNED
    Image.fromarray(pixels[..., :3]).save(root / "images/turned.jpg", exif=exif)
    (root / "images/broken.png").write_bytes((root / "images/noise.png").read_bytes()[:200])
    return root


@pytest.fixture
def page(place: Path, tmp_path: Path) -> AppPage:
    detector = Detector.load(place / "detector.safetensors", "cpu")
    received = tmp_path.parent  # holds the images of all tests
    return AppPage(detector, "detector.safetensors", Decoding(detector.background), received, Event())


def copies(place: Path, folder: Path) -> list[dict[str, Any]]:
    """The images as Gradio gives them: copies under other names."""
    files = []
    for i, path in enumerate(sorted((place / "images").iterdir())):
        copy = folder / f"upload{i}{path.suffix}"
        copy.write_bytes(path.read_bytes())
        files.append({"path": str(copy), "orig_name": path.name, "url": None, "size": None})
    return files


def predicted(place: Path, detector: str) -> str:
    """The CSV of clipos predict for the images."""
    with inside(place / "images"):
        run = clipos("predict", f"../{detector}", *sorted(p.name for p in Path().iterdir()), "--format", "csv", *QUIET)
    assert run.code == 0, run.err
    return run.out


def test_a_decision_is_that_of_predict_exactly(place: Path, tmp_path: Path, page: AppPage) -> None:
    rows = {row["path"]: row for row in csv.DictReader(predicted(place, "detector.safetensors").splitlines())}
    labels = set()
    for file in copies(place, tmp_path):
        row = rows[file["orig_name"]]
        explanation, decision, maps = page.show_image(file, 90)
        if row["error"]:
            assert explanation is None and maps == ""
            assert row["error"].startswith("cannot read image broken.png: ") and row["error"] in decision
            continue
        assert explanation is not None
        text = explanation.text
        numbers = (f"{text.probability:.6g}", f"{text.score:.9g}", f"{text.threshold:.9g}")
        assert numbers == (row["probability"], row["score"], row["threshold"])
        assert f'<p class="label">{row["decision"]}</p>' in decision and f"energy {text.score:.4g}"[:12] in decision
        assert maps.count("<img ") == 5 and f"the image {file['orig_name']}, most probable class" in maps
        labels.add(row["decision"])
    assert "unknown" in labels and labels & set(PHOTOS)


def test_the_table_and_its_csv_are_those_of_predict(place: Path, tmp_path: Path, page: AppPage) -> None:
    steps: list[Any] = []
    files = copies(place, tmp_path)
    notes = {"path": str(tmp_path / "notes.txt"), "orig_name": "notes.txt"}
    known = page.show_images(files[:2], [*files[2:], notes], ImageRows(), lambda *at, **_: steps.append(at[0]))
    assert steps[-1] == (6, 6)
    counts, table, path = page.table(known, 90)
    text = predicted(place, "detector.safetensors")
    assert path is not None and Path(path).read_text() == text
    found = list(csv.DictReader(text.splitlines()))
    assert [row[:3] for row in table] == [[row["path"], row["decision"] or "unreadable", row["class"]] for row in found]
    unknown = sum(row["decision"] == "unknown" for row in found)
    assert f"6 images, {unknown} unknown, 1 unreadable; left out 1 file with other suffixes (.txt)" in counts
    broken = next(row for row in table if row[0] == "broken.png")
    assert broken[1:5] == ["unreadable", "", None, None] and broken[5] and "upload" not in broken[5]


def test_a_moved_slider_decides_as_a_calibration_for_that_recall(
    place: Path, tmp_path: Path, page: AppPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    with inside(place):
        words = ("--recall", 0.55, "--out", str(tmp_path / "other.safetensors"), *QUIET)
        assert clipos("calibrate", "plain.safetensors", "more", *words).code == 0
    (place / "other.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    files, expected = copies(place, tmp_path), predicted(place, "other.safetensors")
    assert expected != predicted(place, "detector.safetensors")
    known = page.show_images(files, None, ImageRows(), lambda *_, **__: None)
    monkeypatch.delattr(type(page.detector.backbone), "encode_image")  # no image is encoded any more
    path = page.table(known, 55)[2]
    assert path is not None and Path(path).read_text() == expected


def test_known_images_are_not_read_again(place: Path, tmp_path: Path, page: AppPage) -> None:
    files = copies(place, tmp_path)
    known = page.show_images(files, None, ImageRows(), lambda *_, **__: None)
    for file in files:
        Path(file["path"]).unlink()
    fewer = page.show_images(files[1:3], None, known, lambda *_, **__: None)
    assert list(fewer.by_path) == [file["path"] for file in files[1:3]]
    assert all(fewer.by_path[path] == known.by_path[path] for path in fewer.by_path)
    assert page.table(ImageRows(), 90)[1:] == ([], None)


def test_an_ended_command_stops_the_images(place: Path, tmp_path: Path, page: AppPage) -> None:
    page.stopped.set()
    with pytest.raises(InputError, match="clipos app was ended"):
        page.show_images(copies(place, tmp_path), None, ImageRows(), lambda *_, **__: None)


@pytest.mark.badinput
def test_files_that_are_no_images_or_too_large_say_so(place: Path, tmp_path: Path, page: AppPage) -> None:
    (tmp_path / "1.png").write_bytes(b"<b>no image</b>")
    shown = page.show_image({"path": str(tmp_path / "1.png"), "orig_name": "<i>my</i>.png"}, 90)
    assert shown[0] is None and "cannot read image &lt;i&gt;my&lt;/i&gt;.png: unknown image format" in shown[1]
    page.decoding = Decoding(max_pixels=100)
    file = {"path": str(place / "images/star.png"), "orig_name": None}
    assert "cannot read image star.png" in page.show_image(file, 90)[1]
    assert "more than the limit of 100" in page.show_image(file, 90)[1]
    rows = list(predict_uploads(page.detector, [Upload(file["path"], "a.png")], 100, lambda done: None))
    assert rows[0]["error"].startswith("cannot read image a.png: ") and rows[0]["decision"] is None
    assert "Give an image" in page.show_image(None, 90)[1]


def test_names_are_text_and_not_html(place: Path, tmp_path: Path, page: AppPage) -> None:
    page.detector.class_names = ["<s>a</s>", "b", "unknown"]
    file = {"path": str(place / "images/star.png"), "orig_name": 'x" onload="y.png'}
    _, decision, maps = page.show_image(file, 90)
    assert "<s>" not in decision + maps and "&lt;s&gt;a&lt;/s&gt;" in decision and 'onload="y' not in maps
    file["path"] = str(place / "images/noise.png")
    assert '<p class="label">(unknown)</p>' in page.show_image(file, 90)[1]  # a class is called unknown


def test_without_recalls_the_own_thresholds_count(place: Path, page: AppPage) -> None:
    file = {"path": str(place / "images/star.png"), "orig_name": "star.png"}
    assert "at least 90 %" in page.note(90) and "27 calibration images" in page.note(90)
    by_class = replace(page, detector=replace(page.detector, class_thresholds=[1e9] * 3))
    assert by_class.recalls is None and "clipos calibrate detector.safetensors IMAGES" in by_class.note(None)
    assert '<p class="label">unknown</p>' in by_class.show_image(file, None)[1]
    plain = replace(page, detector=replace(page.detector, threshold=None, calibration={}))
    assert "every image gets a class" in plain.note(None)
    shown = plain.show_image(file, None)
    assert '<p class="label">star</p>' in shown[1] and "no threshold" not in plain.table(ImageRows(), None)[0]
    known = plain.show_images([file], None, ImageRows(), lambda *_, **__: None)
    assert "1 images, no threshold, 0 unreadable" in plain.table(known, None)[0]


def test_rows_without_a_new_threshold_stay_as_they_are(page: AppPage) -> None:
    rows = [dict(zip(ROW_COLUMNS, ("a.png", "star", 0.5, 1.0, None, "star", 0.5), strict=True))]
    assert decide_again(page.detector, rows, None) == rows
    assert decide_again(page.detector, rows, 2.0)[0]["decision"] == "unknown"
    assert csv_text(rows).splitlines()[1] == "a.png,star,0.5,1,,star,0.5"


# ---- the command


@pytest.fixture
def with_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


@pytest.mark.badinput
def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    refused(clipos("app", "detector.safetensors"), "app: the package gradio is missing", "'clipos-lightning[app]'")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (("gone.safetensors",), "no detector 'gone.safetensors'"),
        (("d.safetensors", "--port", 0), "--port is 0: it must be from 1 to 65535"),
        (("d.safetensors", "--port", 65536), "it must be from 1 to 65535"),
        (("d.safetensors", "--port", "x"), "--port: invalid int value"),
        (("d.safetensors", "--host", "192.0.2.1", "--port", 7860), "--port 7860: cannot assign requested address"),
        (("d.safetensors", "--host", "no host"), "give an address of this machine"),
        ((), "the following arguments are required: FILE"),
    ],
)
def test_one_line_for_a_wrong_option(words: tuple[Any, ...], piece: str, with_gradio: None) -> None:
    refused(clipos("app", *words), piece)


@pytest.mark.badinput
def test_a_taken_port(with_gradio: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(clipos("app", "d.safetensors", "--port", port), f"--port {port}: address already in use: give another")
    assert choose_port("127.0.0.1", port) == port


def test_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr("clipos_lightning.cli.app.PORT", port)
        assert port < choose_port("127.0.0.1", None) < port + 100


def test_gradio_records_and_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"NO_PROXY": "intra.net"}
    monkeypatch.setattr("os.environ", environment)
    prepare_gradio("/scratch", "127.0.0.1")
    assert environment["GRADIO_ANALYTICS_ENABLED"] == environment["GRADIO_RUN_HISTORY"] == "False"
    assert environment["GRADIO_TEMP_DIR"] == "/scratch"
    assert environment["no_proxy"].split(",")[:2] == ["intra.net", "127.0.0.1"]


def test_only_files_that_the_page_received_are_read(tmp_path: Path, page: AppPage) -> None:
    (tmp_path / "link.png").symlink_to(__file__)
    for path in (__file__, page.scratch / "../star.png", tmp_path / "link.png", None):
        explanation, decision, maps = page.show_image({"path": path and str(path)}, None)
        assert explanation is None and maps == "" and "was not given on the page" in decision
        with pytest.raises(InputError, match="was not given on the page"):
            page.show_images([{"path": path and str(path)}], None, ImageRows(), lambda *_, **__: None)


def test_equal_files_have_a_row_each(place: Path, tmp_path: Path, page: AppPage) -> None:
    file = copies(place, tmp_path)[0]
    known = page.show_images([file, file], None, ImageRows(), lambda *_, **__: None)
    assert len(page.table(known, None)[1]) == 2 and len(known.by_path) == 1


def test_a_record_is_text_and_not_html(page: AppPage) -> None:
    for point in ({"n": "<b>1</b>", "guaranteed": 1}, "words", None, {}):
        page.detector.calibration["point"] = point
        assert "<b>1" not in page.note(90.0)


@pytest.mark.parametrize("thousandths", range(500, 1000, 7))
def test_the_slider_starts_at_the_recall_of_the_file(thousandths: int) -> None:
    recall = thousandths / 1000
    assert as_recall(round(100 * recall, 8)) == recall


def test_a_port_that_is_taken_meanwhile(page: AppPage) -> None:
    def launch(**_: Any) -> None:
        raise OSError("Cannot find empty port in range: 7860-7860")

    given = app_parser().parse_args(["detector.safetensors"])
    with pytest.raises(InputError, match="port 7860 has just been taken"):
        launch_page(SimpleNamespace(launch=launch), given, 7860, None)
