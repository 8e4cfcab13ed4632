"""A benchmark's outcome for people and papers: Markdown, CSV, LaTeX, one HTML page. Pure functions."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

import jinja2

from ..evaluation.metrics import OOD_METRICS
from ..evaluation.scores import in_order

AVERAGES = {"average": "average", "average_near": "near", "average_far": "far"}


def by_grid_point(outcome: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows at each combination of the axes' values."""
    return {grid_point_text(p["rows"][0]["grid_point"]): p["rows"] for p in outcome["grid_points"]}


def grid_title(outcome: Mapping[str, Any]) -> str:
    """The grid's; a limited run says so, so that nobody mistakes it for a full one."""
    limits = {p["tests"]["limit_per_set"] for p in outcome["grid_points"]} - {None}
    return outcome["title"] + (f" — at most {max(limits)} images per set, not a full run" if limits else "")


def about(outcome: Mapping[str, Any]) -> str:
    """What was tested, in a sentence or two."""
    tests = [p["tests"] for p in outcome["grid_points"]]
    sets = {f"{t['id']['name']} ({t['id']['n']:,} test images)": t for t in tests}
    rows = outcome["grid_points"][0]["rows"]
    text = f"ID set {', '.join(sets)}; seeds {', '.join(str(s['seed']) for s in rows[0]['seeds'])}."
    resolutions = {t.get("ood_resolution", "native") for t in sets.values()} - {"native"}
    text += " OOD images first scaled down to the ID set's size." if resolutions else ""
    if any(t["id"]["name"] == "scenes" for t in sets.values()):
        text += " Pictures of scenes, from another stream, were used for tuning."
    return text


def grid_point_text(grid_point: Mapping[str, Any]) -> str:
    """``data.shots 1`` as people read it."""
    return ", ".join(f"{name.split('.')[-1]} {value}" for name, value in grid_point.items())


def mean_and_std(spread: Mapping[str, Any]) -> str:
    """Mean ± std over seeds; the mean alone of a single seed, or where the spread rounds to nothing."""
    std = spread["std"]
    return f"{spread['mean']:.1f}" if std is None or std < 0.05 else f"{spread['mean']:.1f} ± {std:.1f}"


def difference(row: Mapping[str, Any]) -> str:
    """AUROC minus the reference's, with its interval."""
    if "difference" not in row:
        return "–"
    d = row["difference"]
    return f"{signed(d['auroc'])} [{signed(d['low'])}, {signed(d['high'])}]"


def signed(value: float) -> str:
    """With its sign, but for zero."""
    text = f"{value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def header(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Column names of the main table."""
    sets = [f"{name} (n {metrics['n']:,})" for name, metrics in rows[0]["seeds"][0]["ood"].items()]
    averages = [AVERAGES[kind] for kind in AVERAGES if kind in rows[0]["mean"]]
    return ["method", "score", "ID accuracy", *averages, f"Δ AUROC to {reference_of(rows)} [95 %]", *sets]


def reference_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The row that the others are compared with."""
    return next((row["difference"]["to"] for row in rows if "difference" in row), "the best baseline")


def body(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    """The main table's runs: AUROC / FPR95, mean ± std over seeds."""
    for row in rows:
        mean = row["mean"]
        averages, sets = (
            [f"{mean_and_std(p['auroc'])} / {mean_and_std(p['fpr95'])}" for p in places]
            for places in ([mean[kind] for kind in AVERAGES if kind in mean], mean["ood"].values())
        )
        yield [
            row["name"].replace("|", "\\|"),
            f"`{row['score']}`",
            mean_and_std(mean["accuracy"]),
            *averages,
            difference(row),
            *sets,
        ]


def grid_markdown(outcome: Mapping[str, Any]) -> str:
    """The main table at each grid point, every score's averages, every seed."""
    lines = [f"# {grid_title(outcome)}", ""]
    lines += [f"{about(outcome)} Runs: AUROC ↑ / FPR95 ↓ in percent, ID positive, mean ± std over seeds; Δ: paired "]
    lines[-1] += "bootstrap over test images, 95 % interval."
    for grid_point, rows in by_grid_point(outcome).items():
        lines += ["", f"## {grid_point}" if grid_point else "## Outcome", "", *table(header(rows), body(rows))]
        lines += ["", "### Every score: average AUROC / FPR95", "", *table(*score_table(rows))]
        lines += ["", "### Every seed: ID accuracy, average AUROC / FPR95", "", *table(*seed_table(rows))]
    return "\n".join(lines) + "\n"


def short_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The main table without the single sets, for a terminal."""
    head = header(rows)
    count = len(head) - len(rows[0]["mean"]["ood"])
    return head[:count], [row[:count] for row in body(rows)]


def table(head: Sequence[str], rows: Any) -> list[str]:
    """A Markdown table."""
    return [f"| {' | '.join(head)} |", "|---|" + "---:|" * (len(head) - 1), *(f"| {' | '.join(r)} |" for r in rows)]


def score_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Rows: scores; columns: the grid's rows, once each, whatever they are judged by."""
    chosen = list({row["row"]: row for row in reversed(rows)}.values())[::-1]
    names = in_order(dict.fromkeys(score for row in chosen for score in row["mean"]["scores"]))
    found = []
    for name in names:
        scores = [row["mean"]["scores"].get(name) for row in chosen]
        found.append(
            [
                f"`{name}`",
                *("–" if s is None else f"{mean_and_std(s['auroc'])} / {mean_and_std(s['fpr95'])}" for s in scores),
            ]
        )
    return ["score", *(row["row"] for row in chosen)], found


