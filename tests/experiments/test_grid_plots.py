"""A benchmark's plots show the outcome's own figures: what is drawn, read back from matplotlib's artists."""

from typing import Any

import pytest
from matplotlib.axes import Axes

from clipos_lightning.experiments.grid_plots import draw_outcome, lines
from clipos_lightning.reporting.plots import ID_COLOR, OOD_COLOR

OPTIONS = {"model.surgery.beta": ["0", "0.5", "a value of sixteen"], "model.mask.kind": ["none"], "data.shots": ["1"]}


def spread(mean: float, std: float | None) -> dict[str, float | None]:
    return {"mean": mean, "std": std}


def grid_row(name: str, number: int, **changes: Any) -> dict[str, Any]:
    """A row of an outcome, its figures all different."""
    auroc, std = 80.0 + number, 1.0 + number / 10
    seeds = [{"average": {"auroc": auroc - std}}, {"average": {"auroc": auroc + std}}]
    mean = {"accuracy": spread(60.0 + number, None), "average": {"auroc": spread(auroc, std)}}
    common = {"name": name, "group": "", "value": "", "baseline": False, "grid_point": {}}
    return common | {"seeds": seeds, "mean": mean} | changes


@pytest.fixture
def varied() -> list[dict[str, Any]]:
    pairs = [(option, value) for option, values in OPTIONS.items() for value in values]
    return [grid_row(f"{o} = {v}", i, group=o, value=v) for i, (o, v) in enumerate(pairs)]


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
    figure = lines(varied)
    assert [axis.get_title() for axis in figure.axes] == ["surgery.beta", "mask.kind", "data.shots"]
    for axis, (option, values) in zip(figure.axes, OPTIONS.items(), strict=True):
        means = [row["mean"] for row in varied if row["group"] == option]
        assert axis.get_xticks().tolist() == list(range(len(values)))
        assert [label.get_text() for label in axis.get_xticklabels()] == [value[:14] for value in values]
        auroc, accuracy = drawn(axis)["auroc"], drawn(axis)["accuracy"]
        assert auroc[0] == [mean["average"]["auroc"]["mean"] for mean in means]
        assert auroc[1] == pytest.approx([mean["average"]["auroc"]["std"] for mean in means])
        assert accuracy[0] == [mean["accuracy"]["mean"] for mean in means]
        assert accuracy[1] == [0] * len(values)  # a single seed has no spread
        assert (auroc[2], accuracy[2]) == (ID_COLOR, OOD_COLOR)
    legend = figure.axes[0].get_legend()
    assert legend is not None and [text.get_text() for text in legend.get_texts()] == ["auroc", "accuracy"]


def test_a_dot_for_each_seed_and_one_for_the_mean(varied: list[dict[str, Any]]) -> None:
    rows = [grid_row("theirs", 8, baseline=True), *varied, grid_row("without OOD sets", 9, mean={})]
    figures = list(draw_outcome({"grid_points": [{"rows": rows}]}).values())
    assert len(figures) == 2
    (axis,) = figures[0].axes
    names = [label.get_text() for label in axis.get_yticklabels()]
    assert names == [row["name"] for row in reversed(rows[:-1])]
    dots = list(zip(axis.lines[::2], axis.lines[1::2], strict=True))
    for place, (row, (seeds, mean)) in enumerate(zip(reversed(rows[:-1]), dots, strict=True)):
        assert seeds.get_xdata().tolist() == [seed["average"]["auroc"] for seed in row["seeds"]]
        assert list(mean.get_xdata()) == [row["mean"]["average"]["auroc"]["mean"]]
        assert {*seeds.get_ydata(), *mean.get_ydata()} == {place}
        assert mean.get_color() == seeds.get_color() == (OOD_COLOR if row["baseline"] else ID_COLOR)


def test_each_grid_point_has_its_plots_and_only_varied_rows_are_lines(varied: list[dict[str, Any]]) -> None:
    point = {"grid_point": {"data.shots": 2}}
    outcome = {"grid_points": [{"rows": varied}, {"rows": [grid_row("alone", 1, **point)]}]}
    captions = list(draw_outcome(outcome))
    assert [caption.endswith("(shots 2)") for caption in captions] == [False, False, True]
    assert draw_outcome({"grid_points": [{"rows": [grid_row("no OOD sets", 1, mean={})]}]}) == {}
