"""Predict: images, rows, and a killed run that resumes without losing or repeating a row."""

import csv
import glob
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import PHOTOS, Run, clipos, inside, refused, save_classes, save_detector, save_noise

from clipos_lightning import Detector
from clipos_lightning.cli import inference, predict
from clipos_lightning.data.image_files import list_images
from clipos_lightning.detector import row_files
from clipos_lightning.detector.image_stream import check_paths, count_paths, match_pattern, stream_paths
from clipos_lightning.detector.row_files import LINES, PathCounts, complete_size, table_line
from clipos_lightning.detector.row_readers import ROW_COLUMNS
from clipos_lightning.reporting.captions import DecisionText, caption_strip
from clipos_lightning.reporting.heatmaps import heatmap_name
from clipos_lightning.utils import progress

QUICK = ("--num_workers", 0, "--batch_size", 4)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained detector with a threshold, images/ with two broken ones."""
    root = tmp_path_factory.mktemp("home")
    save_detector(root / "detector.safetensors")
    save_classes(root / "images", 5)
    for i in range(5):
        save_noise(root / "images" / f"noise-{i}.png", i)
    (root / "images/broken.png").write_bytes(b"not an image")
    (root / "images/star/cut.png").write_bytes((root / "images/star/0.png").read_bytes()[:200])
    return root


@pytest.fixture(autouse=True)
def at_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("detector.safetensors", "images"):
        (tmp_path / name).symlink_to(home / name)
    monkeypatch.chdir(tmp_path)


def run_predict(*words: Any) -> Run:
    run = clipos("predict", "detector.safetensors", *words, *QUICK)
    assert run.code == 0, run.err
    return run


def rows_in(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


# ---- which images


def test_folders_are_walked_in_the_order_of_whole_paths(tmp_path: Path) -> None:
    names = ["a/z.png", "a-b.png", "a.png", "a0/1.jpg", "b/c/d.PNG", "b/c.png", ".hidden/x.png", "b/.x.png", "b/n.txt"]
    for name in names:
        (tmp_path / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / name).touch()
    (tmp_path / "tree/b/loop").symlink_to(tmp_path / "tree")
    (tmp_path / "tree/a0/b").symlink_to(tmp_path / "tree/b")  # into each other
    (tmp_path / "tree/b/a0").symlink_to(tmp_path / "tree/a0")
    expected = [f"tree/{key}" for key in list_images(tmp_path / "tree")]
    assert expected == [
        *("tree/a-b.png", "tree/a.png", "tree/a/z.png", "tree/a0/1.jpg", "tree/a0/b/c.png", "tree/a0/b/c/d.PNG"),
        *("tree/b/a0/1.jpg", "tree/b/c.png", "tree/b/c/d.PNG"),
    ]
    assert list(stream_paths(["tree"])) == expected
    assert count_paths(["tree", "tree/a.png"]) == 10
    assert list(stream_paths(["tree/"])) == expected
    with inside(tmp_path / "tree"):
        assert list(stream_paths(["."])) == [path.removeprefix("tree/") for path in expected]


def test_a_folder_of_many_names_is_sorted(tmp_path: Path) -> None:
    names = [f"{n} ü\n.png" for n in np.random.default_rng(0).permutation(500)]
    (tmp_path / "many").mkdir()
    for name in names:
        (tmp_path / "many" / name).touch()
    assert list(stream_paths(["many"])) == [f"many/{name}" for name in sorted(names)]


def test_patterns_and_lists() -> None:
    stars = sorted(map(str, Path("images").glob("star/*.png")))
    assert list(stream_paths(["images/st*/*.png"])) == stars
    assert len(list(stream_paths(["images/**/*.png"]))) == 22
    (home := Path("copy")).symlink_to(Path("images").resolve())
    Path(home, "notes.txt").write_text("no image")
    every = list(stream_paths(["copy/**"]))
    assert sorted(every) == sorted(stream_paths(["copy"])) and len(set(every)) == len(every)
    Path(home, "notes.txt").unlink()
    refused(clipos("predict", "detector.safetensors", "images/**/star"), "no file matches")
    assert list(stream_paths(["images/sta?"])) == list(stream_paths(["images/star"])) == stars
    Path("a[1].png").touch()
    assert list(stream_paths(["a[1].png"])) == ["a[1].png"]  # a file's own name comes before a pattern


def test_a_recursive_pattern_ends_in_loops_and_finds_each_image_once() -> None:
    for pattern in ("images/**/*.png", "**/star/*.png", "i*/**/[0-2].png"):
        assert match_pattern(pattern) == sorted(glob.glob(pattern, recursive=True))
    Path("g/in").mkdir(parents=True)
    for name in ("g/0.png", "g/in/1.png", "g/in/notes.txt"):
        Path(name).touch()
    for name in ("g/self", "g/in/up", "g/again"):
        Path(name).symlink_to(Path("g").resolve())
    Path("g/loop.png").symlink_to(Path("g/loop.png").absolute())
    left_out = Counter[str]()
    assert match_pattern("g/**/*.png", left_out) == ["g/0.png", "g/in/1.png", "g/loop.png"] and not left_out
    assert match_pattern("g/**", left_out) == list(stream_paths(["g"])) and left_out == {".txt": 1}
    assert match_pattern("**/in/*.png") == match_pattern("g/**/in/**/1.*") == ["g/in/1.png"]


def test_images_above_the_limit_have_a_row() -> None:
    save_noise(Path("wide.png"), 0, (50, 40))
    (row,) = rows_in(run_predict("wide.png", "--max_pixels", 1999).out)
    assert "50 x 40 pixels, more than the limit of 1,999" in row["error"] and "--max_pixels" in row["error"]
    assert not rows_in(run_predict("wide.png", "--max_pixels", 2000).out)[0]["error"]
    refused(clipos("predict", "detector.safetensors", "wide.png", "--max_pixels", 0), "--max_pixels is 0")


def test_a_list_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = b"images/star/0.png\r\n\nimages/heart\nnowhere/*.png\nimages/caf\xe9.png\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines)))
    rows = rows_in(run_predict("-").out)
    expected = ["images/star/0.png", *(f"images/heart/{i}.png" for i in range(5)), "nowhere/*.png"]
    assert [row["path"] for row in rows][:-1] == expected
    assert os.fsencode(rows[-1]["path"]) == b"images/caf\xe9.png"
    assert [bool(row["error"]) for row in rows] == [False] * 6 + [True] * 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert run_predict("-").out == ",".join(ROW_COLUMNS) + "\n"


def test_paths_are_taken_as_they_are_needed(home: Path) -> None:
    """An endless list gives its first rows."""
    detector = Detector.load(home / "detector.safetensors", "cpu")
    taken = []

    def endless() -> Iterator[str]:
        while True:
            taken.append(1)
            yield "images/star/0.png"

    rows = predict.predict([detector], endless(), batch_size=4)
    assert [len(next(rows)) for _ in range(3)] == [4, 4, 4]
    rows.close()  # type: ignore[attr-defined]
    assert len(taken) <= 24


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("words", "pieces"),
    [
        ("nowhere", ["no file or folder nowhere"]),
        ("images/*.jpg", ["no file matches images/*.jpg"]),
        ("empty", ["no image below empty"]),
        ("- images -", ["twice"]),
        ("images --resume", ["--resume", "--out"]),
        ("images --out rows.csv --format table", ["table"]),
        ("images --format xml", ["xml"]),
        ("images --out rows.xlsx", ["rows.xlsx", ".csv or .jsonl", "--format"]),
        ("images --out nowhere/rows.csv", ["nowhere"]),
        ("images --explain images", ["--explain images"]),
        ("images --num_workers -1", ["--num_workers is -1"]),
        ("images --out old.csv", ["old.csv exists", "--resume"]),
        ("images --out stopped.csv", ["stopped.csv.partial", "--resume"]),
        ("images --out old.csv --resume", ["old.csv", "other columns"]),
        ("images --out old.jsonl --resume", ["line 1 of old.jsonl"]),
    ],
)
def test_wrong_words(words: str, pieces: list[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("old.csv", "stopped.csv.partial", "old.jsonl"):
        (tmp_path / name).write_text("mine,too\n")
    refused(clipos("predict", "detector.safetensors", *words.split()), *pieces)
    left = {p.name for p in tmp_path.iterdir()}
    assert left == {"empty", "old.csv", "stopped.csv.partial", "old.jsonl", "detector.safetensors", "images"}
    assert (tmp_path / "old.csv").read_text() == "mine,too\n"


# ---- which rows


def test_every_image_has_its_row_whatever_the_format(tmp_path: Path) -> None:
    run = run_predict("images")
    rows = rows_in(run.out)
    assert tuple(rows[0]) == ROW_COLUMNS
    assert [row["path"] for row in rows] == list(stream_paths(["images"]))
    unknown = sum(row["decision"] == "unknown" for row in rows)
    assert run.err == f"22 images, {unknown} unknown, 2 unreadable\n" and 0 < unknown < 20
    for row in rows:
        if row["error"]:
            assert [row[c] for c in ROW_COLUMNS if c not in ("path", "error")] == [""] * 5
        else:
            assert row["decision"] == (row["class"] if float(row["score"]) >= 12 else "unknown")
            assert row["threshold"] == "12"
    run_predict("images", "--out", "rows.jsonl")
    for row, line in zip(rows, (tmp_path / "rows.jsonl").read_text().splitlines(), strict=True):
        found = json.loads(line)
        assert all(found[c] == (float(row[c]) if row[c] else None) for c in ("probability", "score", "threshold"))
        assert all(found[c] == (row[c] or None) for c in ("path", "class", "error", "decision"))
    assert run_predict("images", "--format", "jsonl").out == (tmp_path / "rows.jsonl").read_text()
    run_predict("images", "--out", "rows.txt", "--format", "csv")
    assert (tmp_path / "rows.txt").read_text() == run.out


def test_workers_keep_the_order() -> None:
    run = clipos("predict", "detector.safetensors", "images", "--num_workers", 2, "--batch_size", 4)
    assert run.out == run_predict("images").out


def test_a_table_for_the_eye() -> None:
    lines = run_predict("images", "--format", "table").lines
    assert lines[0].split() == ["decision", "class", "prob.", "score", "path"]
    broken = [line for line in lines if line.startswith("unreadable")]
    assert len(lines) == 23 and sum(line.endswith(".png") for line in lines) == 20
    assert broken[0].endswith("images/broken.png (unknown image format)")
    assert "images/star/cut.png (" in broken[1] and broken[1].count("cut.png") == 1
    starts = {line.index("images/") for line in lines[1:]}
    assert len(starts) == 1
    line = table_line(8, color=True)
    row = dict(zip(ROW_COLUMNS, ("a.png", "star", 0.5, 1.0, None, "unknown", 2.0), strict=True))
    assert line(row).startswith("\x1b[33munknown \x1b[0m  star ")
    broken = row | {"error": "cannot read image a.png: no pixels at all. Repair it"}
    whole = table_line(8, color=False)(broken).rstrip("\n")
    assert whole.endswith("a.png (no pixels at all)")
    for columns, end in ((len(whole), "(no pixels at all)"), (len(whole) - 1, "(no pixels at a…)"), (55, "  a.png")):
        shortened = table_line(8, color=True, columns=columns)(broken)
        assert shortened.endswith(f"{end}\x1b[0m\n") and len(shortened) <= columns + len("\x1b[31m\x1b[0m\n")


def test_the_table_is_as_wide_as_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "76")
    monkeypatch.setattr(sys, "stdout", out := Terminal())
    predict.print_rows(iter([[dict.fromkeys(ROW_COLUMNS) | {"path": "a.png", "error": "x" * 99}]]), "table", ["star"])
    assert out.getvalue().splitlines()[1].endswith("xxx…)\x1b[0m")
    assert len(out.getvalue().splitlines()[1]) == 76 + len("\x1b[31m\x1b[0m")


def test_files_of_other_kinds_are_counted(tmp_path: Path) -> None:
    for name in ("mixed/a.txt", "mixed/deep/b.txt", "mixed/c.mov", "mixed/.hidden.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    save_noise(tmp_path / "mixed/0.png", 0)
    note = "note: left out 3 files with other suffixes (.mov, .txt)"
    for words in (
        ("mixed",),
        ("mixed/**",),
        ("mixed", "--out", "rows.csv"),
        ("mixed", "--out", "rows.csv", "--resume"),
    ):
        run = run_predict(*words)
        assert run.err.splitlines()[1:] == [note] and "left out" not in run.out
    assert "note:" not in run_predict("mixed/0.png", "images").err
    (tmp_path / "mixed/0.png").unlink()
    refused(clipos("predict", "detector.safetensors", "mixed"), "no image below mixed; left out 3 files", ".mov, .txt")


def test_progress_is_printed_line_by_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.002)
    lines = run_predict("images", "--out", "rows.csv").err.splitlines()
    assert lines.pop().startswith("22 images, ")
    assert lines and all(re.match(r"predict: \d+ of 22 images \(\d+ %\)", line) for line in lines), lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.jsonl", '{"mine": 1}'),
        ("mine.jsonl", "some notes"),
        ("mine.csv", "name,age"),
        ("mine.csv", "path,class,probability,score,error,decision,threshold,more"),
        ("mine.csv", '"quoted\nname'),
    ],
)
def test_resuming_keeps_a_file_of_another_kind(name: str, text: str, home: Path, tmp_path: Path) -> None:
    """Text without a line break could be taken for half a row, and dropped."""
    mine = tmp_path / name
    mine.write_text(text)
    refused(
        clipos("predict", "detector.safetensors", "images", "--out", mine, "--resume", *QUICK), "mine", "another --out"
    )
    assert mine.read_text() == text and not mine.with_name(f"{name}.partial").exists()


@pytest.mark.parametrize(("name", "text"), [("a.csv", "path,class,prob"), ("a.jsonl", '{"path": "x'), ("b.csv", "")])
def test_half_of_our_own_first_line_is_dropped(name: str, text: str, home: Path, tmp_path: Path) -> None:
    half = tmp_path / name
    half.write_text(text)
    run = clipos("predict", "detector.safetensors", "images", "--out", half, "--resume", *QUICK)
    assert run.code == 0, run.err
    assert len(half.read_text().splitlines()) >= 6 and text not in half.read_text().splitlines()[-1:]


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_thresholds_of_classes_are_resumed(form: str, home: Path, tmp_path: Path) -> None:
    detector = Detector.load(home / "detector.safetensors", "cpu")
    detector.class_thresholds = [5.0, 12.0, 20.0]
    detector.save(tmp_path / "classes.safetensors")
    words = ("predict", "classes.safetensors", "images", *QUICK, "--out", f"rows.{form}")
    assert clipos(*words).code == 0
    lines = Path(f"rows.{form}").read_text().splitlines(keepends=True)
    Path(f"rows.{form}").write_text("".join(lines[:9]))
    run = clipos(*words, "--resume")
    assert run.code == 0 and Path(f"rows.{form}").read_text() == "".join(lines), run.err
    refused(clipos("predict", "detector.safetensors", *words[2:], "--resume"), "another detector")


def test_a_detector_without_a_threshold_says_so_once(home: Path, tmp_path: Path) -> None:
    detector = Detector.load(home / "detector.safetensors", "cpu")
    detector.threshold = None
    detector.save(tmp_path / "a detector.safetensors")
    run = clipos("predict", "a detector.safetensors", "images", *QUICK)
    assert run.code == 0 and {row["decision"] for row in rows_in(run.out)} <= {*PHOTOS, ""}
    calibrate = "calibrate sets one: clipos calibrate 'a detector.safetensors' IMAGES"
    assert run.err.splitlines() == [
        f"note: no threshold: every image gets a class ({calibrate})",
        "22 images, no threshold, 2 unreadable",
    ]


def test_heat_maps_lie_at_their_images_paths(tmp_path: Path) -> None:
    run = run_predict("images/star", "images/broken.png", "--explain", "maps")
    found = sorted(p.relative_to("maps").as_posix() for p in Path("maps").rglob("*.png"))
    assert found == [f"images/star/{i}.png.png" for i in range(5)]
    picture = np.asarray(Image.open("maps/images/star/0.png.png"))
    assert picture.shape[1:] == (3 * 224 + 8, 3)
    original = np.asarray(Image.open("images/star/0.png"))
    assert (picture[:224:7, :224:7] == original).all()
    row = next(row for row in rows_in(run.out) if row["path"] == "images/star/0.png")
    numbers = (float(row[column]) for column in ("probability", "score", "threshold"))
    text = DecisionText(row["class"], next(numbers), "energy", *numbers)
    assert (picture[224:] == caption_strip(text, picture.shape[1])).all() and text.threshold == 12
    plain = rows_in(run_predict("images/star", "images/broken.png").out)
    for row, other in zip(rows_in(run.out), plain, strict=True):
        assert (row["path"], row["class"], row["error"]) == (other["path"], other["class"], other["error"])
    refused(clipos("predict", "detector.safetensors", "images", "--explain", "maps"), "--explain maps")
    assert heatmap_name("/a/../b.png") == Path("a/__/b.png.png")


def test_a_name_that_needs_quotes(tmp_path: Path) -> None:
    name = 'odd, "name"\n.png'
    save_noise(tmp_path / "odd" / name, 0)
    run_predict("odd", "--out", "rows.csv")
    with open("rows.csv", newline="") as file:
        assert [row["path"] for row in csv.DictReader(file)] == [f"odd/{name}"]


def test_several_devices_keep_the_order(home: Path) -> None:
    detector = Detector.load(home / "detector.safetensors", "cpu")
    detectors = predict.load_on(str(home / "detector.safetensors"), None, ["cpu", "cpu", "cpu"])
    threads = set()

    def watched(one: Detector) -> Any:
        def predict_watched(images: torch.Tensor) -> Any:
            threads.add(threading.get_ident())
            return Detector.predict(one, images)

        return predict_watched

    for one in detectors:
        one.predict = watched(one)  # type: ignore[method-assign]
    paths = list(stream_paths(["images"]))
    shared = [row for rows in predict.predict(detectors, paths, batch_size=2) for row in rows]
    alone = [row for rows in predict.predict([detector], paths, batch_size=2) for row in rows]
    assert shared == alone
    assert len(threads) == 3
    assert len({id(one.backbone) for one in detectors}) == 3


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        assert predict.choose_devices("0,1", "auto") == ["auto"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert predict.choose_devices(None, "cuda") == ["cuda"]
    assert predict.choose_devices("2", "auto") == ["cuda:0", "cuda:1"]
    assert predict.choose_devices("2,0", "auto") == ["cuda:2", "cuda:0"]
    assert predict.choose_devices("1,", "cuda") == ["cuda:1"]
    assert predict.choose_devices("2", "cpu") == ["cpu"]
    for wrong in ("4", "0,3", "two", "0", "-1,0"):
        with pytest.raises(Exception, match=f"--devices {wrong}"):
            predict.choose_devices(wrong, "auto")


# ---- runs that were stopped


def killed(rows: int, *words: Any) -> None:
    """Run the command in a separate process and kill it after this many rows."""
    child = os.fork()
    if child == 0:
        made, row_of = iter(range(10**9)), predict.row_of

        def last(*item: Any) -> Any:
            if next(made) == rows:
                os.kill(os.getpid(), signal.SIGKILL)
            return row_of(*item)

        predict.row_of = last
        clipos("predict", "detector.safetensors", *words, *QUICK)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_killed_run_goes_on_with_each_row_exactly_once(form: str, tmp_path: Path) -> None:
    out, partial = tmp_path / f"rows.{form}", tmp_path / f"rows.{form}.partial"
    words = ("images", "--out", out)
    killed(10, *words)
    assert not out.exists()
    assert partial.read_text().count("\n") == 8 + (form == "csv")  # two batches of four
    with open(partial, "a") as file:
        file.write('"images/st' if form == "csv" else '{"path": "images/st')  # half a row
    refused(clipos("predict", "detector.safetensors", *words), f"rows.{form}.partial")
    killed(6, *words, "--resume")
    run = run_predict(*words, "--resume")
    assert run.err.startswith("10 images") and run.err.endswith("; 12 were already done\n")
    assert not partial.exists()
    whole = clipos("predict", "detector.safetensors", "images", "--format", form, *QUICK).out
    assert out.read_text() == whole
    again = run_predict(*words, "--resume")  # nothing is left to do
    assert out.read_text() == whole and again.err.startswith("0 images")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_kills_between_any_two_steps_of_writing(form: str, tmp_path: Path) -> None:
    """One kill before and one after each step; an image that is given twice has its two rows at the end."""
    out = tmp_path / f"rows.{form}"
    words = ("images/star", "images/circle", "images/star/0.png", "--out", out)
    whole = clipos("predict", "detector.safetensors", *words[:3], "--format", form, *QUICK).out
    (tmp_path / f"rows.{form}").write_text("".join(whole.splitlines(keepends=True)[:3]))  # a copy is made of it
    steps = [("shutil.copyfile", 1), ("os.truncate", 1), ("RowFile.append", 1), ("RowFile.append", 2), ("os.fsync", 1)]
    for name, calls in [*steps, ("replace_synced", 1)]:
        for before in (True, False):
            kill_at(name, calls, before, *words, "--resume")
    final = clipos("predict", "detector.safetensors", *words, "--resume", *QUICK)
    assert final.code == 0 and out.read_text() == whole
    assert not list(tmp_path.glob("*.partial")) and not (tmp_path / f".rows.{form}.lock").exists()


def kill_at(name: str, calls: int, before: bool, *words: Any) -> None:
    """Run the command in a separate process and kill it before or after a call of what ``row_files`` uses."""
    child = os.fork()
    if child == 0:
        *owner, last = name.split(".")
        place = getattr(row_files, owner[0]) if owner else row_files
        function, number = getattr(place, last), iter(range(1, 10**9))

        def deadly(*args: Any) -> Any:
            dies = next(number) == calls
            if dies and before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(place, last, deadly)
        clipos("predict", "detector.safetensors", *words, *QUICK)
        os._exit(0)  # it was done before
    os.waitpid(child, 0)


def test_a_file_that_another_process_writes(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from clipos_lightning.utils.locks import hold_lock\n"
    hold += "with hold_lock(Path('rows.csv'), print): print('held', flush=True); sys.stdin.read()"
    process = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        for more in ((), ("--resume",)):
            run = clipos("predict", "detector.safetensors", "images", "--out", "rows.csv", *more, *QUICK)
            refused(run, f"predict: process {process.pid} on ", " is writing --out rows.csv: ", "another --out")
        run_predict("images", "--out", "other.csv")
    finally:
        process.kill()
        process.wait()
    run_predict("images", "--out", "rows.csv")  # the lock of a killed process is no obstacle
    assert (tmp_path / "rows.csv").read_text() == (tmp_path / "other.csv").read_text()
    assert {path.name for path in tmp_path.iterdir()} >= {"rows.csv", "other.csv"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.slow  # two processes that import PyTorch
def test_two_at_once_on_one_file(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "clipos_lightning", "predict", "detector.safetensors", "images", "--resume"]
    command += ["--out", "rows.csv", *map(str, QUICK)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes and set(codes) <= {0, 2}, errors
    assert all("is writing --out rows.csv" in text for code, text in zip(codes, errors, strict=True) if code)
    assert (tmp_path / "rows.csv").read_text() == run_predict("images").out


def test_names_with_line_breaks_of_all_kinds_are_resumed(tmp_path: Path) -> None:
    names = ["a\rb.png", "c\nd.png", 'e"\r\n.png', "\x85.png"]
    (tmp_path / "odd").mkdir()
    for name in names:
        (tmp_path / "odd" / name).write_bytes((tmp_path / "images/star/0.png").read_bytes())
    for form in ("csv", "jsonl"):
        run_predict("odd", "--out", f"odd.{form}")
        run = run_predict("odd", "images/star", "--out", f"odd.{form}", "--resume")
        assert run.err.endswith("; 4 were already done\n")


def test_images_that_are_new_come_behind_those_that_are_there(tmp_path: Path) -> None:
    run_predict("images/star", "--out", "rows.csv")
    before = Path("rows.csv").read_text()
    run_predict("images", "--out", "rows.csv", "--resume")
    after = Path("rows.csv").read_text()
    assert after.startswith(before)
    assert sorted(row["path"] for row in rows_in(after)) == sorted(stream_paths(["images"]))
    assert {p.name for p in tmp_path.iterdir()} == {"rows.csv", "images", "detector.safetensors"}


def test_rows_of_images_that_were_not_given_are_said() -> None:
    run_predict("images", "--out", "rows.csv")
    before = Path("rows.csv").read_text()
    assert "note:" not in run_predict("images", "--out", "rows.csv", "--resume").err
    others = len(list(stream_paths(["images"]))) - len(list(stream_paths(["images/star"])))
    run = run_predict("images/star", "--out", "rows.csv", "--resume")
    assert f"note: rows.csv has rows of {others} images that are not among these paths" in run.err
    assert Path("rows.csv").read_text() == before


def test_rows_of_another_detector_are_not_mixed_in(home: Path, tmp_path: Path) -> None:
    run_predict("images/star", "--out", "rows.csv")
    before = Path("rows.csv").read_text()
    other = Detector.load(home / "detector.safetensors", "cpu")
    other.threshold = 13.0
    other.save(tmp_path / "other.safetensors")
    words = ("predict", "other.safetensors", "images", "--out", "rows.csv", "--resume", *QUICK)
    refused(clipos(*words), "another detector")
    assert Path("rows.csv").read_text() == before
    assert not Path("rows.csv.partial").exists()


def test_rows_of_a_detector_with_the_same_threshold_are_not_mixed_in(home: Path, tmp_path: Path) -> None:
    run_predict("images", "--out", "rows.csv")
    lines = Path("rows.csv").read_text().splitlines(keepends=True)
    other = Detector.load(home / "detector.safetensors", "cpu")
    other.head.text = other.head.text.roll(1, 0)
    other.head.scoring = type(other.head.scoring)(temperature=2.0)
    other.save(tmp_path / "other.safetensors")
    Path("rows.csv").write_text("".join(lines[:-3]))
    words = ("predict", "other.safetensors", "images", "--out", "rows.csv", "--resume", *QUICK)
    refused(clipos(*words), "another detector")
    assert Path("rows.csv").read_text() == "".join(lines[:-3]) and not Path("rows.csv.partial").exists()
    run_predict("images", "--out", "rows.csv", "--resume")
    assert Path("rows.csv").read_text() == "".join(lines)


def test_a_decoding_process_that_dies_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference.ImageFiles, "__getitem__", lambda *_: os._exit(1))
    words = ("predict", "detector.safetensors", "images", "--num_workers", 1)
    refused(clipos(*words), "--num_workers 0", "--shm-size")


def test_an_output_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("in the way")
    refused(clipos("predict", "detector.safetensors", "images", "--explain", "maps/x", *QUICK), "maps/x", "Not a dir")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    refused(clipos("predict", "detector.safetensors", "images", "--out", "rows.csv"), "is not writable")


def test_an_interrupted_run_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    row_of, made = predict.row_of, iter(range(100))

    def interrupted(*item: Any) -> Any:
        if next(made) == 9:
            raise KeyboardInterrupt
        return row_of(*item)

    with monkeypatch.context() as patch:
        patch.setattr(predict, "row_of", interrupted)
        run = clipos("predict", "detector.safetensors", "images", "--out", "rows.csv", *QUICK)
    assert run.code == 130
    assert "rows.csv.partial has 8 new rows: continue with --resume" in run.err
    run_predict("images", "--out", "rows.csv", "--resume")
    assert len(rows_in(Path("rows.csv").read_text())) == 22


def test_a_run_that_fails_at_once_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Detector, "predict", fail)
    for words in (("--out", "rows.csv"), ()):
        run = clipos("predict", "detector.safetensors", "images", *words, *QUICK)
        assert (run.code, run.out) == (1, "")
    assert not list(tmp_path.glob("rows.csv*"))


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_the_complete_rows_of_a_file_cut_anywhere(form: str, tmp_path: Path) -> None:
    """Names with quotes and line breaks: after every cut the complete rows are kept, all of them."""
    names = ["a.png", 'b "b"\n.png', "c\n\n.png", 'd".png']
    rows = [dict.fromkeys(ROW_COLUMNS) | {"path": name, "error": 'no "image"'} for name in names]
    lines = [LINES[form](row).encode() for row in rows]
    ends = np.cumsum([0, *map(len, lines)])
    text = b"".join(lines)
    for cut in range(len(text) + 1):
        (tmp_path / "cut").write_bytes(text[:cut])
        assert complete_size(tmp_path / "cut", form) == ends[ends <= cut].max()


def test_path_counts() -> None:
    names = [f"{i}.png" for i in range(1000)]
    done = PathCounts(iter([*names[::2], names[0]]))
    assert [done.take(name) for name in names] == [i % 2 == 0 for i in range(1000)]
    assert [done.take(names[0]) for _ in range(2)] == [True, False]  # it was there twice
    assert len(done) == 501 and not PathCounts(iter(())).take("x")


def test_checks_come_before_anything_is_loaded() -> None:
    with pytest.raises(Exception, match="no file or folder nowhere"):
        check_paths(["images", "nowhere"], "predict")


@pytest.mark.gpu
def test_the_gpu_says_what_the_cpu_says() -> None:
    words = ("predict", "detector.safetensors", "images", *QUICK)
    cpu, gpu = (rows_in(clipos(*words, *more).out) for more in (("--device", "cpu"), ("--devices", "0,")))
    assert [row["path"] for row in cpu] == [row["path"] for row in gpu]
    for a, b in zip(cpu, gpu, strict=True):
        assert (a["class"], a["error"]) == (b["class"], b["error"])
        assert a["error"] or float(a["score"]) == pytest.approx(float(b["score"]), rel=1e-3)
