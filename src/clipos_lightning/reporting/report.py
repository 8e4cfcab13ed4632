"""From test tables to the report: metrics per set and score, Markdown, JSON. Pure functions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.heads import SIDES, ZERO_SHOT
from ..evaluation.metrics import OOD_METRICS, boundary_f, mask_iou, ood_metrics
from ..evaluation.results import Columns, Results
from ..evaluation.scores import in_order
from ..evaluation.thresholds import operating_point

Metrics = dict[str, Any]

HEADERS = {"auroc": "AUROC ↑", "fpr95": "FPR95 ↓", "aupr_in": "AUPR-in ↑", "aupr_out": "AUPR-out ↑"}


def summarise(
    results: Mapping[str, Mapping[str, NDArray[Any]]],
    labels: NDArray[np.int64],
    kinds: Mapping[str, str | None],
    prefix: str = "",
) -> Metrics:
    """One detector's part of the report: ID accuracy, metrics per OOD set and score, averages over sets.

    Args:
        results: set to column to values, the ID test set as ``id``.
        labels: true classes of the ID test set.
        kinds: OOD set to ``near``, ``far`` or None.
        prefix: of the detector's columns.
    """
    ours = results["id"]
    names = [name.removeprefix(prefix) for name in ours if name.startswith(prefix)]
    scores = in_order(name for name in names if "/" not in name and name != "predicted")
    accuracy = 100 * float(np.mean(ours[f"{prefix}predicted"] == labels))
    ood: dict[str, dict[str, Metrics]] = {}
    for name in (n for n in results if n != "id"):
        pairs = {s: (ours[f"{prefix}{s}"], results[name][f"{prefix}{s}"]) for s in scores}
        ood[name] = {s: {**ood_metrics(a, b, f"score {s} of {name}"), "n": len(b)} for s, (a, b) in pairs.items()}
    part: Metrics = {"id": {"n": len(labels), "accuracy": accuracy}, "ood": ood, "average": average(ood)}
    for kind in ("near", "far"):
        chosen = {name: value for name, value in ood.items() if kinds.get(name) == kind}
        if chosen:
            part[f"average_{kind}"] = average(chosen)
    return part


def average(ood: Mapping[str, Mapping[str, Metrics]]) -> dict[str, Metrics]:
    """Unweighted mean over OOD sets of each metric of each score; {} where there is no set."""
    scores = list(next(iter(ood.values()), {}))
    return {s: {m: float(np.mean([ood[name][s][m] for name in ood])) for m in OOD_METRICS} for s in scores}


def mask_metrics(table: Columns, grid: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Delta > 0, S > 0.5 and S_clip > 0.5 against the true mask: mean IoU and boundary F over images, by patches.

    A patch is truth when the object covers at least half of it; an image whose truth covers no patch is left out.
    """
    if "map/truth/0" not in table:
        return {}
    patches = range(grid[0] * grid[1])
    s, clip, share = (np.stack([table[f"map/{k}/{p}"] for p in patches], 1) for k in ("s", "clip", "truth"))
    truth = (share >= 0.5).reshape(-1, *grid)
    seen = truth.any((1, 2))
    if not seen.any():
        return {}
    masks = {"delta": s - clip > 0, "s": s > 0.5, "clip": clip > 0.5}
    judged = {}
    for name, mask in masks.items():
        pairs = list(zip(mask.reshape(-1, *grid)[seen], truth[seen], strict=True))
        judged[name] = {
            "iou": float(np.mean([mask_iou(m, t) for m, t in pairs])),
            "boundary_f": float(np.mean([boundary_f(m, t) for m, t in pairs])),
        }
    return judged


