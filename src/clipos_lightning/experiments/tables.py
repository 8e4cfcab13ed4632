"""Write a benchmark's outcome as Markdown and CSV. Pure functions."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..evaluation.metrics import OOD_METRICS
from ..evaluation.score_names import in_order
from ..utils.csv_cells import name_cell
from ..utils.markdown import escape_markdown
from .columns import AVERAGES, reference_name, rows_by_detector, signed

NOTE = "in percent, ID positive, mean ± std over seeds; Δ: paired bootstrap over test images, 95 % interval."


def by_grid_point(outcome: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Grid point as text, to its table rows."""
    return {grid_point_text(p["rows"][0]["grid_point"]): p["rows"] for p in outcome["grid_points"]}


def grid_title(outcome: Mapping[str, Any]) -> str:
    """The grid's title, with a note if ``data.limit_per_set`` was set, so that it is not mistaken for a full run."""
    limits = {p["tests"]["limit_per_set"] for p in outcome["grid_points"]} - {None}
    return outcome["title"] + (f" — at most {max(limits)} images per set, not a full run" if limits else "")


def describe_tests(outcome: Mapping[str, Any]) -> str:
    """The ID set, the seeds and what readers of the tables must know about the test images."""
    tests = [p["tests"] for p in outcome["grid_points"]]
    sets = {f"{t['id']['name']} ({t['id']['n']:,} test images)": t for t in tests}
    rows = outcome["grid_points"][0]["rows"]
    text = f"ID set {', '.join(sets)}; seeds {', '.join(str(s['seed']) for s in rows[0]['seeds'])}."
    resolutions = {t.get("ood_resolution", "native") for t in sets.values()} - {"native"}
    text += " OOD images were first scaled down to the size of the ID images." if resolutions else ""
    if any(t["id"]["name"].split("-")[0] == "scenes" for t in sets.values()):
        text += " Other images of scenes, generated from another random stream, were used for tuning."
    return text


def grid_point_text(grid_point: Mapping[str, Any]) -> str:
    """A grid point as text, such as ``shots 1``; empty if the grid has no axes."""
    return ", ".join(f"{name.split('.')[-1]} {value}" for name, value in grid_point.items())


def mean_and_std(spread: Mapping[str, Any]) -> str:
    """Mean ± std over seeds; the mean alone for a single seed, or if the std rounds to 0.0."""
    std = spread["std"]
    return f"{spread['mean']:.1f}" if std is None or std < 0.05 else f"{spread['mean']:.1f} ± {std:.1f}"


def difference(row: Mapping[str, Any]) -> str:
    """AUROC difference to the reference, with its interval; a dash if there is none, as for the reference itself."""
    if "difference" not in row:
        return "–"
    d = row["difference"]
    return f"{signed(d['auroc'])} [{signed(d['low'])}, {signed(d['high'])}]"


def header(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Column names of the main table; :func:`body` yields its rows."""
    sets = [f"{name} (n {metrics['n']:,})" for name, metrics in rows[0]["seeds"][0]["ood"].items()]
    averages = [AVERAGES[kind] for kind in AVERAGES if kind in rows[0]["mean"]]
    return [
        "method",
        "score",
        "ID accuracy",
        *averages,
        f"Δ AUROC to {reference_name(rows) or 'the best baseline'} [95 %]",
        *sets,
    ]


def body(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Rows of the main table: AUROC / FPR95, mean ± std over seeds."""
    for row in rows:
        mean = row["mean"]
        averages = [auroc_and_fpr95(mean[kind]) for kind in AVERAGES if kind in mean]
        sets = [auroc_and_fpr95(metrics) for metrics in mean["ood"].values()]
        yield [
            row["name"],
            row["score"],
            mean_and_std(mean["accuracy"]),
            *averages,
            difference(row),
            *sets,
        ]


def auroc_and_fpr95(metrics: Mapping[str, Any]) -> str:
    """AUROC / FPR95, mean ± std over seeds."""
    return f"{mean_and_std(metrics['auroc'])} / {mean_and_std(metrics['fpr95'])}"


def grid_markdown(outcome: Mapping[str, Any]) -> str:
    """For each grid point: the main table, a table of all scores, a table of all seeds."""
    about = escape_markdown(describe_tests(outcome))
    lines = [f"# {escape_markdown(grid_title(outcome))}", "", f"{about} Cells: AUROC ↑ / FPR95 ↓ {NOTE}"]
    for grid_point, rows in by_grid_point(outcome).items():
        lines += ["", f"## {escape_markdown(grid_point) or 'Results'}", ""]
        lines += markdown_table(header(rows), body(rows), code=1)
        lines += ["", "### Every score: average AUROC / FPR95", "", *markdown_table(*score_table(rows), code=0)]
        lines += ["", "### Every seed: ID accuracy, average AUROC / FPR95", "", *markdown_table(*seed_table(rows))]
    return "\n".join(lines) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], code: int | None = None) -> list[str]:
    """Lines of a Markdown table that shows its texts as they are.

    Args:
        head: column names.
        rows: the cells.
        code: the column that is printed as code, of identifiers; None: no one.
    """
    lines = [f"| {' | '.join(map(escape_markdown, head))} |", "|---|" + "---:|" * (len(head) - 1)]
    for row in rows:
        cells = [f"`{cell}`" if i == code else escape_markdown(cell) for i, cell in enumerate(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def score_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: one row per score, one column per row of the grid, average AUROC / FPR95."""
    chosen = rows_by_detector(rows)
    names = in_order(dict.fromkeys(score for row in chosen for score in row["mean"]["scores"]))
    found = []
    for name in names:
        scores = [row["mean"]["scores"].get(name) for row in chosen]
        found.append([name, *("–" if s is None else auroc_and_fpr95(s) for s in scores)])
    return ["score", *(row["row"] for row in chosen)], found


def seed_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: one row per detector, one column per seed."""
    head = ["method", *(f"seed {s['seed']}" for s in rows[0]["seeds"])]
    return head, [[row["name"], *(seed_cell(s) for s in row["seeds"])] for row in rows]


def seed_cell(seed: Mapping[str, Any]) -> str:
    """ID accuracy, average AUROC / FPR95."""
    average = seed.get("average")
    ood = f", {average['auroc']:.1f} / {average['fpr95']:.1f}" if average else ""
    return f"{seed['accuracy']:.1f}{ood}"


def to_csv(outcome: Mapping[str, Any]) -> str:
    """CSV with one line per row, seed and OOD set or average, and all metrics; no text begins like a formula."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    grid_points = list(outcome["grid_points"][0]["rows"][0]["grid_point"])
    writer.writerow(["row", *grid_points, "seed", "score", "set", "n_id", "n_ood", "id_accuracy", *OOD_METRICS, "run"])
    for n_id, row in ((p["tests"]["id"]["n"], row) for p in outcome["grid_points"] for row in p["rows"]):
        for seed in row["seeds"]:
            for name, metrics in {**seed["ood"], **{k: seed[k] for k in AVERAGES if k in seed}}.items():
                values = [seed["accuracy"], *(metrics[m] for m in OOD_METRICS)]
                labels = [row["name"], *row["grid_point"].values(), seed["seed"], row["score"], name]
                cells = [name_cell(label) if isinstance(label, str) else label for label in labels]
                counts = [n_id, metrics.get("n", "")]
                writer.writerow([*cells, *counts, *(f"{v:.6g}" for v in values), name_cell(seed["run"])])
    return buffer.getvalue()