def seed_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Rows: detectors; columns: seeds."""
    head = ["method", *(f"seed {s['seed']}" for s in rows[0]["seeds"])]
    return head, [[row["name"], *(seed_cell(s) for s in row["seeds"])] for row in rows]


def seed_cell(seed: Mapping[str, Any]) -> str:
    """Accuracy, then AUROC / FPR95."""
    average = seed.get("average")
    tail = f", {average['auroc']:.1f} / {average['fpr95']:.1f}" if average else ""
    return f"{seed['accuracy']:.1f}{tail}"


def to_csv(outcome: Mapping[str, Any]) -> str:
    """A line for each row, seed and OOD set (and average), all metrics in full."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    grid_points = list(outcome["grid_points"][0]["rows"][0]["grid_point"])
    writer.writerow(["row", *grid_points, "seed", "score", "set", "n_id", "n_ood", "id_accuracy", *OOD_METRICS, "run"])
    for n_id, row in ((p["tests"]["id"]["n"], row) for p in outcome["grid_points"] for row in p["rows"]):
        for seed in row["seeds"]:
            places = {**seed["ood"], **{k: seed[k] for k in AVERAGES if k in seed}}
            for name, metrics in places.items():
                figures = [seed["accuracy"], *(metrics[m] for m in OOD_METRICS)]
                start = [
                    row["name"],
                    *row["grid_point"].values(),
                    seed["seed"],
                    row["score"],
                    name,
                    n_id,
                    metrics.get("n", ""),
                ]
                writer.writerow([*start, *(f"{v:.6g}" for v in figures), seed["run"]])
    return buffer.getvalue()


def to_latex(outcome: Mapping[str, Any]) -> str:
    """The main table at each grid point, with booktabs: AUROC and FPR95 columns for each OOD set and the average."""
    parts = ["% \\usepackage{booktabs}"]
    for grid_point, rows in by_grid_point(outcome).items():
        names = [*rows[0]["mean"]["ood"], *(AVERAGES[kind] for kind in AVERAGES if kind in rows[0]["mean"])]
        spans = " & ".join(f"\\multicolumn{{2}}{{c}}{{{escape(n)}}}" for n in names)
        rules = " ".join(f"\\cmidrule(lr){{{4 + 2 * i}-{5 + 2 * i}}}" for i in range(len(names)))
        parts += ["", f"% {grid_title(outcome)}{': ' + grid_point if grid_point else ''}. {about(outcome)}"]
        parts += [
            f"\\begin{{tabular}}{{llr{'rr' * len(names)}}}",
            "\\toprule",
            f"Method & Score & ID acc. & {spans} \\\\",
            rules,
        ]
        parts += [" & & & " + " & ".join(["AUROC & FPR95"] * len(names)) + " \\\\", "\\midrule"]
        for row in rows:
            places = [*row["mean"]["ood"].values(), *(row["mean"][k] for k in AVERAGES if k in row["mean"])]
            values = [row["mean"]["accuracy"], *(p[m] for p in places for m in ("auroc", "fpr95"))]
            runs = " & ".join(mean_and_std(v).replace("±", "$\\pm$") for v in values)
            parts.append(f"{escape(row['row'])} & {escape(row['score'])} & {runs} \\\\")
        parts += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(parts) + "\n"


def escape(text: str) -> str:
    """For LaTeX."""
    special = {"&": "\\&", "%": "\\%", "_": "\\_", "#": "\\#", "$": "\\$", "λ": "$\\lambda$", "β": "$\\beta$"}
    special |= {"α": "$\\alpha$", "τ": "$\\tau$", "Δ": "$\\Delta$", "→": "$\\to$", "·": "$\\cdot$", ">": "$>$"}
    return "".join(special.get(character, character) for character in text)


def to_json(outcome: Mapping[str, Any]) -> str:
    """The outcome in full."""
    return json.dumps(outcome, indent=1, ensure_ascii=False) + "\n"


def to_page(outcome: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """One self-contained HTML page; ``figures``: caption to a data URI."""
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
    note = "In percent, ID positive, mean ± std over seeds; Δ: paired bootstrap over test images, 95 % interval."
    return render_page(grid_title(outcome), f"{about(outcome)} {note}", sections, figures)


def render_page(title: str, note: str, sections: Sequence[Any], figures: Mapping[str, str]) -> str:
    """The page: sections are (heading, tables), a table is (caption, column names, rows)."""
    source = (files("clipos_lightning.reporting") / "templates" / "grid.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(title=title, note=note, sections=sections, figures=figures)
