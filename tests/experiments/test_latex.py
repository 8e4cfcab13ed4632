"""LaTeX tables: caption, label, averages or all sets, best in bold, the spread always said."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from outcomes import LONG, grid_row, outcome_of, usual_rows

from clipos_lightning.experiments.columns import Cell, Column
from clipos_lightning.experiments.latex import escape_latex, latex_table, to_latex


def rows_of(latex: str) -> list[list[str]]:
    """The cells of all lines between \\midrule and \\bottomrule."""
    body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0]
    return [[cell.strip() for cell in line.removesuffix("\\\\").split("&")] for line in body.strip().splitlines()]


def test_a_table_of_the_average_by_default() -> None:
    latex = to_latex(outcome_of(usual_rows()))
    assert "\\caption{Some methods \\& more. ID set zoo (1,000 test images); seeds 1, 2. " in latex
    assert "mean $\\pm$ standard deviation over 2 seeds" in latex
    assert "\\label{tab:my_grid}" in latex
    assert "\\multicolumn{2}{c}{average}" in latex and "near\\_set" not in latex
    assert rows_of(latex) == [
        ["base", "energy", *(f"{n} {{\\scriptsize $\\pm$ 1.4}}" for n in ("90.0", "10.0", "71.0")), "reference"],
        [
            *(LONG, "energy"),
            *(f"\\textbf{{{n}}} {{\\scriptsize $\\pm$ 0.7}}" for n in ("93.5", "6.5", "74.5")),
            "$+3.5$ {\\scriptsize $[+2.5, +4.5]$}",
        ],
        [
            *("again\\_", "energy"),
            *(f"\\textbf{{{n}}} {{\\scriptsize $\\pm$ 0.7}}" for n in ("93.5", "6.5", "74.5")),
            "$+3.5$ {\\scriptsize $[+2.5, +4.5]$}",
        ],
    ]


def test_every_set_if_asked_for() -> None:
    latex = to_latex(outcome_of(usual_rows()), with_sets=True)
    assert re.findall(r"\\multicolumn\{2\}\{c\}\{(.*?)\}", latex) == [
        *("average", "near"),
        *("near\\_set", "far\\_set", "other"),
    ]
    assert "\\cmidrule(lr){3-4} \\cmidrule(lr){5-6}" in latex
    assert {len(row) for row in rows_of(latex)} == {2 + 10 + 2}


def test_one_seed_is_said() -> None:
    latex = to_latex(outcome_of([grid_row("a", (80.0,))]))
    assert "one seed, so no standard deviation" in latex and "\\pm" not in latex


def test_each_grid_point_has_its_label() -> None:
    points = [[grid_row("a", (80.0,), grid_point={"data.shots": k})] for k in (1, 2)]
    assert re.findall(r"\\label\{(.*?)\}", to_latex(outcome_of(*points))) == [
        "tab:my_grid-shots-1",
        "tab:my_grid-shots-2",
    ]


def test_without_groups_there_is_one_line_of_headings() -> None:
    column = Column("IoU ↑", (Cell("0.5", best=True),))
    latex = latex_table("50 % of it", "x", ("Map",), [("Δ",)], [column])
    assert "multicolumn" not in latex and "cmidrule" not in latex
    assert "\\caption{50 \\% of it}" in latex and "Map & IoU $\\uparrow$ \\\\" in latex
    assert rows_of(latex) == [["$\\Delta$", "\\textbf{0.5}"]]


def test_special_characters_are_escaped() -> None:
    assert escape_latex(r"a_b & 5 % {x} #1 $ ~ ^ \ <β>") == (
        r"a\_b \& 5 \% \{x\} \#1 \$ \textasciitilde{} \textasciicircum{} \textbackslash{} $<$$\beta$$>$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX on this machine")
def test_latex_accepts_the_tables(tmp_path: Path) -> None:
    names = "α β γ λ τ σ Δ → ↑ ↓ ± · × ≤ ≥ < > – — _ & % # $ { } ~ ^ \\"
    tables = to_latex(outcome_of([*usual_rows(), grid_row(names, (1.0, 2.0))]), with_sets=True)
    page = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{tables}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stdout[-2000:]
    assert "Missing character" not in run.stdout + (tmp_path / "page.log").read_text(errors="replace")
