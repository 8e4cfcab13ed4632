"""The report as one self-contained HTML page that works offline.

The page has no raw scores. It embeds, for each cell of the confusion matrix, how many images are rejected at each
threshold of a grid. So every number below the slider is exact, and the size of the page does not depend on the number
of images. Without JavaScript the page shows the threshold of 95 % ID recall.
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from ..evaluation.results import Results
from ..evaluation.thresholds import Confusion, confusion
from .alt_texts import describe_curves, describe_histogram, picture_texts
from .charts import Axis, common_axis, histogram_path, roc_panels
from .heatmaps import Example, fade_outside
from .plots import HEAT_COLORS, image_uri
from .report import (
    HEADERS,
    ZERO_SHOT_METRICS,
    format_metric,
    is_trained,
    overview,
    paired_scores,
    report_title,
    set_tables,
    summary_lines,
)

BACKTICK = "\0"  # of a name, which is not code
RECALLS = (0.8, 0.9, 0.95, 0.99)  # buttons next to the slider
WORDS = re.compile(r"[^_/-]*[_/-]+|[^_/-]+")  # parts of a name; it may be broken between them, and at spaces
MAX_LETTERS = 70  # of the longest words of the matrix's columns together, in a window of 1,000 pixels


def report_html(
    report: Mapping[str, Any],
    results: Results,
    labels: NDArray[np.integer],
    class_names: Sequence[str],
    pictures: Mapping[str, Sequence[Example]],
) -> str:
    """Render the page.

    Args:
        report: as in report.json.
        results: test set to column to values; the ID test set is called ``id``.
        labels: true classes of the ID test set, (N,).
        class_names: C names.
        pictures: from :func:`~.gallery.draw_pictures`; missing galleries are left out.
    """
    score = report["headline"]
    table = confusion(results, labels, class_names, score)
    axis = common_axis([columns[score] for columns in results.values()])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": mark_code, "percent": format_percent}
    environment.filters |= {"one_line": on_one_line, "breakable": break_between_words}
    return environment.from_string(read_template("report.html.j2")).render(
        css=Markup(read_template("report.css")),
        js=Markup(read_template("report.js")),
        title=report_title(report),
        summary=summary_lines(report, lambda name: name.replace("`", BACKTICK)),
        tiles=tiles(report),
        report=report,
        trained=is_trained(report),
        overview=overview(report),
        tables=set_tables(report),
        headers=HEADERS,
        zero_shot_metrics=ZERO_SHOT_METRICS,
        format_metric=format_metric,
        table=table,
        counts=default_counts(table),
        slider_data=Markup(json.dumps(slider_data(table, axis), separators=(",", ":"))),
        presets=[(f"{recall:.0%}".replace("%", " %"), table.index_at_recall(recall)) for recall in RECALLS],
        axis=axis,
        calibrate=calibrate_command(report),
        histograms=[histogram(name, columns[score], axis) for name, columns in results.items()],
        rocs=[roc_panel(panel) for panel in roc_panels(paired_scores(results, score, is_trained(report)))],
        vertical=has_vertical_headers(table.columns),
        gradient=color_gradient(),
        mistakes={name: [mistake(e) for e in shown] for name, shown in pictures.items() if name != "classes"},
        map_rows=[map_row(e) for e in pictures.get("classes", [])],
    )


def read_template(name: str) -> str:
    """The text of a file in the folder ``templates``."""
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def mark_code(text: str) -> Markup:
    """A text as HTML, with the parts between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))).replace(BACKTICK, "`"))


def on_one_line(text: str) -> Markup:
    """A text as HTML that is not broken into several lines."""
    return Markup('<span class="line">{}</span>').format(text)


def break_between_words(name: str) -> Markup:
    """A name as HTML that may be broken after spaces, underscores, hyphens and slashes, and not inside words."""
    return Markup("<wbr>").join(WORDS.findall(name))


def has_vertical_headers(names: Sequence[str]) -> bool:
    """Whether the confusion matrix would be too wide with its columns' names from left to right."""
    letters = sum(max(map(len, re.split(r"\s", "\n".join(WORDS.findall(name))))) for name in [*names, "unknown"])
    return letters > MAX_LETTERS


def color_gradient() -> str:
    """The heat maps' colours as a CSS gradient from the lowest value to the highest."""
    colors = matplotlib.colormaps[HEAT_COLORS](np.linspace(0, 1, 11))  # the colour map has 11 colours
    return f"linear-gradient(to right, {', '.join(map(to_hex, colors))})"


