"""The report from small tables made by hand: figures, averages, masks, Markdown, HTML."""

import json
import re
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from clipos_lightning.evaluation.score_names import defined_scores
from clipos_lightning.evaluation.scores import SCORES
from clipos_lightning.reporting.charts import Axis, common_axis, histogram_path, roc_path
from clipos_lightning.reporting.heatmaps import Example, panel_figure
from clipos_lightning.reporting.html import report_html
from clipos_lightning.reporting.report import build_report, report_markdown, report_title, set_tables, summary_lines

METRICS = {"auroc", "fpr95", "fpr95_ood_pos", "aupr_in", "aupr_out"}
LABELS = np.arange(40) % 4
RUN = {"trained": True, "limit_per_set": None, "command": "clipos test", "seed": 1}
GRID = (2, 2)
CLASSES = ["ant", "bee", "<cat>", "dog"]


def table(
    count: int, shift: float, scores: list[str], prefixes: tuple[str, ...] = ("", "zero_shot/")
) -> dict[str, Any]:
    """Normal scores around a mean; the zero-shot detector's are other draws."""
    rng = np.random.default_rng(count)
    columns: dict[str, Any] = {}
    for prefix in prefixes:
        wrong = np.arange(count) >= count - 10
        columns[f"{prefix}predicted"] = ((np.arange(count) + wrong) % 4).astype(float)
        columns |= {f"{prefix}{name}": rng.normal(shift, 1, count) for name in scores}
    return columns


