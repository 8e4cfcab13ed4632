"""The report's page in a real browser: the slider's numbers are Python's, headers sort, nothing is fetched."""

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser

from clipos_lightning.evaluation.thresholds import confusion, threshold_at_recall
from clipos_lightning.reporting.charts import common_axis
from clipos_lightning.reporting.html import report_html
from clipos_lightning.reporting.report import build_report

pytestmark = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="no Chromium on this machine")

SETS = {"id": (230, 2.0), "near": (60, 1.2), "far": (1234, -1.0)}
SCORES = ("msp", "mcm", "energy")


def tables(classes: int) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """Tables of a test, true classes, class names."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, SETS["id"][0])
    results = {}
    for name, (count, shift) in SETS.items():
        results[name] = {"predicted": rng.integers(0, classes, count).astype(float)}
        results[name] |= {s: rng.normal(shift, 1 + i, count).round(2) for i, s in enumerate(SCORES)}
    results["id"]["predicted"][:180] = labels[:180]
    return results, labels, [f"class {i}" for i in range(classes)]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Any]:
    """Open the page of some tables; at the end no console errors, and no request but for the page."""
    browser.problems.clear()
    browser.requests.clear()

    def opened(results: dict[str, Any], labels: np.ndarray, names: list[str], **run: Any) -> Browser:
        report = build_report(results, labels, {}, "energy", "zoo", (2, 2), {"trained": False, **run})
        path = tmp_path / "report.html"
        path.write_text(report_html(report, results, labels, names, {}), encoding="utf-8")
        browser.size(1200, 900)
        browser.open(path)
        return browser

    yield opened
    assert browser.problems == []
    assert [r for r in browser.requests if not r.startswith("data:")] == [(tmp_path / "report.html").as_uri()]


def live(browser: Browser) -> dict[str, float]:
    """All numbers shown for the slider's position."""
    pairs = browser.run("[...document.querySelectorAll('[data-live]')].map(n => [n.dataset.live, n.textContent])")
    return {name: float(text.replace(",", "")) if text != "–" else float("nan") for name, text in pairs}


def expected(results: dict[str, Any], labels: np.ndarray, classes: int, threshold: float) -> dict[str, float]:
    """The same numbers, computed from the scores."""
    sets = {name: (t["energy"] >= threshold, t["predicted"]) for name, t in results.items()}
    accepted, predicted = sets["id"]
    right = accepted & (predicted == labels)
    numbers = {"ids": accepted.sum(), "recall": 100 * accepted.mean(), "hits": right.sum()}
    numbers |= {"hitshare": 100 * right.mean(), "hitrate": 100 * right.sum() / max(accepted.sum(), 1)}
    numbers["oods"] = 100 * np.mean([sets[name][0].mean() for name in ("near", "far")])
    rows = [(accepted & (labels == c), predicted, labels == c) for c in range(classes)]
    rows += [(*sets[name], np.ones(SETS[name][0], bool)) for name in ("near", "far")]
    for r, (chosen, guess, all_) in enumerate(rows):
        numbers[f"unknown{r}"] = all_.sum() - chosen.sum()
        numbers[f"row{r}"] = 100 * chosen.sum() / all_.sum() if all_.any() else np.nan
        if classes <= 20:
            numbers |= {f"cell{r * classes + c}": np.sum(chosen & (guess == c)) for c in range(classes)}
        elif r < classes:
            numbers |= {f"cell{2 * r + i}": np.sum(chosen & ((guess != r) == i)) for i in range(2)}
    return numbers


def check(browser: Browser, results: dict[str, Any], labels: np.ndarray, classes: int) -> float:
    """Counts are equal, percentages to their one decimal; returns the threshold."""
    shown = live(browser)
    for name, value in expected(results, labels, classes, shown["cut"]).items():
        if value != value:
            assert shown[name] != shown[name]
        else:
            whole = name.startswith(("cell", "unknown", "ids", "hits")) and name != "hitshare"
            assert shown[name] == pytest.approx(value, abs=0 if whole else 0.0501), (name, shown["cut"])
    return shown["cut"]