def calibrate_command(report: Mapping[str, Any]) -> str | None:
    """The start of the command that gives the checkpoint a threshold, which comes next; None without a checkpoint."""
    checkpoint = report["run"].get("checkpoint")
    return checkpoint and f"clipos calibrate {shlex.quote(checkpoint)} --threshold"


def format_percent(count: float, total: float) -> str:
    """``count`` in percent of ``total`` with one decimal, or a dash if the total is 0."""
    return f"{100 * count / total:.1f}" if total else "–"


def tiles(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers at the top of the page, as (name, value, note)."""
    score, zero_shot = report["headline"], report["zero_shot"]
    note = (lambda value: f"zero-shot {value:.1f}") if is_trained(report) else (lambda value: "")
    numbers = [("ID accuracy", f"{report['id']['accuracy']:.1f} %", note(zero_shot["id"]["accuracy"]))]
    for name, heading in (("auroc", "AUROC ↑"), ("fpr95", "FPR95 ↓")):
        if score in report["average"]:
            comparison = note(zero_shot["average"][score][name]) if score in zero_shot["average"] else ""
            numbers.append((heading, f"{report['average'][score][name]:.1f}", comparison))
    point = report["operating"]
    numbers.append(("ID accepted, correct class", f"{point['id_accepted_right']:.1f} %", "at 95 % ID recall"))
    if point["ood_accepted"]:
        mean = float(np.mean(list(point["ood_accepted"].values())))
        numbers.append(("OOD accepted", f"{mean:.1f} %", "at 95 % ID recall, mean over sets"))
    return numbers


def default_counts(table: Confusion) -> dict[str, Any]:
    """The confusion counts at the default threshold, as plain data."""
    accepted = table.accepted[table.default]
    classes = len(table.right)
    return {
        "threshold": f"{table.thresholds[table.default]:.9g}",
        "cells": accepted.tolist(),
        "rows": accepted.sum(1).tolist(),
        "unknown": table.unknown[table.default].tolist(),
        "right": accepted[np.arange(classes), table.right].tolist(),
        "totals": table.totals.tolist(),
        "n": int(table.totals[:classes].sum()),
    }


def slider_data(table: Confusion, axis: Axis) -> dict[str, Any]:
    """The data of the slider.

    ``drops`` has for each cell ``[k, n, …]``: the highest threshold that accepts n of its images is the k-th.
    """
    above = np.concatenate([table.accepted[1:], np.zeros_like(table.accepted[:1])])
    drops = (table.accepted - above).reshape(len(table.thresholds), -1).T
    return {
        "thresholds": [f"{t:.9g}" for t in table.thresholds],
        "start": table.default,
        "columns": len(table.columns),
        "right": table.right.tolist(),
        "totals": table.totals.tolist(),
        "axis": [axis.low, axis.high],
        "drops": [[int(v) for k in np.flatnonzero(d) for v in (k, d[k])] for d in drops],
    }


def histogram(name: str, scores: NDArray[np.floating], axis: Axis) -> dict[str, str]:
    """A set's histogram: name, SVG path and alternative text."""
    return {"name": name, "path": histogram_path(scores, axis), "alt": describe_histogram(name, scores)}


def roc_panel(panel: Mapping[str, Any]) -> dict[str, Any]:
    """A panel of :func:`~.charts.roc_panels` with its alternative text."""
    return {**panel, "alt": describe_curves(panel["name"], {label: area for label, _, area in panel["curves"]})}


def mistake(example: Example) -> dict[str, Any]:
    """One mistake: the image, its ID-relevant patches, whether they need sharp pixels, and its caption's data."""
    texts = picture_texts(example)
    pictures = {"image": example.image, "ID-relevant": fade_outside(example.image, example.mask)}
    shown = [(image_uri(pixels), texts[title]) for title, pixels in pictures.items()]
    return {"pictures": shown, "small": max(example.image.shape) <= 64, "example": example}


def map_row(example: Example) -> dict[str, Any]:
    """One row of maps: (title, data URI, alternative text, whether it needs sharp pixels) of each panel."""
    texts, panels = picture_texts(example), example.panels.items()
    maps = [(title, image_uri(pixels), texts[title], max(pixels.shape) <= 64) for title, pixels in panels]
    return {"example": example, "maps": maps}
