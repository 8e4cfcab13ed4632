"""Columns of a benchmark's result tables, as the HTML page, LaTeX and the terminal show them. Pure functions."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from ..evaluation.score_names import in_order

AVERAGES = {"average": "average", "average_near": "near", "average_far": "far"}
METRIC_NAMES = {"auroc": "AUROC ↑", "fpr95": "FPR95 ↓"}
Rows = Sequence[Mapping[str, Any]]  # the rows of a grid point in ``results.json``


class Cell(NamedTuple):
    """One cell of a table: a number, what is printed small behind it, and whether it is the best of its column."""

    text: str
    note: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: name of the metric, the OOD set or the score.
        cells: one cell per row.
        group: what several columns next to each other have in common, such as the OOD set.
        lower: whether lower numbers are better.
    """

    heading: str
    cells: tuple[Cell, ...]
    group: str = ""
    lower: bool = False

    @property
    def title(self) -> str:
        """The heading with its group."""
        return f"{self.group} {self.heading}".strip()


def with_std(spread: Mapping[str, Any] | None) -> Cell:
    """The mean of a spread, with the standard deviation as its note if there are several seeds; a dash for None."""
    if spread is None:
        return Cell("–")
    return Cell(f"{spread['mean']:.1f}", "" if spread["std"] is None else f"± {spread['std']:.1f}")


def mark_best(column: Column) -> Column:
    """Mark the cells with the best printed number of a column; cells without a number are never the best.

    Example:
        >>> column = Column("FPR95 ↓", (Cell("9.5"), Cell("–"), Cell("10.4")), lower=True)
        >>> [cell.best for cell in mark_best(column).cells]
        [True, False, False]
    """
    numbers = [float(cell.text) for cell in column.cells if is_number(cell.text)]
    if not numbers:
        return column
    best = min(numbers) if column.lower else max(numbers)
    cells = (cell._replace(best=is_number(cell.text) and float(cell.text) == best) for cell in column.cells)
    return replace(column, cells=tuple(cells))


def is_number(text: str) -> bool:
    """Whether a cell's text is a number."""
    return text.lstrip("+-").replace(".", "", 1).isdigit()


def metric_column(rows: Rows, path: Sequence[str], metric: str, heading: str = "", group: str = "") -> Column:
    """The column of one metric.

    Args:
        rows: rows of a grid point.
        path: keys in the row's ``mean`` that lead to the metrics, such as ("ood", "noise") or ("average",).
        metric: ``auroc`` or ``fpr95``.
        heading: of the column; default: the metric's name.
        group: of the column.
    """
    cells = []
    for row in rows:
        found: Any = row["mean"]
        for key in path:
            found = found.get(key, {})
        cells.append(with_std(found.get(metric)))
    return mark_best(Column(heading or METRIC_NAMES[metric], tuple(cells), group, lower=metric == "fpr95"))


def accuracy_column(rows: Rows) -> Column:
    """The ID accuracy."""
    return mark_best(Column("ID accuracy ↑", tuple(with_std(row["mean"]["accuracy"]) for row in rows)))


def difference_column(rows: Rows) -> Iterator[Column]:
    """The AUROC difference to the reference with its 95 % interval; nothing if the rows have no reference."""
    reference = reference_name(rows)
    if reference:
        cells = (difference_cell(row.get("difference")) for row in rows)
        yield Column(f"Δ AUROC to {reference}", tuple(cells))


def difference_cell(difference: Mapping[str, Any] | None) -> Cell:
    """An AUROC difference with its interval as the note; the reference itself has none."""
    if difference is None:
        return Cell("reference")
    low, high = signed(difference["low"]), signed(difference["high"])
    return Cell(signed(difference["auroc"]), f"[{low}, {high}]")


