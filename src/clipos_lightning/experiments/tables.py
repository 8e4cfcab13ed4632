"""Write a benchmark's outcome as Markdown, CSV, LaTeX and a single HTML page. Pure functions."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from ..evaluation.metrics import OOD_METRICS
from ..evaluation.scores import in_order

AVERAGES = {"average": "average", "average_near": "near", "average_far": "far"}
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
    if any(t["id"]["name"] == "scenes" for t in sets.values()):
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


def signed(value: float) -> str:
    """One decimal with the sign, except for zero."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def header(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Column names of the main table; :func:`body` yields its rows."""
    sets = [f"{name} (n {metrics['n']:,})" for name, metrics in rows[0]["seeds"][0]["ood"].items()]
    averages = [AVERAGES[kind] for kind in AVERAGES if kind in rows[0]["mean"]]
    return ["method", "score", "ID accuracy", *averages, f"Δ AUROC to {reference_of(rows)} [95 %]", *sets]


def reference_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Name of the row that the others are compared with."""
    return next((row["difference"]["to"] for row in rows if "difference" in row), "the best baseline")


def body(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """Rows of the main table: AUROC / FPR95, mean ± std over seeds."""
    for row in rows:
        mean = row["mean"]
        averages = [auroc_and_fpr95(mean[kind]) for kind in AVERAGES if kind in mean]
        sets = [auroc_and_fpr95(metrics) for metrics in mean["ood"].values()]
        yield [
            row["name"].replace("|", "\\|"),
            f"`{row['score']}`",
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
    lines = [f"# {grid_title(outcome)}", "", f"{describe_tests(outcome)} Cells: AUROC ↑ / FPR95 ↓ {NOTE}"]
    for grid_point, rows in by_grid_point(outcome).items():
        lines += ["", f"## {grid_point}" if grid_point else "## Results", "", *markdown_table(header(rows), body(rows))]
        lines += ["", "### Every score: average AUROC / FPR95", "", *markdown_table(*score_table(rows))]
        lines += ["", "### Every seed: ID accuracy, average AUROC / FPR95", "", *markdown_table(*seed_table(rows))]
    return "\n".join(lines) + "\n"


def short_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows of the main table without the individual OOD sets, for a terminal."""
    head = header(rows)
    count = len(head) - len(rows[0]["mean"]["ood"])
    return head[:count], [row[:count] for row in body(rows)]


def markdown_table(head: Sequence[str], rows: Any) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1), *(f"| {' | '.join(r)} |" for r in rows)]


def score_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: one row per score, one column per row of the grid, average AUROC / FPR95."""
    chosen = list({row["row"]: row for row in reversed(rows)}.values())[::-1]
    names = in_order(dict.fromkeys(score for row in chosen for score in row["mean"]["scores"]))
    found = []
    for name in names:
        scores = [row["mean"]["scores"].get(name) for row in chosen]
        found.append([f"`{name}`", *("–" if s is None else auroc_and_fpr95(s) for s in scores)])
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
    """CSV with one line per row, seed and OOD set or average, and all metrics."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    grid_points = list(outcome["grid_points"][0]["rows"][0]["grid_point"])
    writer.writerow(["row", *grid_points, "seed", "score", "set", "n_id", "n_ood", "id_accuracy", *OOD_METRICS, "run"])
    for n_id, row in ((p["tests"]["id"]["n"], row) for p in outcome["grid_points"] for row in p["rows"]):
        for seed in row["seeds"]:
            for name, metrics in {**seed["ood"], **{k: seed[k] for k in AVERAGES if k in seed}}.items():
                values = [seed["accuracy"], *(metrics[m] for m in OOD_METRICS)]
                labels = [row["name"], *row["grid_point"].values(), seed["seed"], row["score"], name]
                counts = [n_id, metrics.get("n", "")]
                writer.writerow([*labels, *counts, *(f"{v:.6g}" for v in values), seed["run"]])
    return buffer.getvalue()


def to_latex(outcome: Mapping[str, Any]) -> str:
    """The main table of each grid point as LaTeX (booktabs): AUROC and FPR95 for each OOD set and average."""
    parts = ["% \\usepackage{booktabs}"]
    for grid_point, rows in by_grid_point(outcome).items():
        names = [*rows[0]["mean"]["ood"], *(AVERAGES[kind] for kind in AVERAGES if kind in rows[0]["mean"])]
        spans = " & ".join(f"\\multicolumn{{2}}{{c}}{{{escape_latex(n)}}}" for n in names)
        rules = " ".join(f"\\cmidrule(lr){{{4 + 2 * i}-{5 + 2 * i}}}" for i in range(len(names)))
        parts += ["", f"% {grid_title(outcome)}{': ' + grid_point if grid_point else ''}. {describe_tests(outcome)}"]
        parts += [
            f"\\begin{{tabular}}{{llr{'rr' * len(names)}}}",
            "\\toprule",
            f"Method & Score & ID acc. & {spans} \\\\",
            rules,
        ]
        parts += [" & & & " + " & ".join(["AUROC & FPR95"] * len(names)) + " \\\\", "\\midrule"]
        for row in rows:
            columns = [*row["mean"]["ood"].values(), *(row["mean"][k] for k in AVERAGES if k in row["mean"])]
            values = [row["mean"]["accuracy"], *(c[m] for c in columns for m in ("auroc", "fpr95"))]
            cells = " & ".join(mean_and_std(v).replace("±", "$\\pm$") for v in values)
            parts.append(f"{escape_latex(row['row'])} & {escape_latex(row['score'])} & {cells} \\\\")
        parts += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(parts) + "\n"


def escape_latex(text: str) -> str:
    """Text with LaTeX's special characters and the Greek letters of option names escaped."""
    special = {"&": "\\&", "%": "\\%", "_": "\\_", "#": "\\#", "$": "\\$", "λ": "$\\lambda$", "β": "$\\beta$"}
    special |= {"α": "$\\alpha$", "τ": "$\\tau$", "Δ": "$\\Delta$", "→": "$\\to$", "·": "$\\cdot$", ">": "$>$"}
    return "".join(special.get(character, character) for character in text)


def to_page(outcome: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """One self-contained HTML page.

    Args:
        outcome: the contents of ``results.json``.
        figures: caption to a data URI.
    """
    sections = [
        (
            grid_point,
            [
                ("AUROC ↑ / FPR95 ↓ by OOD set", header(rows), list(body(rows))),
                ("Every score: average AUROC / FPR95", *score_table(rows)),
                ("Every seed: ID accuracy, average AUROC / FPR95", *seed_table(rows)),
            ],
        )
        for grid_point, rows in by_grid_point(outcome).items()
    ]
    return render_page(grid_title(outcome), f"{describe_tests(outcome)} Metrics {NOTE}", sections, figures)


def render_page(title: str, note: str, sections: Sequence[Any], figures: Mapping[str, str]) -> str:
    """Render the HTML template; a section is (heading, tables), a table is (caption, column names, rows)."""
    source = (files("clipos_lightning.reporting") / "templates" / "grid.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(title=title, note=note, sections=sections, figures=figures)
