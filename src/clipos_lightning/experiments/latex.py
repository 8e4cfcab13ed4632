"""Write a benchmark's tables as LaTeX (booktabs): caption, label, best in bold. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from ..errors import printable
from .columns import Cell, Column, accuracy_column, difference_column, overall_name, paired_columns, reference_name
from .grid import slug
from .tables import by_grid_point, describe_tests, grid_title

SHORT_HEADINGS = {"ID accuracy ↑": "ID acc. ↑"}
PREAMBLE = "% \\usepackage{booktabs}"
SPECIAL = {character: f"\\{character}" for character in "&%_#${}"}
SPECIAL |= {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "—": "---"}
SPECIAL |= {"[": "{[}", "]": "{]}", "*": "{*}"}  # after a line's end they would be its options
SPECIAL |= {"|": "\\textbar{}", "`": "\\textasciigrave{}"}
SPECIAL |= {"<": "$<$", ">": "$>$", "±": "$\\pm$", "·": "$\\cdot$", "×": "$\\times$", "→": "$\\to$", "≥": "$\\ge$"}
SPECIAL |= {"↑": "$\\uparrow$", "↓": "$\\downarrow$", "Δ": "$\\Delta$", "λ": "$\\lambda$"}
SPECIAL |= {"α": "$\\alpha$", "β": "$\\beta$", "γ": "$\\gamma$", "τ": "$\\tau$", "σ": "$\\sigma$", "≤": "$\\le$"}


def to_latex(outcome: Mapping[str, Any], with_sets: bool = False) -> str:
    """The main table of each grid point.

    Args:
        outcome: the contents of ``results.json``.
        with_sets: AUROC and FPR95 of every OOD set, and of near and far sets, not only the average.
    """
    parts = [PREAMBLE]
    for grid_point, rows in by_grid_point(outcome).items():
        differences = (replace(column, heading="Δ AUROC") for column in difference_column(rows))
        columns = [*paired_columns(rows, with_sets), accuracy_column(rows), *differences]
        labels = [(row["row"], row["score"]) for row in rows]
        label = "-".join(slug(text) for text in (outcome["name"], grid_point) if text)
        parts += ["", latex_table(caption_of(outcome, grid_point, rows), label, ("Method", "Score"), labels, columns)]
    return "\n".join(parts) + "\n"


def caption_of(outcome: Mapping[str, Any], grid_point: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What the table shows: the grid, the tests, the metrics, the spread, the difference."""
    seeds, reference, overall = len(rows[0]["seeds"]), reference_name(rows), overall_name(rows)
    spread = f"mean ± standard deviation over {seeds} seeds" if seeds > 1 else "one seed, so no standard deviation"
    sentences = [f"{grid_title(outcome)}{f' ({grid_point})' if grid_point else ''}.", describe_tests(outcome)]
    sentences.append(f"AUROC and FPR95 in percent ({overall}), ID is positive; {spread}." if overall else f"{spread}.")
    if reference:
        sentences.append(
            f"Δ: difference in average AUROC to {reference}, with the 95 % interval of a paired bootstrap over test "
            "images."
        )
    return " ".join([*sentences, "Best of each column in bold."])


def latex_table(
    caption: str, label: str, heads: Sequence[str], labels: Sequence[Sequence[str]], columns: Sequence[Column]
) -> str:
    """One ``table`` environment.

    Args:
        caption: plain text; LaTeX's special characters are escaped here, as in all other arguments.
        label: referred to as ``tab:<label>``.
        heads: headings of the text columns at the left.
        labels: the texts of each row, one per text column.
        columns: the other columns; neighbours with the same group get a heading above theirs.
    """
    lines = ["\\begin{table}[t]", "\\centering\\small\\setlength{\\tabcolsep}{4pt}"]
    lines += [f"\\caption{{{escape_latex(caption)}}}", f"\\label{{tab:{label}}}"]
    lines += [f"\\begin{{tabular}}{{{'l' * len(heads)}{'r' * len(columns)}}}", "\\toprule"]
    lines += group_lines(len(heads), columns)
    headings = (SHORT_HEADINGS.get(column.heading, column.heading) for column in columns)
    lines += [latex_line([escape_latex(text) for text in (*heads, *headings)]), "\\midrule"]
    for i, texts in enumerate(labels):
        lines.append(latex_line([*map(escape_latex, texts), *(latex_cell(column.cells[i]) for column in columns)]))
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"])


def group_lines(offset: int, columns: Sequence[Column]) -> list[str]:
    """The line of headings above groups of columns, and the rules below them; nothing without groups."""
    if not any(column.group for column in columns):
        return []
    cells, rules, start = [""] * offset, [], offset + 1
    for group, members in groupby(columns, key=lambda column: column.group):
        count = len(list(members))
        cells += [f"\\multicolumn{{{count}}}{{c}}{{{escape_latex(group)}}}"] if group else [""] * count
        rules += [f"\\cmidrule(lr){{{start}-{start + count - 1}}}"] if group else []
        start += count
    return [latex_line(cells), " ".join(rules)]


def latex_line(cells: Sequence[str]) -> str:
    """A row of a LaTeX table."""
    return f"{' & '.join(cells)} \\\\"


def latex_cell(cell: Cell) -> str:
    """A number in bold if it is the best of its column, and its note."""
    text = escape_latex(cell.text)
    number = f"${text}$" if cell.text.startswith(("+", "-")) else f"\\textbf{{{text}}}" if cell.best else text
    note = f"${cell.note}$" if cell.note.startswith("[") else escape_latex(cell.note)
    return f"{number} {{\\scriptsize {note}}}" if note else number


def escape_latex(text: str) -> str:
    r"""Text with LaTeX's special characters, and the Greek letters and arrows of our tables, escaped.

    Line breaks and other characters that do not print are written as in Python, such as ``\n``.

    Example:
        >>> print(escape_latex("energy_region, β = 0.5"))
        energy\_region, $\beta$ = 0.5
    """
    return "".join(SPECIAL.get(character, character) for character in printable(text))
