"""The summary of ``pytest -m badinput``: kinds of bad or unusual input, how many inputs were tried, how many passed."""

import ast
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OUTCOMES = ("passed", "failed", "error", "skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Note how many inputs a test tries: one, or the examples of Hypothesis; reports of worker processes carry it."""
    for item in items:
        used = getattr(getattr(item, "obj", None), "_hypothesis_internal_use_settings", None)
        item.user_properties.append(("inputs", 1 if used is None else used.max_examples))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, if these tests were asked for."""
    if "badinput" not in config.option.markexpr.replace("not badinput", ""):
        return
    reports = [
        (report.nodeid.partition("::")[0], outcome, dict(report.user_properties).get("inputs", 1))
        for outcome in OUTCOMES
        for report in terminalreporter.stats.get(outcome, [])
        if hasattr(report, "user_properties") and (report.when == "call" or outcome != "passed")
    ]
    terminalreporter.section("bad and unusual input")
    for line in table_lines(reports):
        terminalreporter.write_line(line)


def table_lines(reports: Iterable[tuple[str, str, int]]) -> list[str]:
    """The table's lines: kind, inputs, passed, and what did not.

    Args:
        reports: file, outcome and number of inputs of each test.
    """
    counts: dict[str, Counter[str]] = {}
    for file, outcome, inputs in reports:
        counts.setdefault(file, Counter())[outcome] += inputs
    rows = sorted((kind_of(file), count) for file, count in counts.items())
    rows.append(("all", sum((count for _, count in rows), Counter())))
    lines = [f"{'kind':<78}{'inputs':>8}{'passed':>8}"]
    for kind, count in rows:
        others = ", ".join(f"{count[outcome]:,} {outcome}" for outcome in OUTCOMES[1:] if count[outcome])
        lines.append(f"{shorten(kind):<78}{count.total():>8,}{count['passed']:>8,}{others and f'  {others}'}")
    return lines


def kind_of(file: str) -> str:
    """What a file of tests is about: the start of its docstring, up to the first colon or full stop."""
    text = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or file
    return text.split("\n", 1)[0].split(": ", 1)[0].rstrip(".")


def shorten(text: str, width: int = 76) -> str:
    """A text of at most ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"
