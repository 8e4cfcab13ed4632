"""What `clipos test` prints: the headline score of each OOD set, and every score with --verbose."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import done

from clipos_lightning.reporting.report import build_report
from clipos_lightning.reporting.terminal import print_report

SCORES = ("msp", "energy")
SETS = {"near one": 30, "far one": 1200}


def report_of(sets: dict[str, int], trained: bool = True, headline: str = "energy") -> dict[str, Any]:
    """A report of random scores."""
    rng = np.random.default_rng(0)
    prefixes = ("", "zero_shot/") if trained else ("",)

    def table(count: int) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for prefix in prefixes:
            columns[f"{prefix}predicted"] = np.zeros(count)
            columns |= {f"{prefix}{score}": rng.normal(0, 1, count) for score in SCORES}
        return columns

    results = {"id": table(40), **{name: table(count) for name, count in sets.items()}}
    kinds = {name: name.split()[0] for name in sets}
    return build_report(results, np.zeros(40, int), kinds, headline, "zoo", (2, 2), {"trained": trained})


def printed(capsys: pytest.CaptureFixture[str], report: dict[str, Any], verbose: bool = False) -> list[list[str]]:
    """The lines, each split at gaps of two spaces or more."""
    print_report(report, verbose)
    lines = capsys.readouterr().out.splitlines()
    return [re.split(r"\s{2,}", line.strip()) for line in lines if line.strip(" ─")]


def test_the_headline_score_beside_the_zero_shot_detector(capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(SETS)
    lines = printed(capsys, report)
    assert lines[:4] == [
        ["OOD report: zoo"],
        ["headline score energy, in percent"],
        ["zero-shot", "zero-shot"],
        ["OOD set", "n", "AUROC ↑", "FPR95 ↓", "AUROC ↑", "FPR95 ↓"],
    ]
    expected = []
    for name, count in SETS.items():
        parts = (report["ood"][name]["energy"], report["zero_shot"]["ood"][name]["energy"])
        expected.append([name, f"{count:,}", *(f"{part[m]:.1f}" for part in parts for m in ("auroc", "fpr95"))])
    for key in ("average", "average_near", "average_far"):
        parts = (report[key]["energy"], report["zero_shot"][key]["energy"])
        name = key.replace("_", ", ")
        expected.append([name, *(f"{part[m]:.1f}" for part in parts for m in ("auroc", "fpr95"))])
    assert lines[4:9] == expected
    assert lines[9][0].startswith("ID accuracy 100.0 %")
    assert not any(line[0] == "msp" for line in lines)


def test_verbose_prints_every_score(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, report_of(SETS), verbose=True)
    assert [line[0] for line in lines].count("msp") == 5  # two sets, three averages
    head = next(line for line in lines if line[0] == "score")
    assert head[1:5] == ["AUROC ↑", "FPR95 ↓", "AUPR-in ↑", "AUPR-out ↑"]
    assert len(next(line for line in lines if line[0] == "msp")) == 8


@pytest.mark.parametrize("verbose", [False, True])
def test_one_set_is_printed_once(capsys: pytest.CaptureFixture[str], verbose: bool) -> None:
    lines = printed(capsys, report_of({"near one": 30}), verbose)
    assert not any(line[0].startswith("average") for line in lines)
    assert [line[0] for line in lines].count("near one") == 1
    assert any("headline score `energy`, OOD set near one: AUROC" in line[0] for line in lines)


def test_an_average_over_all_sets_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, report_of({"near one": 30, "near two": 20}))
    assert [line[0] for line in lines if line[0].startswith("average")] == ["average"]


def test_an_untrained_detector_has_no_zero_shot_columns(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, report_of(SETS, trained=False))
    assert lines[0] == ["OOD report of the zero-shot detector (no training): zoo"]
    assert lines[2] == ["OOD set", "n", "AUROC ↑", "FPR95 ↓"]


def test_without_ood_sets_there_is_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, report_of({}))
    assert lines[0] == ["OOD report: zoo"] and lines[1][0].startswith("ID accuracy")


def test_the_flag_of_clipos_test(tmp_path: Path) -> None:
    words = ("test", "--config", "demo.yaml", "--data.limit_per_set", 40, "--data.ood_sets", "[noise]")
    words += ("--trainer.default_root_dir", tmp_path)
    short, long, explicit = done(*words), done(*words, "--verbose"), done(*words, "--verbose", "false")
    assert "energy_region_unknown" in long.out and "energy_region_unknown" not in short.out
    assert "Test metric" not in long.out  # Lightning's own table
    assert "--verbose" in short.out and "--verbose" not in long.out
    assert explicit.lines[:-2] == short.lines[:-2]
