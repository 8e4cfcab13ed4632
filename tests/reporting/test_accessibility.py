"""The report's page in a real browser, at three widths, in light and dark: readable, labelled, never too wide."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from page_checks import focus_problems, page_problems
from running import CIFAR10

from clipos_lightning.reporting.heatmaps import Example
from clipos_lightning.reporting.html import report_html
from clipos_lightning.reporting.report import build_report

pytestmark = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="no Chromium on this machine")

ANIMALS = ["red_fox", "hippopotamus", "West Highland white terrier", "Cat", "long-tailed tit", "ant/queen"]
CLASSES = {
    1: ["only_class"],
    6: ANIMALS,
    10: list(CIFAR10),
    18: [f"{name} {i}" for i in range(3) for name in ANIMALS],
    30: ANIMALS * 5,
}


def page_of(classes: int, path: Path) -> Path:
    """A page with everything that a report can have."""
    rng, names, scores = np.random.default_rng(classes), CLASSES[classes], ("mcm", "energy_region")
    results = {}
    for name, (count, shift) in {"id": (300, 2.0), "near": (60, 1.2), "far_away_images": (1234, -1.0)}.items():
        if classes == 1 and name == "near":
            continue  # one class and one OOD set
        results[name] = {f"{p}predicted": rng.integers(0, classes, count).astype(float) for p in ("", "zero_shot/")}
        results[name] |= {f"{p}{s}": rng.normal(shift, 1, count) for p in ("", "zero_shot/") for s in scores}
    labels = np.arange(300) % classes
    run = {
        "trained": True,
        "checkpoint": f"runs/{'fit' * 30}/last.ckpt",
        "command": f"clipos test {'--x y ' * 40}{'x' * 99}",
    }
    report = build_report(results, labels, {"near": "near"}, "energy_region", "photos_" * 12, (4, 4), run)

    def example(i: int, **changes: Any) -> Example:
        image, maps = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8), rng.random((3, 4, 4))
        known = {"origin": names[i], "key": f"a/{'long' * 12}.png", "predicted": names[-1], "probability": 0.87}
        return Example(image, *maps[:2], maps[2] > 0.5, **{**known, "score": 9.0, **changes})

    pictures = {"classes": [example(i, truth=np.eye(32)) for i in range(min(classes, 3))]}
    pictures |= {"outside": [example(0), example(0, score=-9.0)], "rejected": [example(0)], "confused": []}
    path.write_text(report_html(report, results, labels, names, pictures), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.mark.parametrize("classes", [1, 6, 18, 30])
def test_the_page_is_readable_at_every_width_in_light_and_dark(browser: Browser, tmp_path: Path, classes: int) -> None:
    page = page_of(classes, tmp_path / "report.html")
    for dark in (False, True):
        for width in (400, 1000, 1920):
            assert page_problems(browser, page, width, dark) == [], (width, dark)


@pytest.mark.parametrize("dark", [False, True])
def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Browser, tmp_path: Path, dark: bool) -> None:
    assert page_problems(browser, page_of(6, tmp_path / "report.html"), 400, dark) == []
    assert focus_problems(browser) == []


BROKEN = """[...document.querySelectorAll('#confusion th')].flatMap(header => {
  const nodes = document.createTreeWalker(header, NodeFilter.SHOW_TEXT), broken = [];
  while (nodes.nextNode()) for (const word of nodes.currentNode.textContent.matchAll(/[^\\s_/-]+/g)) {
    const range = document.createRange();
    range.setStart(nodes.currentNode, word.index);
    range.setEnd(nodes.currentNode, word.index + word[0].length);
    if (range.getClientRects().length !== 1) broken.push(word[0]);
  }
  return broken;
})"""


@pytest.mark.parametrize("classes", [1, 6, 10, 18])
def test_no_word_in_a_header_of_the_confusion_matrix_is_broken(browser: Browser, tmp_path: Path, classes: int) -> None:
    page = page_of(classes, tmp_path / "report.html")
    for width in (400, 1000, 1920):
        browser.size(width, 800)
        browser.open(page)
        assert browser.run("document.querySelectorAll('#confusion thead th').length") == classes + 4
        assert browser.run(BROKEN) == [], width
        hidden = browser.run(
            "(box => box.scrollWidth - box.clientWidth)(document.querySelector('.matrix').parentElement)"
        )
        assert hidden == 0 or width == 400 or classes == 18


def test_what_the_checks_find(browser: Browser, tmp_path: Path) -> None:
    """A page with one mistake of each kind."""
    (tmp_path / "bad.html").write_text(
        "<meta name=viewport content='width=device-width'><style>a:focus { outline: none }</style><h2>First</h2>"
        "<p style='color:#888'>pale</p><p style='opacity:.5'>faded</p><img src='data:,'><svg role=img></svg>"
        "<input id=x><input id=x aria-label=second><a href='#y'>go</a><h4>Deep</h4><table><tr><th></th></tr></table>"
        "<div style='width:900px'>wide</div><div style='width:50px;overflow:auto'><p style='width:90px'>box</p></div>",
        encoding="utf-8",
    )
    found = page_problems(browser, tmp_path / "bad.html", 400)
    for start in (
        'contrast 3.54 of "pale"', 'contrast 3.98 of "faded"', "no language", "no title", "no alternative text",
        "no label", "empty header", "headings start with 2", "h4 after h2", "no name: <input", "two elements with id x",
        "refers to nothing", "the page is 9", "scrolls, but not with the keyboard",
    ):  # fmt: skip
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert any("focus is not visible: <a" in problem for problem in focus_problems(browser))
