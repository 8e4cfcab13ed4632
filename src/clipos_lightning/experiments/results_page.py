"""A benchmark's outcome as one self-contained HTML page. Pure functions."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup

from ..reporting.html import break_between_words, read_template
from ..reporting.plots import svg_element
from .columns import (
    METRIC_NAMES,
    Column,
    main_columns,
    overall_name,
    reference_name,
    rows_by_detector,
    score_columns,
    seed_columns,
    set_columns,
)
from .grid_plots import LINE_COLORS, DotPlot, dot_plot, option_panels
from .shot_curves import ShotCurve, curve_columns, curve_figure, describe_shot_curves, shot_curves
from .tables import by_grid_point, describe_tests, grid_title


@dataclass(frozen=True)
class PageTable:
    """One table of the page.

    Attributes:
        caption: above the table.
        head: heading of the first column.
        labels: the first column: a name, and what is printed small below it (empty for nothing).
        columns: the other columns.
        folded: whether the table is shown only after a click on its caption.
    """

    caption: str
    head: str
    labels: Sequence[tuple[str, str]]
    columns: Sequence[Column]
    folded: bool = False


class WideFigure(NamedTuple):
    """A wide figure: its caption, the SVG element, and its alternative text (empty: the caption says it all)."""

    caption: str
    svg: Markup
    text: str = ""


@dataclass(frozen=True)
class PageSection:
    """One section of the page.

    Attributes:
        heading: empty for none.
        tables: the first one is shown above the figures.
        dots: the dot plot.
        panels: small figures side by side, caption to SVG element.
        picture: a wide figure.
    """

    heading: str
    tables: Sequence[PageTable]
    dots: DotPlot | None = None
    panels: Mapping[str, Markup] | None = None
    picture: WideFigure | None = None


def to_page(outcome: Mapping[str, Any]) -> str:
    """One self-contained HTML page.

    Args:
        outcome: the contents of ``results.json``.
    """
    sections = list(curve_sections(outcome))
    for grid_point, rows in by_grid_point(outcome).items():
        panels = {name: svg_element(figure) for name, figure in option_panels(rows).items()}
        sections.append(PageSection(grid_point, page_tables(rows), dot_plot(rows), panels))
    rows = outcome["grid_points"][0]["rows"]
    return render_page(grid_title(outcome), [describe_tests(outcome), *reading_notes(rows)], sections)


def curve_sections(outcome: Mapping[str, Any]) -> Iterator[PageSection]:
    """The curves over the number of shots with their tables; nothing if the grid has too few numbers of shots."""
    overall = overall_name(outcome["grid_points"][0]["rows"])
    for others, curves in shot_curves(outcome).items():
        labels = [(curve.name, curve.score) for curve in curves]
        tables = [
            PageTable(f"{metric} by number of shots", "method", labels, curve_columns(curves, metric))
            for metric in curves[0].metrics
        ]
        picture = WideFigure(
            curve_caption(curves, overall), svg_element(curve_figure(curves)), describe_shot_curves(curves)
        )
        yield PageSection(", ".join(filter(None, ("number of shots", others))), tables, picture=picture)


def curve_caption(curves: Sequence[ShotCurve], overall: str) -> str:
    """What the curves show."""
    auroc = f"AUROC by each method's score ({overall}) and ID accuracy" if overall else "ID accuracy"
    spreads = [spread for curve in curves for points in curve.metrics.values() for spread in points.values()]
    several = any(spread["std"] is not None for spread in spreads)
    seeds = "mean over seeds, bands: ± one standard deviation" if several else "one seed"
    dashed = "; dashed: baselines" if any(curve.baseline for curve in curves) else ""
    shifted = "; points at the same number of shots are shifted sideways, so that equal ones stay visible"
    return f"{auroc} against the number of shots, in percent: {seeds}{dashed}{shifted}"


def reading_notes(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How to read the tables."""
    seeds = len(rows[0]["seeds"])
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no standard deviation"
    notes = [f"AUROC and FPR95 in percent, ID is positive; {spread}. Best of each column in bold."]
    if reference := reference_name(rows):
        notes.append(
            f"Δ AUROC: difference to {reference}, with the 95 % interval of a paired bootstrap over test images. "
            "An interval that contains 0 leaves open which is better."
        )
    return notes


def page_tables(rows: Sequence[Mapping[str, Any]]) -> list[PageTable]:
    """The tables of a grid point: all rows at a glance, then by OOD set, score and seed."""
    labels = [(row["row"], row["score"]) for row in rows]
    overall = overall_name(rows)
    tables = [PageTable(overall[:1].upper() + overall[1:] or "ID accuracy", "method", labels, main_columns(rows))]
    if len(rows[0]["mean"]["ood"]) > 1:
        for metric, name in METRIC_NAMES.items():
            tables.append(PageTable(f"{name} by OOD set", "method", labels, set_columns(rows, metric)))
    detectors = rows_by_detector(rows)
    for metric, name in METRIC_NAMES.items() if overall else ():
        columns = score_columns(detectors, metric)
        caption = f"{name} by score, {overall}"
        tables.append(PageTable(caption, "method", [(row["row"], "") for row in detectors], columns, folded=True))
    return [*tables, PageTable("Every seed", "method", labels, seed_columns(rows), folded=True)]


def render_page(title: str, notes: Sequence[str], sections: Sequence[PageSection]) -> str:
    """Render the HTML template.

    Args:
        title: of the page.
        notes: paragraphs below the title.
        sections: the tables and figures.
    """
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"breakable": breakable}
    template = environment.from_string(read_template("grid.html.j2"))
    return template.render(title=title, notes=notes, sections=sections, lines=LINE_COLORS)


def breakable(name: str) -> Markup:
    """A heading as HTML that may be broken after underscores, hyphens and slashes, but not in front of an arrow."""
    return break_between_words(re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", name))
