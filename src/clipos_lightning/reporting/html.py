"""The report as one self-contained HTML page that works offline.

The page has no raw scores. It embeds, for each cell of the confusion matrix, how many images are rejected at each
threshold of a grid. So every number below the slider is exact, and the size of the page does not depend on the number
of images. Without JavaScript the page shows the threshold of 95 % ID recall.
"""

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from ..evaluation.results import Results
from ..evaluation.thresholds import Confusion, confusion
from .charts import Axis, common_axis, histogram_path, roc_panels
from .heatmaps import Example, fade_outside
from .plots import image_uri
from .report import (
    HEADERS,
    ZERO_SHOT_METRICS,
    format_metric,
    is_trained,
    paired_scores,
    report_title,
    set_tables,
    summary_lines,
)

RECALLS = (0.8, 0.9, 0.95, 0.99)  # buttons next to the slider


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
    environment.filters |= {"code": mark_code, "percent": format_percent, "one_line": on_one_line}
    return environment.from_string(read_template("report.html.j2")).render(
        css=Markup(read_template("report.css")),
        js=Markup(read_template("report.js")),
        title=report_title(report),
        summary=summary_lines(report),
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
        histograms=[(name, histogram_path(columns[score], axis)) for name, columns in results.items()],
        rocs=roc_panels(paired_scores(results, score, is_trained(report))),
        mistakes={name: [mistake(e) for e in shown] for name, shown in pictures.items() if name != "classes"},
        map_rows=[map_row(e) for e in pictures.get("classes", [])],
    )


def read_template(name: str) -> str:
    """The text of a file in the folder ``templates``."""
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def mark_code(text: str) -> Markup:
    """A text as HTML, with the parts between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def on_one_line(text: str) -> Markup:
    """A text as HTML that is not broken into several lines."""
    return Markup('<span class="line">{}</span>').format(text)


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


def overview(report: Mapping[str, Any]) -> dict[str, list[tuple[str, Any, Any]]]:
    """The headline score's rows (name, metrics, zero-shot metrics) of each OOD set and of each average."""
    score, zero_shot = report["headline"], report["zero_shot"]
    sets = [(name, scores[score], zero_shot["ood"][name].get(score)) for name, scores in report["ood"].items()]
    keys = [key for key in ("average", "average_near", "average_far") if report.get(key)]
    averages = [(key.replace("_", ", "), report[key][score], zero_shot[key].get(score)) for key in keys]
    return {"sets": sets, "averages": averages}


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


def mistake(example: Example) -> dict[str, Any]:
    """One mistake: the image, its ID-relevant patches, whether it needs sharp pixels, and its caption's data."""
    return {
        "image": image_uri(example.image),
        "masked": image_uri(fade_outside(example.image, example.mask)),
        "small": max(example.image.shape) <= 64,
        "example": example,
    }


def map_row(example: Example) -> dict[str, Any]:
    """One row of similarity maps: (title, data URI, whether it needs sharp pixels) of each panel."""
    panels = example.panels.items()
    return {"example": example, "maps": [(name, image_uri(p), max(p.shape) <= 64) for name, p in panels]}
