"""The report as one self-contained HTML page that works offline. Plain data, tables and pictures in, text out.

The page holds no raw scores: how many images of each cell of the confusion drop out at each threshold of a grid is
counted here and embedded, so every number under the slider is exact, and the page is small however many images there
are. Without JavaScript it shows the threshold of 95 % ID recall.
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
from .report import HEADERS, format_metric, is_trained, paired_scores, report_title, set_tables, summary_lines

RECALLS = (0.8, 0.9, 0.95, 0.99)  # buttons beside the slider
BESIDE = ("auroc", "fpr95", "aupr_in")  # the zero-shot detector's columns


def report_html(
    report: Mapping[str, Any],
    results: Results,
    labels: NDArray[np.int64],
    class_names: Sequence[str],
    pictures: Mapping[str, Sequence[Example]],
) -> str:
    """The page.

    Args:
        report: as in report.json.
        results: set to column to values, the ID test set as ``id``.
        labels: true classes of the ID test set.
        class_names: C names.
        pictures: the galleries; those that are missing are left out.
    """
    score = report["headline"]
    table = confusion(results, labels, class_names, score)
    axis = common_axis([columns[score] for columns in results.values()])
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": code, "percent": format_percent, "unbroken": unbroken}
    return environment.from_string(asset("report.html.j2")).render(
        css=Markup(asset("report.css")),
        js=Markup(asset("report.js")),
        title=report_title(report),
        summary=summary_lines(report),
        tiles=tiles(report),
        report=report,
        trained=is_trained(report),
        overview=overview(report),
        tables=set_tables(report),
        headers=HEADERS,
        beside=BESIDE,
        cell=format_metric,
        table=table,
        now=snapshot(table),
        payload=Markup(json.dumps(payload(table, axis), separators=(",", ":"))),
        presets=[(f"{recall:.0%}".replace("%", " %"), table.index_at_recall(recall)) for recall in RECALLS],
        axis=axis,
        strips=[(name, histogram_path(columns[score], axis)) for name, columns in results.items()],
        rocs=roc_panels(paired_scores(results, score, is_trained(report))),
        mistakes={name: [tile(e) for e in found] for name, found in pictures.items() if name != "classes"},
        heat=[heat_maps(e) for e in pictures.get("classes", [])],
    )


def asset(name: str) -> str:
    """The text of a file that comes with the package."""
    return (files(__package__) / "templates" / name).read_text(encoding="utf-8")


def code(text: str) -> Markup:
    """Words between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def unbroken(text: str) -> str:
    """The text on one line."""
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def format_percent(count: float, total: float) -> str:
    """A share with one decimal, or a dash where there is nothing to take a share of."""
    return f"{100 * count / total:.1f}" if total else "–"


def tiles(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The figures on top: name, value, and the zero-shot detector's where that is another."""
    score, other = report["headline"], report["zero_shot"]
    zero = (lambda value: f"zero-shot {value:.1f}") if is_trained(report) else (lambda value: "")
    found = [("ID accuracy", f"{report['id']['accuracy']:.1f} %", zero(other["id"]["accuracy"]))]
    for name, heading in (("auroc", "AUROC ↑"), ("fpr95", "FPR95 ↓")):
        if score in report["average"]:
            beside = zero(other["average"][score][name]) if score in other["average"] else ""
            found.append((heading, f"{report['average'][score][name]:.1f}", beside))
    point = report["operating"]
    found.append(("ID accepted in the right class", f"{point['id_accepted_right']:.1f} %", "at 95 % ID recall"))
    if point["ood_accepted"]:
        mean = float(np.mean(list(point["ood_accepted"].values())))
        found.append(("OOD accepted", f"{mean:.1f} %", "at 95 % ID recall, mean over sets"))
    return found


def overview(report: Mapping[str, Any]) -> dict[str, list[tuple[str, Any, Any]]]:
    """The headline score alone, (name, metrics, zero-shot's): a row for each set, and for each average."""
    score, other = report["headline"], report["zero_shot"]
    sets = [(name, scores[score], other["ood"][name].get(score)) for name, scores in report["ood"].items()]
    keys = [key for key in ("average", "average_near", "average_far") if report.get(key)]
    means = [(key.replace("_", ", "), report[key][score], other[key].get(score)) for key in keys]
    return {"sets": sets, "averages": means}


def snapshot(table: Confusion) -> dict[str, Any]:
    """Counts at the default threshold, as lists."""
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


def payload(table: Confusion, axis: Axis) -> dict[str, Any]:
    """What the slider needs: for each cell ``[k, n, …]``, n images are accepted at threshold k and at none above."""
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


def tile(example: Example) -> dict[str, Any]:
    """One mistake: the image, the image with its ID-relevant patches, and what it says below."""
    return {
        "image": image_uri(example.image),
        "masked": image_uri(fade_outside(example.image, example.mask)),
        "small": max(example.image.shape) <= 64,
        "example": example,
    }


def heat_maps(example: Example) -> dict[str, Any]:
    """One row of the heat maps: (column, picture, whether it is drawn with hard pixels)."""
    panels = example.panels.items()
    return {"example": example, "maps": [(name, image_uri(p), max(p.shape) <= 64) for name, p in panels]}
