"""Plots of a benchmark: AUROC of every row and seed, and metrics against the values of each varied option."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from ..reporting.plots import ID_COLOR, OOD_COLOR, axes_grid, new_figure
from .tables import by_grid_point

Row = Mapping[str, Any]


def draw_outcome(outcome: Mapping[str, Any]) -> dict[str, Figure]:
    """All plots of a benchmark, by caption."""
    figures: dict[str, Figure] = {}
    for grid_point, rows in by_grid_point(outcome).items():
        with_ood = [row for row in rows if "average" in row["mean"]]
        where = f" ({grid_point})" if grid_point else ""
        if with_ood:
            figures[f"Average AUROC over OOD sets: mean, and every seed{where}"] = dots(with_ood)
        varied = [row for row in with_ood if row["group"]]
        if varied:
            figures[f"Average AUROC and ID accuracy against each option: mean ± std over seeds{where}"] = lines(varied)
    return figures


def dots(rows: Sequence[Row]) -> Figure:
    """One line per row: AUROC of each seed as light dots, their mean as a dark dot."""
    figure = new_figure(7.5, 0.27 * len(rows) + 0.9)
    axis = figure.add_subplot()
    for y, row in enumerate(reversed(rows)):
        seeds = [seed["average"]["auroc"] for seed in row["seeds"]]
        color = OOD_COLOR if row["baseline"] else ID_COLOR
        axis.plot(seeds, [y] * len(seeds), "o", color=color, alpha=0.35, markersize=4)
        axis.plot(row["mean"]["average"]["auroc"]["mean"], y, "o", color=color, markersize=7)
    axis.set_yticks(range(len(rows)), [row["name"] for row in reversed(rows)], fontsize=8)
    axis.set_xlabel("AUROC, %")
    axis.grid(axis="x", color="#dde3ea", linewidth=0.6)
    axis.set_axisbelow(True)
    return figure


def lines(rows: Sequence[Row]) -> Figure:
    """One panel per varied option: AUROC and ID accuracy against its values."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    figure, axes = axes_grid(len(groups), 2.3)
    for axis, (group, members) in zip(axes, groups.items(), strict=True):
        for name, color in (("auroc", ID_COLOR), ("accuracy", OOD_COLOR)):
            spreads = [m["mean"]["accuracy"] if name == "accuracy" else m["mean"]["average"][name] for m in members]
            means, errors = [s["mean"] for s in spreads], [s["std"] or 0 for s in spreads]
            axis.errorbar(range(len(members)), means, errors, marker="o", markersize=3, color=color, label=name)
        axis.set_title(group.removeprefix("model."), fontsize=8)
        axis.set_xticks(range(len(members)), [str(m["value"])[:14] for m in members], fontsize=6, rotation=30)
        axis.tick_params(axis="y", labelsize=6)
    axes[0].legend(fontsize=6, frameon=False)
    return figure