def build_report(
    results: Results,
    labels: NDArray[np.int64],
    kinds: Mapping[str, str | None],
    headline: str,
    id_name: str,
    grid: tuple[int, int],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """The whole report as plain data (schema 1): percent, masks 0-1."""
    trained = f"{ZERO_SHOT}predicted" in results["id"]
    main = summarise(results, labels, kinds)
    zero_shot = summarise(results, labels, kinds, ZERO_SHOT) if trained else main
    main = {**main, "id": {"name": id_name, **main["id"]}}
    zero_shot = {**zero_shot, "id": {"name": id_name, **zero_shot["id"]}}
    sides = {n: summarise(results, labels, kinds, p) for n, p in SIDES.items() if f"{p}predicted" in results["id"]}
    more = {
        **sides,
        "masks": mask_metrics(results["id"], grid),
        "operating": operating_point(results, labels, headline),
    }
    return {"schema": 1, "headline": headline, **main, "zero_shot": zero_shot, **more, "run": dict(run)}


def paired_scores(results: Results, score: str, trained: bool) -> dict[str, dict[str, tuple[Any, Any]]]:
    """OOD set to detector to (ID scores, OOD scores), for the detectors that have this score: what ROC curves show."""
    detectors = {"trained": "", "zero-shot": ZERO_SHOT} if trained else {"zero-shot": ""}
    columns = {label: f"{p}{score}" for label, p in detectors.items() if f"{p}{score}" in results["id"]}
    return {
        name: {label: (results["id"][column], table[column]) for label, column in columns.items()}
        for name, table in results.items()
        if name != "id"
    }


def is_trained(report: Mapping[str, Any]) -> bool:
    """Whether a trained detector was tested, or the zero-shot one alone."""
    return bool(report["run"].get("trained", True))


def report_title(report: Mapping[str, Any]) -> str:
    """What was tested; a limited run says so, so that nobody mistakes it for a full one."""
    limit = report["run"].get("limit_per_set")
    what = "OOD report" if is_trained(report) else "OOD report of the zero-shot detector (no training)"
    return f"{what}: {report['id']['name']}" + (f" — at most {limit} images per set, not a full run" if limit else "")


def set_tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One table for each OOD set and for the average(s): heading, and rows (score, trained metrics, zero-shot's)."""
    sections = [("ood", name) for name in report["ood"]]
    averages = [key for key in ("average", "average_near", "average_far") if report.get(key)]
    tables = []
    for section, name in sections + [(key, "") for key in averages]:
        ours = report[section][name] if name else report[section]
        theirs = report["zero_shot"][section][name] if name else report["zero_shot"][section]
        first = next(iter(ours.values()))
        heading = f"{name} (n_id {report['id']['n']:,}, n_ood {first['n']:,})" if name else section.replace("_", ", ")
        scores = in_order([*ours, *theirs])
        tables.append({"heading": heading, "rows": [(s, ours.get(s), theirs.get(s)) for s in scores]})
    return tables


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: a summary, then a table for each set, trained beside zero-shot."""
    lines = [f"# {report_title(report)}", "", *(f"- {line}" for line in summary_lines(report)), ""]
    trained = is_trained(report)
    zero = [f"zero-shot {h}" for h in ("AUROC ↑", "FPR95 ↓", "AUPR-in ↑")] if trained else []
    header = ["score", *HEADERS.values(), *zero]
    for table in set_tables(report):
        lines += [f"## {table['heading']}", "", f"| {' | '.join(header)} |", "|---" + "|---:" * (len(header) - 1) + "|"]
        for score, ours, theirs in table["rows"]:
            name = f"**{score}**" if score == report["headline"] else score
            cells = [format_metric(ours, m) for m in HEADERS]
            cells += [format_metric(theirs, m) for m in ("auroc", "fpr95", "aupr_in")] if trained else []
            lines.append(f"| {' | '.join([name, *cells])} |")
        lines.append("")
    lines += [f"Command: `{report['run'].get('command', '')}`", ""]
    return "\n".join(lines)


def format_metric(metrics: Mapping[str, float] | None, name: str) -> str:
    """A figure with one decimal, or a dash where the detector has no such score."""
    return "–" if metrics is None else f"{metrics[name]:.1f}"


def summary_lines(report: Mapping[str, Any]) -> list[str]:
    """The report in a few sentences."""
    ours, theirs, score = report["id"], report["zero_shot"]["id"], report["headline"]
    trained = is_trained(report)
    beside = f" (zero-shot {theirs['accuracy']:.1f} %)" if trained else ""
    lines = [f"ID accuracy {ours['accuracy']:.1f} % on {ours['n']:,} images{beside}"]
    if score in report["average"]:
        both = [(report["average"], "")] + ([(report["zero_shot"]["average"], "zero-shot ")] if trained else [])
        texts = [f"{t}AUROC {a[score]['auroc']:.1f}, FPR95 {a[score]['fpr95']:.1f}" for a, t in both if score in a]
        lines.append(f"headline `{score}`, average over {len(report['ood'])} OOD sets: {'; '.join(texts)}")
    else:
        lines.append("no OOD set was tested: give some with --data.ood_sets '[folder:PATH]' for AUROC and FPR95")
    if "images" in report:
        lines.append(sides_line(report))
    names = {"delta": "Δ > 0", "s": "S > 0.5", "clip": "plain CLIP > 0.5"}
    if report["masks"]:
        masks = ", ".join(f"{names[k]}: {v['iou']:.2f} / {v['boundary_f']:.2f}" for k, v in report["masks"].items())
        lines.append(f"masks against the truth (IoU / boundary F): {masks}")
    lines.append(operating_line(report["operating"]))
    if report["ood"] and "ood_resolution" in report["run"]:
        lines.append(f"OOD images' resolution: {report['run']['ood_resolution']} (--data.ood_resolution)")
    lines.append("FPR95: ID positive, at the threshold whose ID recall is closest to 95 %; higher score = more ID")
    return lines


def sides_line(report: Mapping[str, Any]) -> str:
    """What text alone, images alone and their blend reach, each by ID accuracy and average AUROC."""
    score, texts = report["headline"], []
    for part, name in ((report["text"], "text alone"), (report["images"], "images alone"), (report, "blend")):
        auroc = f" / {part['average'][score]['auroc']:.1f}" if score in part["average"] else ""
        texts.append(f"{name} {part['id']['accuracy']:.1f}{auroc}")
    what = "ID accuracy / AUROC" if "/" in texts[0] else "ID accuracy"
    return f"image weight {report['run'].get('image_weight', 0):g} ({what}): {', '.join(texts)}"


def operating_line(point: Mapping[str, Any]) -> str:
    """What the threshold at 95 % ID recall does to ID and OOD images."""
    ids = f"{point['id_accepted']:.1f} % of ID images, {point['id_accepted_right']:.1f} % in the right class"
    sets = sorted(point["ood_accepted"].values())
    span = f"{sets[0]:.1f} to {sets[-1]:.1f} % by set" if len(sets) > 1 else f"{sum(sets):.1f} %"
    outside = f", and of OOD images {span}" if sets else ""
    return f"at 95 % ID recall, `{point['score']}` ≥ {point['threshold']:.9g} accepts {ids}{outside}"