def report_of(sets: dict[str, tuple[int, float]], **changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """A report on an ID set of 40 images and these OOD sets (count, shift), and the tables it is made from."""
    scores = changes.pop("scores", list(SCORES))
    prefixes = ("", "zero_shot/") if changes.get("trained", True) else ("",)
    results = {"id": table(40, 2, scores, prefixes)}
    results |= {name: table(count, shift, scores, prefixes) for name, (count, shift) in sets.items()}
    results["id"] |= changes.pop("maps", {})
    kinds = changes.pop("kinds", dict.fromkeys(sets))
    headline = changes.pop("headline", "energy")
    return build_report(results, LABELS, kinds, headline, "zoo", GRID, {**RUN, **changes}), results


def page_of(
    sets: dict[str, tuple[int, float]], pictures: dict[str, list[Example]] | None = None, **changes: Any
) -> str:
    """The page of such a report."""
    report, results = report_of(sets, **changes)
    return report_html(report, results, LABELS, CLASSES, pictures or {})


SETS = {"near one": (30, 1.0), "far one": (21, 0.0), "far two": (50, -1.0)}
KINDS = {"near one": "near", "far one": "far", "far two": "far"}


def test_figures_are_those_of_an_independent_library() -> None:
    report, results = report_of(SETS)
    for prefix, part in (("", report), ("zero_shot/", report["zero_shot"])):
        for name, (count, _) in SETS.items():
            for score, metrics in part["ood"][name].items():
                values = np.r_[results["id"][f"{prefix}{score}"], results[name][f"{prefix}{score}"]]
                is_id = np.r_[np.ones(40), np.zeros(count)]
                assert metrics["n"] == count
                assert metrics["auroc"] == pytest.approx(100 * roc_auc_score(is_id, values))
                assert metrics["aupr_in"] == pytest.approx(100 * average_precision_score(is_id, values))
                assert metrics["aupr_out"] == pytest.approx(100 * average_precision_score(1 - is_id, -values))
    assert report["zero_shot"]["ood"] != report["ood"]


def test_the_schema() -> None:
    report, _ = report_of(SETS)
    assert {"schema", "headline", "id", "ood", "average", "zero_shot", "masks", "run"} <= report.keys()
    assert (report["schema"], report["headline"], report["masks"]) == (1, "energy", {})
    assert report["id"] == {"name": "zoo", "n": 40, "accuracy": 75.0}
    assert report["zero_shot"].keys() >= {"id", "ood", "average"}
    assert list(report["ood"]) == list(SETS)
    assert report["run"] == RUN
    assert json.loads(json.dumps(report)) == report  # plain data


def test_averages_are_unweighted_means_over_sets() -> None:
    report, _ = report_of(SETS, kinds=KINDS)
    for key, names in (
        ("average", list(SETS)),
        ("average_near", ["near one"]),
        ("average_far", ["far one", "far two"]),
    ):
        for part in (report, report["zero_shot"]):
            assert list(part[key]) == list(SCORES)
            for score, metrics in part[key].items():
                assert metrics.keys() == METRICS
                for name, value in metrics.items():
                    assert value == pytest.approx(np.mean([part["ood"][s][score][name] for s in names]))
    unmarked, _ = report_of(SETS)
    assert not {"average_near", "average_far"} & unmarked.keys()
    far, _ = report_of(SETS, kinds={**KINDS, "near one": None})
    assert "average_near" not in far
    assert "average_far" in far


def test_the_summary_says_what_training_changed() -> None:
    report, results = report_of(SETS)
    old, new = (
        np.mean([auroc_of(results["id"][f"{p}energy"], results[name][f"{p}energy"]) for name in SETS])
        for p in ("zero_shot/", "")
    )
    expected = f"what training changed: AUROC {old:.1f} → {new:.1f} ({new - old:+.1f}), ID accuracy 75.0 → 75.0 %"
    assert expected in summary_lines(report)
    untrained, _ = report_of(SETS, trained=False)
    assert not any("training changed" in line for line in summary_lines(untrained))


def auroc_of(inside: np.ndarray, outside: np.ndarray) -> float:
    """AUROC in percent, by scikit-learn."""
    labels = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    return 100 * float(roc_auc_score(labels, np.r_[inside, outside]))


def test_without_ood_sets_averages_are_empty() -> None:
    report, _ = report_of({})
    assert report["ood"] == report["average"] == report["zero_shot"]["average"] == {}
    assert not {"average_near", "average_far"} & report.keys()
    assert any("no OOD set" in line for line in summary_lines(report))
    assert "zoo" in report_markdown(report)
    html = page_of({})
    assert "zoo" in html
    assert "--data.ood_sets" in html
    assert "AUROC ↑" not in html.replace("\u00a0", " ")
    assert html.count('class="hill') == 1


def test_an_untrained_detector_is_its_own_rival() -> None:
    report, _ = report_of(SETS, trained=False)
    assert report["zero_shot"] == {k: report[k] for k in report["zero_shot"]}
    assert "zero-shot detector (no training)" in report_title(report)
    assert "zero-shot AUROC" not in report_markdown(report)


# ---- masks


def maps_of(s: list[list[float]], clip: list[list[float]], truth: list[list[float]]) -> dict[str, np.ndarray]:
    """Columns of maps for the 40 ID images: the first have the given maps, the others have no object."""
    columns = {}
    for kind, rows in (("s", s), ("clip", clip), ("truth", truth)):
        values = np.array(rows + [[0.0] * 4] * (40 - len(rows)))
        columns |= {f"map/{kind}/{p}": values[:, p] for p in range(4)}
    return columns


def test_masks_are_judged_on_the_patch_grid() -> None:
    """Two images count; images whose object covers no patch by at least half do not.

    Delta > 0 is {0, 1} and {3}, S > 0.5 is {0} and {2, 3}, S_clip > 0.5 is {2} and {}; the truth is {0} and {2, 3}.
    """
    maps = maps_of(
        s=[[1.0, 0.3, 0.2, 0.1], [0.0, 0.0, 0.7, 0.9], [1.0, 1.0, 1.0, 1.0]],
        clip=[[0.5, 0.2, 1.0, 0.1], [0.1, 0.1, 0.7, 0.4], [0.0, 0.0, 0.0, 0.0]],
        truth=[[0.5, 0.49, 0.0, 0.0], [0.1, 0.2, 0.6, 1.0], [0.4, 0.3, 0.0, 0.0]],
    )
    maps["map/clip/2"][1] = 0.7
    report, _ = report_of(SETS, maps=maps)
    masks = report["masks"]
    assert list(masks) == ["delta", "s", "clip"]
    assert masks["delta"]["iou"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert masks["s"]["iou"] == pytest.approx(1.0)
    assert masks["clip"]["iou"] == pytest.approx((0 + 1 / 2) / 2)
    assert masks["s"]["boundary_f"] == pytest.approx(1.0)
    assert any("0.50" in line and "1.00" in line for line in summary_lines(report))


def test_a_boundary_may_be_off_by_one_patch() -> None:
    """On a 2 x 2 grid every patch is a neighbour: only an empty mask has no boundary near the truth's."""
    maps = maps_of(s=[[0.0, 0.0, 0.0, 1.0]], clip=[[0.0] * 4], truth=[[1.0, 0.0, 0.0, 0.0]])
    masks = report_of(SETS, maps=maps)[0]["masks"]
    assert masks["delta"] == {"iou": 0.0, "boundary_f": 1.0}
    assert masks["clip"] == {"iou": 0.0, "boundary_f": 0.0}


# ---- what people read


def test_a_limited_run_says_so_in_every_form() -> None:
    report, _ = report_of(SETS, limit_per_set=50)
    for text in (report_title(report), report_markdown(report), page_of(SETS, limit_per_set=50)):
        assert "at most 50 images per set" in text
    assert "at most" not in report_title(report_of(SETS)[0])


def test_images_left_out_are_counted_in_every_form() -> None:
    for counts, text in (
        ({"id": 1, "far": 2}, "3 unreadable images left out"),
        ({"far": 1}, "1 unreadable image left"),
    ):
        report, _ = report_of(SETS, unreadable=counts)
        assert report["run"]["unreadable"] == counts
        for shown in (report_title(report), report_markdown(report), page_of(SETS, unreadable=counts)):
            assert text in shown
    assert "left out" not in report_title(report_of(SETS, unreadable={})[0])


def test_markdown_has_every_score_of_every_set_and_average() -> None:
    report, _ = report_of(SETS, kinds=KINDS)
    text = report_markdown(report)
    sections = dict(re.findall(r"^## (.+)\n\n((?:\|.*\n)+)", text, flags=re.MULTILINE))
    assert list(sections) == [
        "near one (n_id 40, n_ood 30)",
        "far one (n_id 40, n_ood 21)",
        "far two (n_id 40, n_ood 50)",
        "average",
        "average, near",
        "average, far",
    ]
    for name, section in sections.items():
        rows = [[c.strip() for c in line.strip("|").split("|")] for line in section.splitlines()]
        assert len({len(row) for row in rows}) == 1
        assert [row[0].strip("*") for row in rows[2:]] == list(SCORES)
        assert [row[0] for row in rows[2:] if row[0].startswith("**")] == ["**energy**"]
        part = report["ood"].get(name.split(" (")[0]) or report[name.replace(", ", "_")]
        assert [row[1] for row in rows[2:]] == [f"{part[s]['auroc']:.1f}" for s in SCORES]


def test_scores_that_only_one_detector_has_are_dashes() -> None:
    scores = defined_scores(False)
    results = {name: table(count, 0.0, list(SCORES)) for name, count in (("id", 40), ("far one", 20))}
    for columns in results.values():
        for name in set(SCORES) - set(scores):
            del columns[name]
    report = build_report(results, LABELS, {"far one": None}, "mcm", "zoo", GRID, RUN)
    assert list(report["ood"]["far one"]) == scores
    assert list(report["zero_shot"]["ood"]["far one"]) == list(SCORES)
    (row,) = [line for line in report_markdown(report).splitlines() if line.startswith("| unknown ")][:1]
    assert row.split("|")[2].strip() == "–"
    assert row.split("|")[6].strip() != "–"
    assert len(set_tables(report)[0]["rows"]) == len(SCORES)


def example(side: int, **changes: Any) -> Example:
    """A picture of random pixels with maps on a 4 x 4 grid."""
    rng = np.random.default_rng(side)
    maps = {name: rng.random((4, 4)) for name in ("surgery", "clip")}
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    words = {"origin": "<cat>", "key": "a/<b>.png", "predicted": "dog", "probability": 0.871, "score": 1.25}
    return Example(image=image, mask=maps["surgery"] > 0.5, **{**words, **maps, **changes})


def test_html_needs_nothing_but_itself() -> None:
    pictures = {
        "classes": [example(32, truth=np.eye(32))],
        "outside": [example(224, score=9.5), example(224, score=-9.5)],
        "rejected": [],
        "confused": [],
    }
    html = page_of(SETS, pictures, kinds=KINDS, command="clipos test --data.id 'folder:<b>x</b>'")
    assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?\s*(?!data:|#)[\w/]""", html)
    assert not re.search(r"<(?:link|iframe|object|base)|@import|https?:|<script[^>]* src", html)
    assert "default-src 'none'" in html
    kinds = re.findall(r'src="([^,]+),', html)
    assert kinds == ["data:image/jpeg;base64"] * 4 + ["data:image/png;base64"] * 6
    for text in ("<b>x</b>", "<cat>", "a/<b>.png"):
        assert text not in html
    for text in ("&lt;cat&gt;", "a/&lt;b&gt;.png", "→ <b>dog</b> 87"):
        assert text in html
    assert html.count("None at this threshold.") == 2
    assert html.count('<span class="wrong">accepted</span>') == 1
    for score in SCORES:
        assert f"<code>{score}</code></th>" in html
    assert html.count('class="headline"') == 6
    assert "zero-shot" in html


def test_the_page_shows_what_the_threshold_at_95_percent_does() -> None:
    """The page contains the numbers also without JavaScript."""
    report, results = report_of(SETS)
    html, threshold = page_of(SETS), report["operating"]["threshold"]
    live = dict(re.findall(r'data-live="(\w+)">([^<]*)<', html))
    inside = results["id"]["energy"] >= threshold
    assert float(live["cut"]) == pytest.approx(threshold)
    assert int(live["ids"]) == inside.sum() == 38
    assert int(live["hits"]) == np.sum(inside & (results["id"]["predicted"] == LABELS))
    for row, name in enumerate(SETS, 4):
        accepted = results[name]["energy"] >= threshold
        assert float(live[f"row{row}"]) == pytest.approx(100 * accepted.mean(), abs=0.051)
        assert int(live[f"unknown{row}"]) == np.sum(~accepted)
        for column in range(4):
            count = np.sum(accepted & (results[name]["predicted"] == column))
            assert int(live[f"cell{4 * row + column}"]) == count


def test_a_large_test_makes_a_small_page() -> None:
    """50,000 ID and 40,000 OOD images of 1,000 classes: below a megabyte, one row per class."""
    rng, classes = np.random.default_rng(0), 1000
    labels = np.arange(50_000) % classes
    sizes = {"id": 50_000, "a": 10_000, "b": 30_000}
    results = {
        name: {"predicted": rng.integers(0, classes, n).astype(float), "energy": rng.normal(name == "id", 1, n)}
        for name, n in sizes.items()
    }
    report = build_report(results, labels, {}, "energy", "large", GRID, {"trained": False})
    html = report_html(report, results, labels, [f"class {i}" for i in range(classes)], {})
    assert len(html.encode()) < 1_000_000
    assert html.count('<th scope="row">class ') == classes
    assert 'class="matrix' not in html


def test_report_json_has_the_operating_point() -> None:
    report, results = report_of(SETS)
    point = report["operating"]
    assert point["score"] == "energy"
    assert point["id_accepted"] == pytest.approx(95)
    for name, share in point["ood_accepted"].items():
        assert share == pytest.approx(100 * np.mean(results[name]["energy"] >= point["threshold"]))
    assert any("at 95 % ID recall, `energy` ≥" in line for line in summary_lines(report))


def test_a_panel_figure_has_a_row_for_each_image_and_titles_above_the_first() -> None:
    rows = [(one.caption, one.panels) for one in (example(32), example(32))]
    figure = panel_figure(rows)
    count = len(rows[0][1])
    first, second, (bar,) = figure.axes[:count], figure.axes[count : 2 * count], figure.axes[2 * count :]
    assert [axis.get_title() for axis in first[1:]] == list(rows[0][1])[1:]
    assert first[0].get_title() == second[0].get_title() == rows[0][0]
    assert not any(axis.get_title() for axis in second[1:])
    for axis, pixels in zip(first, rows[0][1].values(), strict=True):
        assert (axis.images[0].get_array() == pixels).all()
    scales = [bar.get_xticklabels(), bar.child_axes[0].get_xticklabels()]
    assert [[label.get_text() for label in scale] for scale in scales] == [
        ["0", "plain CLIP, S: 0.5", "1"],
        ["−1", "difference Δ: 0", "1"],
    ]


def test_one_class_and_one_ood_set() -> None:
    """A detector of one class: a constant score, no wrong class, a matrix of one column."""
    results = {"id": {"predicted": np.zeros(20), "msp": np.ones(20), "energy": np.arange(20.0)}}
    results["night"] = {"predicted": np.zeros(5), "msp": np.ones(5), "energy": np.arange(5.0)}
    labels = np.zeros(20, np.int64)
    pictures = {"classes": [example(32, origin="cat")], "outside": [example(32)], "rejected": [], "confused": []}
    for headline, accepted in (("energy", 4), ("msp", 5)):
        report = build_report(results, labels, {"night": "far"}, headline, "zoo", GRID, {"trained": False})
        assert report["id"]["accuracy"] == 100
        html = report_html(report, results, labels, ["cat"], pictures)
        assert "images of 1 class ·" in html and "1 OOD set ·" in html
        live = dict(re.findall(r'data-live="(\w+)">([^<]*)<', html))
        assert (live["cell1"], live["unknown1"]) == (str(accepted), str(5 - accepted))
        assert not re.search(r"\bnan\b", html)


def test_charts_of_constant_scores() -> None:
    flat = np.zeros(3)
    axis = common_axis([flat])
    assert (axis.low, axis.high) == (0, 1)
    assert histogram_path(flat, axis).startswith("M0 40V2h")
    assert roc_path(flat, flat) == "M0 100L100 0"


def test_an_axis_is_marked_at_round_scores() -> None:
    for low, high in ((-0.31, 1.02), (4.6, 25.5), (-3e-4, 2e-4), (100, 12000)):
        axis = Axis(low, high)
        ticks = axis.ticks()
        assert 3 <= len(ticks) <= 7
        assert all(low <= float(label) <= high for _, label in ticks)
        assert all(place == pytest.approx(axis.position(float(label))) for place, label in ticks)
