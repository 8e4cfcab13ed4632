"""The report of a test as plain data (``report.json``) and as Markdown: pure functions of the test tables."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..evaluation.heads import PART_PREFIXES, ZERO_SHOT
from ..evaluation.metrics import OOD_METRICS, boundary_f, mask_iou, ood_metrics
from ..evaluation.results import Columns, Results
from ..evaluation.score_names import in_order
from ..evaluation.thresholds import operating_point
from ..utils.markdown import code_span, escape_markdown

Metrics = dict[str, Any]

ZERO_SHOT_METRICS = ("auroc", "fpr95", "aupr_in")  # of the zero-shot detector in tables of a trained one
HEADERS = {"auroc": "AUROC ↑", "fpr95": "FPR95 ↓", "aupr_in": "AUPR-in ↑", "aupr_out": "AUPR-out ↑"}


def summarise(
    results: Mapping[str, Mapping[str, NDArray[Any]]],
    labels: NDArray[np.integer],
    kinds: Mapping[str, str | None],
    prefix: str = "",
) -> Metrics:
    """One detector's part of the report: ID accuracy, metrics per OOD set and score, averages over sets; in percent.

    Args:
        results: test set to column to values; the ID test set is called ``id``.
        labels: true classes of the ID test set, (N,).
        kinds: OOD set to ``near``, ``far`` or None.
        prefix: of the detector's columns.

    Raises:
        InputError: a score is not finite.
    """
    id_columns = results["id"]
    names = [name.removeprefix(prefix) for name in id_columns if name.startswith(prefix)]
    scores = in_order(name for name in names if "/" not in name and name != "predicted")
    accuracy = 100 * float(np.mean(id_columns[f"{prefix}predicted"] == labels))
    ood: dict[str, dict[str, Metrics]] = {}
    for name in (n for n in results if n != "id"):
        pairs = {s: (id_columns[f"{prefix}{s}"], results[name][f"{prefix}{s}"]) for s in scores}
        ood[name] = {s: {**ood_metrics(a, b, f"score {s} of {name}"), "n": len(b)} for s, (a, b) in pairs.items()}
    part: Metrics = {"id": {"n": len(labels), "accuracy": accuracy}, "ood": ood, "average": average(ood)}
    for kind in ("near", "far"):
        of_kind = {name: value for name, value in ood.items() if kinds.get(name) == kind}
        if of_kind:
            part[f"average_{kind}"] = average(of_kind)
    return part


def average(ood: Mapping[str, Mapping[str, Metrics]]) -> dict[str, Metrics]:
    """Score to metric to unweighted mean over the OOD sets; empty if there is no set."""
    scores = list(next(iter(ood.values()), {}))
    return {s: {m: float(np.mean([ood[name][s][m] for name in ood])) for m in OOD_METRICS} for s in scores}


def mask_metrics(table: Columns, grid: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Mean IoU and boundary F on the patch grid, in [0, 1], of three masks against the true object mask.

    The masks are Delta > 0 (``delta``), S > 0.5 (``s``) and S_clip > 0.5 (``clip``), for the true class. A patch is
    true if the object covers at least half of it; images without a true patch are left out.

    Args:
        table: column to values of the ID test set, with the columns of its maps if it has true masks.
        grid: rows and columns of patches.

    Returns:
        Mask to ``iou`` and ``boundary_f``; empty without true masks.
    """
    if "map/truth/0" not in table:
        return {}
    patches = range(grid[0] * grid[1])
    s, clip, coverage = (np.stack([table[f"map/{k}/{p}"] for p in patches], 1) for k in ("s", "clip", "truth"))
    truth = (coverage >= 0.5).reshape(-1, *grid)
    has_truth = truth.any((1, 2))
    if not has_truth.any():
        return {}
    masks = {"delta": s - clip > 0, "s": s > 0.5, "clip": clip > 0.5}
    metrics = {}
    for name, mask in masks.items():
        pairs = list(zip(mask.reshape(-1, *grid)[has_truth], truth[has_truth], strict=True))
        metrics[name] = {
            "iou": float(np.mean([mask_iou(m, t) for m, t in pairs])),
            "boundary_f": float(np.mean([boundary_f(m, t) for m, t in pairs])),
        }
    return metrics


