"""Curves over the number of shots: their values, when there are any, what the figure draws and the page says."""

import math
import re
from typing import Any

import pytest
from matplotlib.axes import Axes
from outcomes import grid_row, outcome_of

from clipos_lightning.experiments.results_page import to_page
from clipos_lightning.experiments.shot_curves import (
    SHIFTS,
    curve_columns,
    curve_figure,
    describe_shot_curves,
    shot_curves,
)
from clipos_lightning.reporting.html import read_template
from clipos_lightning.reporting.plots import METHOD_COLORS, PAGE_COLORS

SHOTS = (1, 4, 2, 16)  # a grid's axis may have any order
ONE = {"only": 70}
AUROCS = {"base": {1: (80.0, 82.0), 2: (81.0, 85.0), 4: (90.0, 90.0), 16: (95.0, 97.0)}}
AUROCS["ours"] = {shots: (a + 1, b + 2) for shots, (a, b) in AUROCS["base"].items()}


def rows_with(shots: int | str, sets: dict[str, int] = ONE, **more: Any) -> list[dict[str, Any]]:
    """Two methods at a number of shots, the first with two scores."""
    point = {"data.shots": shots} | more
    base, ours = (AUROCS[name].get(shots, (50.0, 50.0)) for name in ("base", "ours"))
    common: dict[str, Any] = {"sets": sets, "grid_point": point}
    first = grid_row("base", base, baseline=True, **common) | {"name": "base (energy)"}
    second = grid_row("base", [a - 5 for a in base], baseline=True, **common) | {"name": "base (msp)", "score": "msp"}
    return [first, second, grid_row("ours", ours, **common)]


OUTCOME = outcome_of(*(rows_with(shots) for shots in SHOTS))


def drawn(axis: Axes) -> dict[str, list[tuple[float, float]]]:
    """Label of each line to its points, on their ticks."""
    points = {str(line.get_label()): line.get_xydata().tolist() for line in axis.lines}
    return {name: [(tick_of(x), y) for x, y in pairs] for name, pairs in points.items()}


def tick_of(x: float) -> float:
    """The number of shots of a point, which is at most SHIFTS / 2 octaves away."""
    tick = 2 ** round(math.log2(x))
    assert abs(math.log2(x / tick)) <= SHIFTS / 2 + 1e-9
    return tick


def bands(axis: Axes) -> list[dict[float, tuple[float, float]]]:
    """Lower and upper edge at each number of shots, for each band."""
    found = []
    for band in axis.collections:
        (path,) = band.get_paths()
        edges: dict[float, list[float]] = {}
        for x, y in path.vertices.tolist():
            edges.setdefault(tick_of(x), []).append(y)
        found.append({x: (min(y), max(y)) for x, y in edges.items()})
    return found


def test_a_curve_has_each_methods_means_and_deviations_in_the_order_of_the_shots() -> None:
    (curves,) = shot_curves(OUTCOME).values()
    assert [(c.name, c.score, c.baseline) for c in curves] == [
        ("base (energy)", "energy", True),
        ("ours", "energy", False),
    ]
    for curve, method in zip(curves, ("base", "ours"), strict=True):
        assert list(curve.metrics) == ["AUROC ↑", "ID accuracy ↑"]
        for points, shift in zip(curve.metrics.values(), (0, 20), strict=True):
            assert list(points) == [1, 2, 4, 16]
            for shots, spread in points.items():
                a, b = AUROCS[method][shots]
                assert spread["mean"] == pytest.approx((a + b) / 2 - shift)
                assert spread["std"] == pytest.approx(abs(a - b) / 2**0.5)


def test_the_figure_draws_them() -> None:
    (curves,) = shot_curves(OUTCOME).values()
    auroc, accuracy = curve_figure(curves).axes
    assert drawn(auroc) == {
        "base (energy)": [(1, 81), (2, 83), (4, 90), (16, 96)],
        "ours": [(1, 82.5), (2, 84.5), (4, 91.5), (16, 97.5)],
    }
    assert drawn(accuracy)["ours"] == [(1, 62.5), (2, 64.5), (4, 71.5), (16, 77.5)]
    first, _ = bands(auroc)
    std = {1: 2**0.5, 2: 8**0.5, 4: 0.0, 16: 2**0.5}
    for shots, mean in drawn(auroc)["base (energy)"]:
        assert first[shots] == pytest.approx((mean - std[int(shots)], mean + std[int(shots)]))
    for axis in (auroc, accuracy):
        assert axis.get_xscale() == "log" and axis.xaxis.get_transform().base == 2
        assert axis.get_xticks().tolist() == [1, 2, 4, 16]
        assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "2", "4", "16"]
        assert [line.get_linestyle() for line in axis.lines] == ["--", "-"]  # a baseline is dashed


