"""results.html in a real browser: it fits phones and desktops, is readable in light and dark, and its tables sort."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Browser
from outcomes import compared, grid_row, outcome_of, usual_rows
from page_checks import focus_problems, page_problems

from clipos_lightning.experiments.columns import Cell, Column
from clipos_lightning.experiments.results_page import PageSection, PageTable, WideFigure, render_page, to_page
from clipos_lightning.reporting.plots import new_figure, svg_element

needs_browser = pytest.mark.skipif(CHROMIUM is None or os.name != "posix", reason="no Chromium on this machine")
MANY = {f"out_of_distribution_set_{k}": 100 * k for k in range(1, 9)}


def varied_rows() -> list[dict[str, Any]]:
    """Rows with a panel: a default and three values of an option."""
    values = [grid_row(f"beta = {v}", (80.0 + v, 81.0), group="model.beta", value=str(v)) for v in range(3)]
    return compared([grid_row("default", (80.0, 81.0)), *values])


OUTCOMES = {
    "usual": outcome_of(usual_rows(), usual_rows(grid_point={"data.shots": 2})),
    "shots": outcome_of(*(usual_rows(grid_point={"data.shots": shots}) for shots in (1, 2, 4))),
    "many sets": outcome_of(usual_rows(sets=MANY)),
    "one set": outcome_of(usual_rows(sets={"only": 70})),
    "an option": outcome_of(varied_rows()),
    "no set": outcome_of([grid_row("a", (80.0,), sets={})]),
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


def show(browser: Browser, folder: Path, outcome: dict[str, Any], width: int = 1000) -> Browser:
    """Open the page of an outcome with everything unfolded."""
    path = folder / "results.html"
    path.write_text(to_page(outcome), encoding="utf-8")
    browser.size(width, 900)
    browser.open(path)
    browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    return browser


@needs_browser
@pytest.mark.parametrize("name", OUTCOMES)
def test_the_page_is_readable_at_every_width_in_light_and_dark(browser: Browser, tmp_path: Path, name: str) -> None:
    page = tmp_path / "results.html"
    page.write_text(to_page(OUTCOMES[name]), encoding="utf-8")
    browser.requests.clear()
    for dark in (False, True):
        for width in (400, 1000, 1920):
            assert page_problems(browser, page, width, dark) == [], (width, dark)
            firsts = browser.run("[...document.querySelectorAll('tr > :first-child')].map(c => c.offsetWidth)")
            assert 0.25 * min(width, 800) < min(firsts) <= max(firsts) <= 0.45 * width
        assert (browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") != dark
    assert focus_problems(browser) == [] == browser.problems
    assert set(browser.requests) == {page.as_uri()}


@needs_browser
def test_a_wide_picture_scrolls_inside_the_page(browser: Browser, tmp_path: Path) -> None:
    figure = new_figure(12, 2)
    figure.add_subplot().imshow(np.eye(3))
    picture = WideFigure("A caption", svg_element(figure))
    section = PageSection("", [PageTable("", "map", [("S", "")], [Column("IoU ↑", (Cell("0.5"),))])], picture=picture)
    page = tmp_path / "results.html"
    page.write_text(render_page("Masks", ["A note."], [section]), encoding="utf-8")
    assert page_problems(browser, page, 400, dark=True) == focus_problems(browser) == []
    assert browser.run("(svg => [svg.clientWidth, svg.clientHeight])(document.querySelector('svg'))") == [1152, 192]


@needs_browser
def test_the_first_column_stays_while_the_others_scroll(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, OUTCOMES["many sets"], 400)
    edge = "document.querySelectorAll('.scroll')[1].querySelector('tbody th').getBoundingClientRect().left"
    before = browser.run(edge)
    browser.run("document.querySelectorAll('.scroll')[1].scrollLeft = 200")
    assert browser.run("document.querySelectorAll('.scroll')[1].scrollLeft") == 200
    assert browser.run(edge) == before


@needs_browser
def test_a_table_of_eight_sets_fits_a_desktop(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, OUTCOMES["many sets"], 1400)
    fits = browser.run("[...document.querySelectorAll('.scroll')].map(s => s.scrollWidth <= s.clientWidth)")
    assert all(fits[:3])


@needs_browser
def test_headers_sort_with_the_best_first(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, outcome_of(compared([grid_row(str(v), (v, v)) for v in (80.0, 100.0, 90.0, 70.0)])))

    def click(column: int) -> list[str]:
        header = f"document.querySelectorAll('table')[0].querySelectorAll('th[aria-sort]')[{column}]"
        browser.run(f"{header}.querySelector('button').click()")
        rows = "[...document.querySelector('tbody').rows].map(r => r.cells[0].firstChild.textContent.trim())"
        return [f"{browser.run(f'{header}.ariaSort')}", *browser.run(rows)]

    descending = ["100.0", "90.0", "80.0", "70.0"]
    assert click(1) == ["descending", *descending]  # the reference counts as 0
    assert click(2) == ["descending", *descending]
    assert click(2) == ["ascending", *descending[::-1]]
    assert click(3) == ["ascending", *descending]  # FPR95: low is good


@needs_browser
def test_dots_are_where_their_numbers_are(browser: Browser, tmp_path: Path) -> None:
    show(browser, tmp_path, OUTCOMES["usual"])
    place = "(b => (b.left + b.right) / 2)(x.getBoundingClientRect())"
    ticks = browser.run(f"[...document.querySelector('.ticks').children].map(x => [+x.textContent, {place}])")
    (low, left), (high, right) = ticks[0], ticks[-1]
    rows = browser.run(
        "[...document.querySelector('.dots').querySelectorAll('.row')].slice(0, -1)"
        f".map(r => [...r.querySelectorAll('.strip i')].map(x => [x.className, {place}]))"
    )
    reference = 90.0
    for row, (mean, *seeds) in zip(rows, [(90.0, 89.0, 91.0), *[(93.5, 93.0, 94.0)] * 2], strict=True):
        values = [low + (x - left) / (right - left) * (high - low) for _, x in row]
        assert values == pytest.approx([reference, *seeds, mean], abs=0.05)
    assert [kind for kind, _ in rows[0]] == ["ref", "seed base", "seed base", "base"]
    assert [kind for kind, _ in rows[1]] == ["ref", "seed", "seed", ""]


def test_the_difference_is_the_second_column_and_the_best_are_bold() -> None:
    page = to_page(OUTCOMES["usual"])
    table = page.split("<table>")[1].split("</table>")[0]
    heads = re.findall(r"<button>(.*?)</button>", table)
    assert heads[:2] == ["method", "Δ AUROC to base"]
    assert re.findall(r"<b>(.*?)</b> <small>(.*?)</small>", table) == [
        (number, "± 0.7") for _ in range(2) for number in ("93.5", "6.5", "74.5")
    ]
    for text in ("baseline</li>", "mean over seeds</li>", "one seed</li>", "base, the reference</li>"):
        assert text in page


def test_figures_take_the_colours_of_the_page() -> None:
    page = to_page(OUTCOMES["an option"])
    (figure,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert not re.search(r"(?:fill|stroke): #", figure) and "var(--id)" in figure and "var(--ood)" in figure
    identifiers = re.findall(r' id="(.*?)"', figure)
    for target in re.findall(r"(?:url\(|href=\")#(.*?)[)\"]", figure):
        assert target in identifiers
    assert page == to_page(OUTCOMES["an option"])


def test_names_are_escaped_and_nothing_is_fetched() -> None:
    page = to_page(outcome_of([grid_row("<b>&", (80.0, 81.0))]))
    assert "&lt;b&gt;&amp;" in page and "<b>&" not in page
    assert not re.search(r"(?:src|href)=\"(?!#|data:)", page) and "@import" not in page