def signed(value: float) -> str:
    """One decimal with the sign, except for zero."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def reference_name(rows: Rows) -> str:
    """Name of the row that the others are compared with; empty if there is none."""
    return next((row["difference"]["to"] for row in rows if "difference" in row), "")


def averages_of(rows: Rows) -> dict[str, str]:
    """Key to name of the averages that say something of their own.

    There are none over a single set, and the near or far ones are left out if they are over all sets.
    """
    mean = rows[0]["mean"]
    if len(mean["ood"]) < 2:
        return {}
    return {k: name for k, name in AVERAGES.items() if k in mean and (k == "average" or mean[k] != mean["average"])}


def overall_path(rows: Rows) -> tuple[str, ...]:
    """Where a row's ``mean`` holds the metrics over all OOD sets: the average, or the only set; empty without sets."""
    sets = list(rows[0]["mean"]["ood"])
    return ("average",) if len(sets) > 1 else ("ood", *sets) if sets else ()


def overall_name(rows: Rows) -> str:
    """What the metrics over all OOD sets are of, such as ``average of 5 OOD sets``; empty without sets."""
    sets = rows[0]["seeds"][0]["ood"]
    if len(sets) > 1:
        return f"average of {len(sets)} OOD sets"
    return next((f"OOD set {name} (n {metrics['n']:,})" for name, metrics in sets.items()), "")


def main_columns(rows: Rows) -> list[Column]:
    """The columns that compare the rows at a glance: difference to the reference, AUROC, FPR95, ID accuracy."""
    path = overall_path(rows)
    metrics = [metric_column(rows, path, metric) for metric in METRIC_NAMES if path]
    return [*difference_column(rows), *metrics, accuracy_column(rows)]


def set_columns(rows: Rows, metric: str) -> list[Column]:
    """One metric for each average and each OOD set; the number of images is in the heading."""
    columns = [metric_column(rows, (kind,), metric, name) for kind, name in averages_of(rows).items()]
    sets = rows[0]["seeds"][0]["ood"]
    return columns + [metric_column(rows, ("ood", s), metric, f"{s} (n {m['n']:,})") for s, m in sets.items()]


def paired_columns(rows: Rows, with_sets: bool) -> list[Column]:
    """AUROC and FPR95 over all OOD sets; if ``with_sets``, of each average and each OOD set."""
    groups: list[tuple[tuple[str, ...], str]] = [((kind,), name) for kind, name in averages_of(rows).items()]
    groups += [(("ood", name), name) for name in rows[0]["mean"]["ood"]]
    chosen = groups if with_sets else groups[:1]
    return [metric_column(rows, path, metric, group=name) for path, name in chosen for metric in METRIC_NAMES]


def rows_by_detector(rows: Rows) -> list[Mapping[str, Any]]:
    """One row per detector: rows that only differ in their headline score share all scores."""
    return list({row["row"]: row for row in reversed(rows)}.values())[::-1]


def score_columns(rows: Rows, metric: str) -> list[Column]:
    """One metric over all OOD sets for every score; a dash for a detector that does not have the score.

    Args:
        rows: from :func:`rows_by_detector`.
        metric: ``auroc`` or ``fpr95``.
    """
    names = in_order(dict.fromkeys(score for row in rows for score in row["mean"]["scores"]))
    return [metric_column(rows, ("scores", name), metric, name) for name in names]


def seed_columns(rows: Rows) -> list[Column]:
    """AUROC and FPR95 over all OOD sets and ID accuracy of every seed."""
    columns = []
    for i, seed in enumerate(rows[0]["seeds"]):
        seeds = [row["seeds"][i] for row in rows]
        group = f"seed {seed['seed']}"
        for metric, heading in METRIC_NAMES.items():
            if "average" in seed:
                cells = tuple(Cell(f"{s['average'][metric]:.1f}") for s in seeds)
                columns.append(mark_best(Column(heading, cells, group, lower=metric == "fpr95")))
        columns.append(mark_best(Column("ID accuracy ↑", tuple(Cell(f"{s['accuracy']:.1f}") for s in seeds), group)))
    return columns