def test_many_methods_differ_in_colour_or_marker() -> None:
    outcome = outcome_of(
        *([grid_row(str(k), (80.0 + k,), grid_point={"data.shots": s}) for k in range(20)] for s in SHOTS)
    )
    (curves,) = shot_curves(outcome).values()
    for axis in curve_figure(curves).axes:
        assert len({(line.get_color(), line.get_marker()) for line in axis.lines}) == 20
        assert len({line.get_xdata()[0] for line in axis.lines}) == 20  # equal values do not hide each other
        assert len({line.get_marker() for line in axis.lines[:8]}) == 8  # readable without colour
        assert not axis.collections  # one seed has no deviation


@pytest.mark.parametrize(
    "grid_points",
    [
        [{}],
        [{"data.shots": 1}, {"data.shots": 2}],
        [{"data.shots": 1}, {"data.shots": 2}, {"data.shots": "all"}],
        [{"model.image_size": k} for k in (32, 48, 64)],
        [{"data.shots": 1, "data.id": name} for name in "abc"],
    ],
)
def test_without_three_numbers_of_shots_there_is_no_curve(grid_points: list[dict[str, Any]]) -> None:
    outcome = outcome_of(*([grid_row("a", (80.0, 81.0), grid_point=point)] for point in grid_points))
    assert shot_curves(outcome) == {}
    assert "number of shots" not in to_page(outcome)


def test_a_curve_for_each_value_of_another_axis() -> None:
    outcome = outcome_of(*(rows_with(shots, **{"data.id": name}) for shots in (*SHOTS, "all") for name in ("x", "y")))
    found = shot_curves(outcome)
    assert list(found) == ["id x", "id y"] and all(len(curves) == 2 for curves in found.values())
    assert list(found["id y"][0].metrics["AUROC ↑"]) == [1, 2, 4, 16]
    headings = re.findall(r"<h2>(.*?)</h2>", to_page(outcome))
    assert headings[:3] == ["number of shots, id x", "number of shots, id y", "shots 1, id x"]


def test_without_ood_sets_there_is_the_accuracy_alone() -> None:
    (curves,) = shot_curves(outcome_of(*(rows_with(shots, sets={}) for shots in SHOTS))).values()
    assert list(curves[0].metrics) == ["ID accuracy ↑"] and len(curve_figure(curves).axes) == 1


def test_the_page_holds_the_figure_its_text_and_its_tables() -> None:
    page = to_page(OUTCOME)
    (curves,) = shot_curves(OUTCOME).values()
    (text,) = re.findall(r'<div role="img" aria-label="(.*?)"><svg', page)
    assert text == describe_shot_curves(curves)
    assert "AUROC with 1 and with 16 shots: base (energy) 81.0, 96.0; ours 82.5, 97.5. ID accuracy with" in text
    (caption,) = re.findall(r'<figure class="picture"><figcaption>(.*?)</figcaption>', page)
    assert caption == (
        "AUROC by each method&#39;s score (OOD set only (n 70)) and ID accuracy against the number of shots, in "
        "percent: mean over seeds, bands: ± one standard deviation; dashed: baselines; points at the same number "
        "of shots are shifted sideways, so that equal ones stay visible"
    )
    assert page.index('class="picture"') < page.index("<h2>shots 1</h2>")
    columns = curve_columns(curves, "AUROC ↑")
    assert [column.title for column in columns] == ["shots 1", "shots 2", "shots 4", "shots 16"]
    assert [[cell.text for cell in column.cells] for column in columns] == [
        ["81.0", "82.5"],
        ["83.0", "84.5"],
        ["90.0", "91.5"],
        ["96.0", "97.5"],
    ]
    (figure,) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert not re.search(r"(?:fill|stroke): #", figure)


def luminance(color: str) -> float:
    """The relative luminance of ``#rgb`` or ``#rrggbb`` (WCAG 2.2)."""
    digits = color[1:] if len(color) == 7 else "".join(2 * digit for digit in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_of_a_method_stands_out_in_light_in_dark_and_in_print() -> None:
    template = read_template("grid.html.j2")
    palettes = [
        dict(re.findall(r"(--[\w-]+): (#\w+)", block)) for block in re.findall(r":root {(.*?)}", template, re.S)
    ]
    assert len(palettes) == 3
    for palette in palettes:
        colors = [palette[PAGE_COLORS[color].removeprefix("var(").removesuffix(")")] for color in METHOD_COLORS]
        assert len(set(colors)) == len(METHOD_COLORS)
        for color in colors:
            dark, light = sorted((luminance(color), luminance(palette["--paper"])))
            assert (light + 0.05) / (dark + 0.05) >= 3, color