@pytest.mark.parametrize("classes", [1, 3, 30])
def test_the_numbers_follow_the_slider_and_are_pythons(show: Any, classes: int) -> None:
    results, labels, names = tables(classes)
    browser = show(results, labels, names)
    table = confusion(results, labels, names, "energy")
    assert check(browser, results, labels, classes) == threshold_at_recall(results["id"]["energy"], 0.95)
    for place in (0, 17, len(table.thresholds) // 2, len(table.thresholds) - 1):
        browser.run(f"slider.value = {place}; slider.dispatchEvent(new Event('input'))")
        assert check(browser, results, labels, classes) == table.thresholds[place]
    browser.run("document.querySelector('.presets button').click()")
    assert check(browser, results, labels, classes) == threshold_at_recall(results["id"]["energy"], 0.8)


CHECKPOINT = "runs/my fit/last.ckpt"
COPIED = "document.getElementById('copied').textContent"


def command_at(threshold: float) -> list[str]:
    """The words that a shell makes of the command for a threshold."""
    value = f"{threshold:.9g}"
    option = [f"--threshold={value}"] if threshold < 0 else ["--threshold", value]  # argparse: -1e-05 is an option
    return ["clipos", "calibrate", CHECKPOINT, *option]


def test_the_command_for_the_threshold_is_copied(show: Any) -> None:
    """With a clipboard, by click and by key, for thresholds of both signs."""
    results, labels, names = tables(3)
    browser = show(results, labels, names, checkpoint=CHECKPOINT)
    browser.run("Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => { window.text = t; }}})")
    thresholds = confusion(results, labels, names, "energy").thresholds
    assert thresholds[0] < 0 < thresholds[-1]
    for place in (0, len(thresholds) - 1):
        browser.run(f"slider.value = {place}; slider.dispatchEvent(new Event('input'))")
        assert browser.run(COPIED) == ""
        browser.run("document.getElementById('copy').focus()")
        browser.press("Enter", 13, "\r")
        assert browser.run(COPIED) == "copied"
        shown = browser.run("document.getElementById('command').textContent")
        assert browser.run("text") == shown
        assert shlex.split(shown) == command_at(thresholds[place])


@pytest.mark.parametrize("clipboard", ["undefined", "{writeText: async () => { throw Error('refused'); }}"])
def test_without_a_clipboard_the_command_is_selected(show: Any, clipboard: str) -> None:
    results, labels, names = tables(3)
    browser = show(results, labels, names, checkpoint=CHECKPOINT)
    browser.run(f"Object.defineProperty(navigator, 'clipboard', {{value: {clipboard}}})")
    browser.run("document.getElementById('copy').click()")
    assert "Ctrl+C" in browser.run(COPIED)
    start = threshold_at_recall(results["id"]["energy"], 0.95)
    assert shlex.split(browser.run("getSelection().toString()")) == command_at(start)


def test_without_a_checkpoint_there_is_no_command(show: Any) -> None:
    browser = show(*tables(3), checkpoint=None)
    assert browser.run("[document.getElementById('copy'), document.getElementById('command')]") == [None, None]


def test_keys_and_a_click_on_a_histogram_move_the_line(show: Any) -> None:
    results, labels, names = tables(3)
    browser = show(results, labels, names)
    before = check(browser, results, labels, 3)
    browser.run("slider.focus()")
    browser.press("ArrowRight", 39)
    above = check(browser, results, labels, 3)
    grid = confusion(results, labels, names, "energy").thresholds
    assert above == grid[grid > before].min()
    browser.run("document.querySelector('.strips').scrollIntoView({block: 'center', behavior: 'instant'})")
    box = browser.run("(b => [b.x, b.y, b.width])(document.querySelector('.strips svg').getBoundingClientRect())")
    x, y = box[0] + box[2] / 2, box[1] + 20
    for kind in ("mousePressed", "mouseReleased"):
        browser.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    axis = common_axis([t["energy"] for t in results.values()])
    shown = check(browser, results, labels, 3)
    assert shown == min(grid, key=lambda t: abs(t - (axis.low + axis.high) / 2))
    line = browser.run("document.querySelector('.cut').getBoundingClientRect().x")
    assert line == pytest.approx(box[0] + box[2] * axis.position(shown), abs=1)


def test_headers_sort_and_the_headline_stays_marked(show: Any) -> None:
    browser = show(*tables(3))
    table = "document.querySelectorAll('#scores table')[1]"
    rows = f"[...{table}.tBodies[0].rows].map(r => [...r.cells].map(c => c.textContent.trim()))"
    before = browser.run(rows)
    assert {row[0] for row in before} == set(SCORES)

    def click(header: int) -> list[list[str]]:
        browser.run(f"{table}.querySelectorAll('th button')[{header}].click()")
        return browser.run(rows)

    def column(found: list[list[str]], k: int) -> list[float]:
        return [float(row[k]) for row in found]

    auroc = click(1)
    assert column(auroc, 1) == sorted(column(before, 1), reverse=True)  # the best first
    assert column(click(1), 1) == sorted(column(before, 1))
    assert column(click(2), 2) == sorted(column(before, 2))  # FPR95: the lowest is the best
    assert sorted(auroc) == sorted(before)
    assert browser.run(f"{table}.querySelector('.headline').cells[0].textContent") == "energy"
    sorted_by = f"[...{table}.querySelectorAll('th[aria-sort]')].map(h => h.getAttribute('aria-sort'))"
    assert browser.run(sorted_by)[:3] == ["none", "none", "ascending"]
    browser.run(f"{table}.querySelectorAll('th button')[0].focus()")
    browser.press("Enter", 13, "\r")
    assert [row[0] for row in browser.run(rows)] == sorted(SCORES)


@pytest.mark.parametrize("width", [390, 1200])
def test_the_page_is_not_wider_than_the_window(show: Any, width: int) -> None:
    browser = show(*tables(12))
    browser.size(width, 800)
    assert browser.run("document.documentElement.scrollWidth") == width
