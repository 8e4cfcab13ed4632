"""Plots of a benchmark: the AUROC of every row and seed, and metrics against the values of each varied option."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from ..reporting.charts import Axis
from ..reporting.plots import GRID_COLOR, ID_COLOR, OOD_COLOR, figure_text, new_figure

Row = Mapping[str, Any]
LINE_COLORS = {"AUROC": ID_COLOR, "ID accuracy": OOD_COLOR}
MARGIN = 0.03  # of the dot plot's axis on both sides, as a fraction of the values' range


@dataclass(frozen=True)
class DotRow:
    """One row of the dot plot.

    Attributes:
        name: of the table row.
        baseline: whether it is one of the grid's baselines.
        mean: average AUROC over the seeds, in percent.
        seeds: average AUROC of each seed, in percent.
    """

    name: str
    baseline: bool
    mean: float
    seeds: tuple[float, ...]


@dataclass(frozen=True)
class DotPlot:
    """AUROC of every row and seed on a common axis.

    Attributes:
        rows: in the order of the table.
        axis: AUROC in percent.
        reference: the row that the others are compared with; None if there is none.
    """

    rows: tuple[DotRow, ...]
    axis: Axis
    reference: DotRow | None


def dot_plot(rows: Sequence[Row]) -> DotPlot | None:
    """The dot plot of a grid point's rows; None if no row was tested on OOD sets."""
    dots = tuple(dot_row(row) for row in rows if "average" in row["mean"])
    if not dots:
        return None
    values = [value for dot in dots for value in (dot.mean, *dot.seeds)]
    margin = max(MARGIN * (max(values) - min(values)), 0.1)
    compared = next((row["difference"]["to"] for row in rows if "difference" in row), None)
    reference = next((dot for dot in dots if dot.name == compared), None)
    return DotPlot(dots, Axis(min(values) - margin, min(max(values) + margin, 100)), reference)


def dot_row(row: Row) -> DotRow:
    """The values of one row."""
    seeds = tuple(seed["average"]["auroc"] for seed in row["seeds"])
    return DotRow(row["name"], row["baseline"], row["mean"]["average"]["auroc"]["mean"], seeds)


def option_panels(rows: Sequence[Row]) -> dict[str, Figure]:
    """A figure for each varied option: AUROC and ID accuracy against its values, mean ± std over seeds."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row["group"] and "average" in row["mean"]:
            groups.setdefault(row["group"], []).append(row)
    return {group.removeprefix("model."): option_panel(members) for group, members in groups.items()}


def option_panel(rows: Sequence[Row]) -> Figure:
    """AUROC and ID accuracy, in percent, against the values of one option."""
    figure = new_figure(3.0, 2.2)
    axis = figure.add_subplot()
    for (name, color), spreads in zip(
        LINE_COLORS.items(),
        ([row["mean"]["average"]["auroc"] for row in rows], [row["mean"]["accuracy"] for row in rows]),
        strict=True,
    ):
        means, errors = [s["mean"] for s in spreads], [s["std"] or 0 for s in spreads]
        axis.errorbar(range(len(rows)), means, errors, marker="o", markersize=4, color=color, label=name)
    long = any(len(str(row["value"])) > 4 for row in rows)
    axis.set_xticks(range(len(rows)), [figure_text(str(row["value"])[:16]) for row in rows], rotation=30 if long else 0)
    axis.tick_params(labelsize=8)
    axis.grid(axis="y", color=GRID_COLOR, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    return figure
