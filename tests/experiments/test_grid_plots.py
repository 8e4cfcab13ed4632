"""A benchmark's plots show the outcome's own figures: what is drawn, read back from matplotlib's artists."""

from typing import Any

import pytest
from matplotlib.axes import Axes
from outcomes import compared, grid_row

from clipos_lightning.experiments.grid_plots import DotRow, dot_plot, option_panels
from clipos_lightning.reporting.plots import ID_COLOR, OOD_COLOR

OPTIONS = {"model.surgery.beta": ["0", "0.5", "a value of sixteen"], "model.mask.kind": ["none"], "data.shots": ["1"]}


@pytest.fixture
def varied() -> list[dict[str, Any]]:
    """A row for each value of each option, their figures all different."""
    pairs = [(option, value) for option, values in OPTIONS.items() for value in values]
    return [grid_row(f"{o} = {v}", (80.0 + i, 82.0 + 2 * i), group=o, value=v) for i, (o, v) in enumerate(pairs)]


def drawn(axis: Axes) -> dict[str, tuple[list[float], list[float], str]]:
    """Label of each line: its values, the half lengths of its error bars, its colour."""
    found = {}
    for container in axis.containers:
        line, _, (bars,) = container
        assert line.get_xdata().tolist() == list(range(len(line.get_xdata())))
        halves = [(segment[1, 1] - segment[0, 1]) / 2 for segment in bars.get_segments()]
        found[container.get_label()] = (line.get_ydata().tolist(), halves, line.get_color())
    return found


def test_a_panel_for_each_varied_option_with_its_means_and_errors(varied: list[dict[str, Any]]) -> None:
    one_seed = grid_row("mask.kind = other", (70.0,), group="model.mask.kind", value="other")
    panels = option_panels([grid_row("not varied", (50.0,)), *varied, one_seed])
    assert list(panels) == ["surgery.beta", "mask.kind", "data.shots"]
    shown_values = {**OPTIONS, "model.mask.kind": ["none", "other"]}
    for figure, (option, values) in zip(panels.values(), shown_values.items(), strict=True):
        (axis,) = figure.axes
        means = [row["mean"] for row in [*varied, one_seed] if row["group"] == option]
        assert axis.get_xticks().tolist() == list(range(len(values)))
        assert [label.get_text() for label in axis.get_xticklabels()] == [value[:16] for value in values]
        auroc, accuracy = drawn(axis)["AUROC"], drawn(axis)["ID accuracy"]
        for shown, spreads in (
            (auroc, [m["average"]["auroc"] for m in means]),
            (accuracy, [m["accuracy"] for m in means]),
        ):
            assert shown[0] == [s["mean"] for s in spreads]
            assert shown[1] == pytest.approx([s["std"] or 0 for s in spreads])  # a single seed has no spread
        assert (auroc[2], accuracy[2]) == (ID_COLOR, OOD_COLOR)


def test_a_dot_for_each_seed_and_one_for_the_mean(varied: list[dict[str, Any]]) -> None:
    rows = compared([grid_row("theirs", (60.0, 98.0), baseline=True), *varied])
    plot = dot_plot([*rows, grid_row("without OOD sets", (9.0,), sets={})])
    assert plot is not None
    assert [dot.name for dot in plot.rows] == [row["name"] for row in rows]
    for dot, row in zip(plot.rows, rows, strict=True):
        assert dot.seeds == tuple(seed["average"]["auroc"] for seed in row["seeds"])
        assert dot.mean == row["mean"]["average"]["auroc"]["mean"]
    assert plot.reference == plot.rows[0] == DotRow("theirs", True, 78.0, (59.0, 97.0))
    assert plot.axis.low < 59 and 97 < plot.axis.high <= 100


def test_the_axis_of_equal_rows_has_a_width_and_ends_at_100() -> None:
    plot = dot_plot([grid_row("perfect", (100.0,), sets={"only": 5})])
    assert plot is not None and plot.reference is None
    assert plot.axis.low < 100 == plot.axis.high
    assert plot.axis.ticks()


def test_without_ood_sets_there_is_nothing_to_draw() -> None:
    rows = [grid_row("no OOD sets", (80.0,), sets={}, group="data.shots", value="1")]
    assert dot_plot(rows) is None and option_panels(rows) == {}