def build_report(
    results: Results,
    labels: NDArray[np.integer],
    kinds: Mapping[str, str | None],
    headline: str,
    id_name: str,
    grid: tuple[int, int],
    run: Mapping[str, Any],
) -> dict[str, Any]:
    """Build the report of a test: the plain data of ``report.json``, schema 1, metrics in percent.

    Args:
        results: test set to column to values; the ID test set is called ``id``.
        labels: true classes of the ID test set, (N,).
        kinds: OOD set to ``near``, ``far`` or None.
        headline: name of the detector's score.
        id_name: name of the ID set.
        grid: rows and columns of patches.
        run: plain data about the run, stored under ``run``.

    Raises:
        InputError: a score is not finite.
    """
    trained = f"{ZERO_SHOT}predicted" in results["id"]
    main = summarise(results, labels, kinds)
    zero_shot = summarise(results, labels, kinds, ZERO_SHOT) if trained else main
    main = {**main, "id": {"name": id_name, **main["id"]}}
    zero_shot = {**zero_shot, "id": {"name": id_name, **zero_shot["id"]}}
    sides = {
        n: summarise(results, labels, kinds, p) for n, p in PART_PREFIXES.items() if f"{p}predicted" in results["id"]
    }
    return {
        "schema": 1,
        "headline": headline,
        **main,
        "zero_shot": zero_shot,
        **sides,
        "masks": mask_metrics(results["id"], grid),
        "operating": operating_point(results, labels, headline),
        "run": dict(run),
    }


def paired_scores(results: Results, score: str, trained: bool) -> dict[str, dict[str, tuple[Any, Any]]]:
    """The scores for ROC curves: OOD set to detector to (ID scores, OOD scores).

    Args:
        results: test set to column to values; the ID test set is called ``id``.
        score: name of the score; detectors without it are left out.
        trained: whether the results are of a trained detector and of the zero-shot one.
    """
    detectors = {"trained": "", "zero-shot": ZERO_SHOT} if trained else {"zero-shot": ""}
    columns = {label: f"{p}{score}" for label, p in detectors.items() if f"{p}{score}" in results["id"]}
    return {
        name: {label: (results["id"][column], table[column]) for label, column in columns.items()}
        for name, table in results.items()
        if name != "id"
    }


def is_trained(report: Mapping[str, Any]) -> bool:
    """Whether the report is of a trained detector, which it compares with the zero-shot one."""
    return bool(report["run"].get("trained", True))


def report_title(report: Mapping[str, Any]) -> str:
    """The title: what was tested, the limit of images per set, and the number of images left out, if there are any."""
    limit, left_out = report["run"].get("limit_per_set"), sum(report["run"].get("unreadable", {}).values())
    what = "OOD report" if is_trained(report) else "OOD report of the zero-shot detector (no training)"
    title = f"{what}: {report['id']['name']}" + (f" — at most {limit} images per set, not a full run" if limit else "")
    return title + (f" — {left_out:,} unreadable image{'s' * (left_out > 1)} left out" if left_out else "")


def shown_averages(report: Mapping[str, Any]) -> list[str]:
    """Keys of the averages worth a row or table: none over a single set, near or far only if they are not all sets."""
    if len(report["ood"]) < 2:
        return []
    keys = [key for key in ("average", "average_near", "average_far") if report.get(key)]
    return [key for key in keys if key == "average" or report[key] != report["average"]]


def overview(report: Mapping[str, Any]) -> dict[str, list[tuple[str, Any, Any]]]:
    """The headline score's rows (name, metrics, zero-shot metrics) of each OOD set and of each average."""
    score, zero_shot = report["headline"], report["zero_shot"]
    sets = [(name, scores[score], zero_shot["ood"][name].get(score)) for name, scores in report["ood"].items()]
    averages = [
        (key.replace("_", ", "), report[key][score], zero_shot[key].get(score)) for key in shown_averages(report)
    ]
    return {"sets": sets, "averages": averages}


