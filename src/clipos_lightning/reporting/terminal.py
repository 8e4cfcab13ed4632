"""Tables in a terminal: the results of a test, and the style that ``clipos benchmark`` shares."""

import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from ..errors import printable
from ..utils.console import plain_console
from .report import (
    HEADERS,
    ZERO_SHOT_METRICS,
    format_metric,
    format_row,
    is_trained,
    overview,
    report_title,
    set_tables,
    summary_lines,
)

FILE_WIDTH = 160  # characters per line if the output is not a terminal
OVERVIEW_METRICS = ("auroc", "fpr95")


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str | Text]], text_columns: int = 1) -> None:
    """Print a table.

    Args:
        title: line above the table; empty for none.
        head: column names.
        rows: the cells; characters that do not print are escaped in those that are strings.
        text_columns: how many columns from the left hold text and are aligned to the left.
    """
    view = RichTable(title=Text(printable(title), "bold") if title else None, title_justify="left", box=box.SIMPLE_HEAD)
    for i, name in enumerate(head):
        is_text = i < text_columns
        width = None if is_text else max((len(row[i]) for row in rows), default=0)  # numbers are not broken
        heading = Text("\n".join(map(printable, name.split("\n"))))
        view.add_column(heading, justify="left" if is_text else "right", vertical="bottom", min_width=width)
    for row in rows:
        view.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    console().print(view)


def console() -> Console:
    """A console as wide as the terminal, or FILE_WIDTH."""
    return plain_console(None if sys.stdout.isatty() else FILE_WIDTH)


def print_report(report: Mapping[str, Any], verbose: bool = False) -> None:
    """Print a test's results.

    Args:
        report: as in ``report.json``.
        verbose: print a table of every score for each OOD set and average, not only the headline score.
    """
    out = console()
    if verbose:
        print_every_score(report)
    out.print(printable(report_title(report)), style="bold")
    if report["average"]:
        print_overview(report)
    for line in summary_lines(report):
        out.print(f"  {printable(line)}", soft_wrap=True)


def print_overview(report: Mapping[str, Any]) -> None:
    """Print AUROC and FPR95 of the headline score for each OOD set and average, next to the zero-shot detector's."""
    trained = is_trained(report)
    head = ["OOD set", "n", *(HEADERS[m] for m in OVERVIEW_METRICS)]
    head += [f"zero-shot\n{HEADERS[m]}" for m in OVERVIEW_METRICS if trained]
    rows = []
    for name, metrics, zero_shot in chain(*overview(report).values()):
        cells = [format_metric(metrics, m) for m in OVERVIEW_METRICS]
        cells += [format_metric(zero_shot, m) for m in OVERVIEW_METRICS if trained]
        rows.append([name, f"{metrics['n']:,}" if "n" in metrics else "", *cells])
    print_table(f"headline score {report['headline']}, in percent", head, rows)


def print_every_score(report: Mapping[str, Any]) -> None:
    """Print a table of every score for each OOD set and average; the headline score is bold."""
    trained = is_trained(report)
    head = ["score", *HEADERS.values(), *(f"zero-shot\n{HEADERS[m]}" for m in ZERO_SHOT_METRICS if trained)]
    for table in set_tables(report):
        rows = [[score, *format_row(metrics, zero_shot, trained)] for score, metrics, zero_shot in table["rows"]]
        styled = [[Text(cell, "bold" if row[0] == report["headline"] else "") for cell in row] for row in rows]
        print_table(table["heading"], head, styled)
