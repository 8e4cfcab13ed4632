"""Curves of a benchmark over the number of shots: AUROC and ID accuracy of every method, mean and std over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..reporting.plots import GRID_COLOR, METHOD_COLORS, figure_text, new_figure
from .columns import Column, mark_best, rows_by_detector, with_std
from .tables import by_grid_point, grid_point_text

AXIS = "data.shots"
FEWEST_SHOTS = 3  # numbers of shots that make a curve
SHIFTS = 0.4  # octaves: points of different methods are shifted sideways, so that equal ones stay visible
MARKERS = "osD^vPX<>"  # not as many as colours: pairs of both repeat late
Spread = Mapping[str, Any]  # ``mean`` and ``std`` over the seeds, the latter None for a single seed


@dataclass(frozen=True)
class ShotCurve:
    """One method over the number of shots.

    Attributes:
        name: of the method; its first score is appended if the grid reports several scores of it.
        score: the score of the AUROC.
        baseline: whether it is one of the grid's baselines.
        metrics: name of the metric to its spread over the seeds at each number of shots, in percent; only the ID
            accuracy if there is no OOD set.
    """

    name: str
    score: str
    baseline: bool
    metrics: Mapping[str, Mapping[int, Spread]]


def shot_curves(outcome: Mapping[str, Any]) -> dict[str, list[ShotCurve]]:
    """The curves of a benchmark, for each combination of the values of its other axes.

    Args:
        outcome: the contents of ``results.json``.

    Returns:
        The other axes' values as text (empty without other axes) to one curve per method. Nothing if ``data.shots`` is
        not an axis with at least FEWEST_SHOTS numbers; ``all`` is not one.
    """
    found: dict[str, dict[int, list[Mapping[str, Any]]]] = {}
    for rows in by_grid_point(outcome).values():
        others = dict(rows[0]["grid_point"])
        shots = others.pop(AXIS, None)
        if isinstance(shots, int):
            found.setdefault(grid_point_text(others), {})[shots] = rows_by_detector(rows)
    return {
        others: [curve_of(i, by_shots) for i in range(len(next(iter(by_shots.values()))))]
        for others, by_shots in found.items()
        if len(by_shots) >= FEWEST_SHOTS
    }


def curve_of(position: int, by_shots: Mapping[int, Sequence[Mapping[str, Any]]]) -> ShotCurve:
    """The curve of the method at a position of the table, which is the same at each number of shots."""
    rows = {shots: by_shots[shots][position] for shots in sorted(by_shots)}
    first = next(iter(rows.values()))
    metrics = {}
    if "average" in first["mean"]:
        metrics["AUROC ↑"] = {shots: row["mean"]["average"]["auroc"] for shots, row in rows.items()}
    metrics["ID accuracy ↑"] = {shots: row["mean"]["accuracy"] for shots, row in rows.items()}
    return ShotCurve(first["name"], first["score"], first["baseline"], metrics)


def curve_columns(curves: Sequence[ShotCurve], metric: str) -> list[Column]:
    """One metric as a table: a row for each method, a column for each number of shots."""
    return [
        mark_best(Column(str(shots), tuple(with_std(curve.metrics[metric][shots]) for curve in curves), "shots"))
        for shots in curves[0].metrics[metric]
    ]


def describe_shot_curves(curves: Sequence[ShotCurve]) -> str:
    """Alternative text of the figure: where each curve starts and ends."""
    parts = []
    for metric, points in curves[0].metrics.items():
        low, *_, high = points
        ends = (f"{c.name} {c.metrics[metric][low]['mean']:.1f}, {c.metrics[metric][high]['mean']:.1f}" for c in curves)
        parts.append(f"{metric.removesuffix(' ↑')} with {low} and with {high} shots: {'; '.join(ends)}")
    return ". ".join(parts)


def curve_figure(curves: Sequence[ShotCurve]) -> Figure:
    """A panel for each metric: every method against the number of shots (log2), with a band of ± std."""
    metrics = list(curves[0].metrics)
    figure = new_figure(2.5 + 4.2 * len(metrics), 3.8)
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axis, metric in zip(axes, metrics, strict=True):
        for k, (curve, color, marker) in enumerate(zip(curves, cycle(METHOD_COLORS), cycle(MARKERS), strict=False)):
            shift = SHIFTS * (k / max(len(curves) - 1, 1) - 0.5)
            draw_curve(axis, curve, metric, 2**shift, {"color": color, "marker": marker})
        style_axis(axis, f"{metric.removesuffix(' ↑')}, %", list(curves[0].metrics[metric]))
    lines = axes[0].get_lines()
    labels = [str(k) for k in range(len(lines))]  # matplotlib leaves out labels that start with an underscore
    legend = figure.legend(lines, labels, loc="outside right upper", frameon=False, fontsize=9, handlelength=3)
    for text, curve in zip(legend.get_texts(), curves, strict=True):
        text.set_text(figure_text(curve.name))
    return figure


def draw_curve(axis: Axes, curve: ShotCurve, metric: str, factor: float, look: Mapping[str, Any]) -> None:
    """One method's means, and its band over the seeds if there are several.

    Args:
        axis: to draw on.
        curve: the method.
        metric: one of its metrics.
        factor: by which its points are shifted, on the log axis.
        look: color and marker.
    """
    points, style = curve.metrics[metric], "--" if curve.baseline else "-"
    shots, spreads = [factor * number for number in points], points.values()
    means, stds = [s["mean"] for s in spreads], [s["std"] for s in spreads]
    axis.plot(shots, means, style, markersize=6, markerfacecolor="none", label=curve.name, **look)
    if None not in stds:
        low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
        axis.fill_between(shots, low, high, color=look["color"], alpha=0.15, linewidth=0)


def style_axis(axis: Axes, label: str, shots: Sequence[int]) -> None:
    """A log2 axis with a tick at each number of shots."""
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, [str(number) for number in shots])
    axis.minorticks_off()
    axis.set_xlabel("shots (images per class)", fontsize=9)
    axis.set_title(label, fontsize=10, loc="left")
    axis.tick_params(labelsize=9)
    axis.grid(axis="y", color=GRID_COLOR, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