def set_tables(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table for each OOD set and for each average: ``heading``, and ``rows`` (score, metrics, zero-shot metrics)."""
    sections = [("ood", name) for name in report["ood"]]
    tables = []
    for section, name in sections + [(key, "") for key in shown_averages(report)]:
        metrics = report[section][name] if name else report[section]
        zero_shot = report["zero_shot"][section][name] if name else report["zero_shot"][section]
        first = next(iter(metrics.values()))
        heading = f"{name} (n_id {report['id']['n']:,}, n_ood {first['n']:,})" if name else section.replace("_", ", ")
        scores = in_order([*metrics, *zero_shot])
        tables.append({"heading": heading, "rows": [(s, metrics.get(s), zero_shot.get(s)) for s in scores]})
    return tables


def report_markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown: a summary, then a table for each OOD set and average."""
    title, summary = escape_markdown(report_title(report)), summary_lines(report, escape_markdown)
    lines = [f"# {title}", "", *(f"- {line}" for line in summary), ""]
    trained = is_trained(report)
    zero_shot_headers = [f"zero-shot {HEADERS[m]}" for m in ZERO_SHOT_METRICS if trained]
    header = ["score", *HEADERS.values(), *zero_shot_headers]
    for table in set_tables(report):
        lines += [
            f"## {escape_markdown(table['heading'])}",
            "",
            f"| {' | '.join(header)} |",
            "|---" + "|---:" * (len(header) - 1) + "|",
        ]
        for score, metrics, zero_shot in table["rows"]:
            name = f"**{score}**" if score == report["headline"] else score
            cells = format_row(metrics, zero_shot, trained)
            lines.append(f"| {' | '.join([name, *cells])} |")
        lines.append("")
    lines += [f"Command: {code_span(report['run'].get('command', ''))}", ""]
    return "\n".join(lines)


def format_metric(metrics: Mapping[str, float] | None, name: str) -> str:
    """A metric with one decimal, or a dash if the detector does not have the score."""
    return "–" if metrics is None else f"{metrics[name]:.1f}"


def format_row(metrics: Mapping[str, float] | None, zero_shot: Mapping[str, float] | None, trained: bool) -> list[str]:
    """The cells of a table row: all metrics, then those of the zero-shot detector next to a trained one."""
    cells = [format_metric(metrics, m) for m in HEADERS]
    return cells + [format_metric(zero_shot, m) for m in ZERO_SHOT_METRICS if trained]


def summary_lines(report: Mapping[str, Any], show: Callable[[str], str] = str) -> list[str]:
    """The main results of a report, as a list of short texts, with backticks around the names of scores.

    Args:
        report: as in ``report.json``.
        show: a name of the user's to the text that shows it.
    """
    id_part, zero_shot, score = report["id"], report["zero_shot"], report["headline"]
    trained = is_trained(report)
    comparison = f" (zero-shot {zero_shot['id']['accuracy']:.1f} %)" if trained else ""
    lines = [f"ID accuracy {id_part['accuracy']:.1f} % on {id_part['n']:,} images{comparison}"]
    if score in report["average"]:
        averages = [("", report["average"])] + ([("zero-shot ", zero_shot["average"])] if trained else [])
        texts = [f"{t}AUROC {a[score]['auroc']:.1f}, FPR95 {a[score]['fpr95']:.1f}" for t, a in averages if score in a]
        sets = list(report["ood"])
        where = f"average over {len(sets)} OOD sets" if len(sets) > 1 else f"OOD set {show(sets[0])}"
        lines.append(f"headline score `{score}`, {where}: {'; '.join(texts)}")
        if trained and score in zero_shot["average"]:
            lines.append(training_line(report))
    else:
        lines.append("no OOD set was tested: give some with --data.ood_sets '[folder:PATH]' for AUROC and FPR95")
    if "images" in report:
        lines.append(image_weight_line(report))
    names = {"delta": "Δ > 0", "s": "S > 0.5", "clip": "plain CLIP > 0.5"}
    if report["masks"]:
        masks = ", ".join(f"{names[k]}: {v['iou']:.2f} / {v['boundary_f']:.2f}" for k, v in report["masks"].items())
        lines.append(f"masks against ground truth (IoU / boundary F): {masks}")
    lines.append(threshold_line(report["operating"]))
    if report["ood"] and "ood_resolution" in report["run"]:
        lines.append(f"resolution of the OOD images: {report['run']['ood_resolution']} (--data.ood_resolution)")
    lines.append("FPR95: ID is positive; at the threshold whose ID recall is closest to 95 %; higher score = more ID")
    return lines


def training_line(report: Mapping[str, Any]) -> str:
    """What training changed: average AUROC of the headline score and ID accuracy, zero-shot and trained."""
    score, before = report["headline"], report["zero_shot"]
    old, new = (part["average"][score]["auroc"] for part in (before, report))
    accuracies = f"{before['id']['accuracy']:.1f} → {report['id']['accuracy']:.1f} %"
    return f"what training changed: AUROC {old:.1f} → {new:.1f} ({new - old:+.1f}), ID accuracy {accuracies}"


def image_weight_line(report: Mapping[str, Any]) -> str:
    """ID accuracy and average AUROC of text features alone, image features alone and their blend."""
    score, texts = report["headline"], []
    for part, name in ((report["text"], "text alone"), (report["images"], "images alone"), (report, "blend")):
        auroc = f" / {part['average'][score]['auroc']:.1f}" if score in part["average"] else ""
        texts.append(f"{name} {part['id']['accuracy']:.1f}{auroc}")
    metrics = "ID accuracy / AUROC" if "/" in texts[0] else "ID accuracy"
    return f"image weight {report['run'].get('image_weight', 0):g} ({metrics}): {', '.join(texts)}"


def threshold_line(point: Mapping[str, Any]) -> str:
    """Fractions of ID and OOD images that the threshold at 95 % ID recall accepts."""
    ids = f"{point['id_accepted']:.1f} % of ID images (correct class: {point['id_accepted_right']:.1f} %)"
    sets = sorted(point["ood_accepted"].values())
    span = f"{sets[0]:.1f} to {sets[-1]:.1f} %" if len(sets) > 1 else f"{sum(sets):.1f} %"
    ood = f", {span} of OOD images" if sets else ""
    return f"at 95 % ID recall, `{point['score']}` ≥ {point['threshold']:.9g} accepts {ids}{ood}"
