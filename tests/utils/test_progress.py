"""Progress: a bar on a terminal, otherwise lines at an interval; nothing for short work or if it is switched off."""

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import ModuleType

import pytest
from running import done
from tqdm import tqdm

from clipos_lightning import FewShotOOD
from clipos_lightning.cli import main
from clipos_lightning.utils import progress
from clipos_lightning.utils.progress import ProgressLines, advancing, notify_if_slow, open_bar, progress_line, track


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextmanager
def stderr(terminal: bool = False) -> Iterator[io.StringIO]:
    """What is printed on stderr."""
    with redirect_stderr(Terminal() if terminal else io.StringIO()) as file:
        yield file


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line every 5 ms."""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.005)


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("not within 5 s")


# ---- lines


def test_a_line_says_how_far_how_fast_and_how_long(often: None) -> None:
    counted = []

    def count() -> int:
        counted.append(1)
        return 1000

    with stderr() as log:
        with open_bar("predict", count, "images", done=100) as bar:
            bar.update(150)
            wait_for(lambda: log.getvalue().count("\n") >= 3)
        time.sleep(0.02)
        lines = log.getvalue().splitlines()
        time.sleep(0.1)
    assert log.getvalue().splitlines() == lines  # no more after the end
    pattern = r"predict: (100|250) of 1,000 images \((10|25) %\)(, [\d,]+ images/s, about \d s left)?"
    assert all(re.fullmatch(pattern, line) for line in lines), lines
    assert lines[-1].startswith("predict: 250 of 1,000 images (25 %), ") and len(counted) == 1


def test_the_text_of_lines_and_of_a_bar_can_change(often: None) -> None:
    for terminal in (False, True):
        with stderr(terminal) as log, open_bar("first", 4) as bar:
            bar.set_description("second")
            assert list(advancing(range(3), bar)) == [0, 1, 2] and bar.n == 3
            wait_for(lambda: "second: " in log.getvalue())


def test_the_rate_counts_this_run_only() -> None:
    assert progress_line("x", 700, 1000, "images", 100.0, first=600) == (
        "x: 700 of 1,000 images (70 %), 1 images/s, about 5 min left"
    )
    assert progress_line("x", 0, 1000, "images", 30.0) == "x: 0 of 1,000 images (0 %)"
    assert progress_line("x", 999, 1000, "runs", 3600.0).startswith("x: 999 of 1,000 runs (99 %), 17 runs/min")
    assert progress_line("x", 12, 10, "images", 6.0) == "x: 12 of 10 images (100 %), 2 images/s"
    assert progress_line("x", 0, 0, "images", 0.0) == "x: 0 images"


def test_short_work_prints_nothing() -> None:
    assert progress.LINE_SECONDS == 30
    with stderr() as log:
        assert list(track(range(3), "short")) == [0, 1, 2]
    assert log.getvalue() == ""


def test_folders_that_cannot_be_counted_do_not_stop_the_lines(often: None) -> None:
    def count() -> int:
        raise PermissionError("no")

    with stderr() as log, ProgressLines("predict", count, "images") as bar:
        time.sleep(0.05)
        assert log.getvalue() == ""
        bar.total = None
        wait_for(lambda: "predict: 0 images" in log.getvalue())
    assert "Traceback" not in log.getvalue()


def test_a_terminal_gets_a_bar(often: None) -> None:
    with stderr(terminal=True) as log, open_bar("predict", lambda: 4, "images", leave=True) as bar:
        assert isinstance(bar, tqdm) and bar.total == 4
        bar.update(4)
    assert "4/4" in log.getvalue() and "images/s" in log.getvalue() and " of 4" not in log.getvalue()


def test_hidden_progress_is_neither(often: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> list[int]:
        return [(time.sleep(0.01), i)[1] for i in track(range(3), "slow")]

    def count() -> int:
        raise AssertionError

    with stderr() as log:
        assert slow() == [0, 1, 2] and "slow: " in log.getvalue()
    monkeypatch.setattr(progress, "_rank", 1)
    with stderr() as log:
        assert slow() == [0, 1, 2] and log.getvalue() == ""
        open_bar("hidden", count, shown=False).close()
    assert log.getvalue() == ""


# ---- commands


FIT = ("fit", "--config", "demo.yaml", "--data.shots", 26, "--trainer.max_epochs", 2)


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, often: None) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fit_and_test_print_lines(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.002)
    run = done(*FIT)
    lines = run.err.splitlines()
    assert any(re.match(r"encoding few-shot images: \d of 1 batches", line) for line in lines), lines
    assert any(re.match(r"training prompts: \d+ of \d+ batches .* loss \d", line) for line in lines), lines
    test = done("test", "--ckpt_path", run.checkpoint, "--data.limit_per_set", 60, "--data.ood_sets", "[noise]")
    batches = -(-60 // FewShotOOD("", "scenes").eval_batch_size)  # of each set
    totals = re.findall(r"^testing (id|noise) \([12] of 2\): \d+ of (\d+) batches", test.err, re.M)
    assert ("id", str(2 * batches)) in totals and {total for _, total in totals} == {str(2 * batches)}, test.err


def test_no_progress_if_it_is_switched_off(at: Path) -> None:
    run = done(*FIT, "--trainer.enable_progress_bar", "false")
    assert run.err == ""


# ---- messages while something is slow


def test_a_temporary_message_is_erased() -> None:
    with stderr(terminal=True) as log, notify_if_slow("loading …", 0.005, temporary=True):
        wait_for(log.getvalue)
        assert log.getvalue() == "loading …"
    assert log.getvalue() == "loading …\r\x1b[K"


def test_a_temporary_message_is_for_terminals_only() -> None:
    with stderr() as log, notify_if_slow("loading …", 0.005, temporary=True):
        time.sleep(0.05)
    assert log.getvalue() == ""
    with stderr() as log, notify_if_slow("a download", 0.005):
        wait_for(log.getvalue)
    assert log.getvalue() == "a download\n"


@pytest.mark.parametrize(("seconds", "shown"), [(5, "loading PyTorch and open_clip …\r\x1b[K"), (0, "")])
def test_slow_imports_are_explained(seconds: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundredths of seconds: an import of five is explained after two."""

    def import_module(name: str) -> ModuleType:
        assert name == "clipos_lightning.cli.predict"
        wait_for(log.getvalue) if seconds else None
        module = ModuleType(name)
        module.main = len  # type: ignore[attr-defined]
        return module

    timer = threading.Timer
    monkeypatch.setattr(progress.threading, "Timer", lambda s, show: timer(s / 100 if seconds else s, show))
    monkeypatch.setattr(main, "import_module", import_module)
    with stderr(terminal=True) as log:
        assert main.main(["predict", "a", "b"]) == 2
    assert log.getvalue() == shown
