"""Columns of the result tables: what is printed, which cells are the best, which averages are shown."""

import pytest
from outcomes import compared, grid_row, usual_rows

from clipos_lightning.experiments.columns import (
    METRIC_NAMES,
    Cell,
    Column,
    main_columns,
    mark_best,
    overall_name,
    paired_columns,
    score_columns,
    seed_columns,
    set_columns,
)

ONE = {"only": 50}


def texts(column: Column) -> list[str]:
    return [f"{cell.text} {cell.note}".strip() for cell in column.cells]


def test_the_main_table_begins_with_the_difference() -> None:
    columns = main_columns(usual_rows())
    assert [c.title for c in columns] == ["Δ AUROC to base", "AUROC ↑", "FPR95 ↓", "ID accuracy ↑"]
    assert texts(columns[0]) == ["reference", "+3.5 [+2.5, +4.5]", "+3.5 [+2.5, +4.5]"]
    assert texts(columns[1]) == ["90.0 ± 1.4", "93.5 ± 0.7", "93.5 ± 0.7"]
    assert texts(columns[2]) == ["10.0 ± 1.4", "6.5 ± 0.7", "6.5 ± 0.7"]
    assert texts(columns[3]) == ["71.0 ± 1.4", "74.5 ± 0.7", "74.5 ± 0.7"]
    assert [[cell.best for cell in c.cells] for c in columns] == [[False] * 3, *[[False, True, True]] * 3]


def test_the_spread_is_shown_even_if_it_is_zero_and_missing_for_one_seed() -> None:
    equal, single = grid_row("a", (80.0, 80.0)), grid_row("b", (80.0,))
    assert texts(main_columns([equal])[0]) == ["79.0 ± 0.0"]
    assert texts(main_columns([single])[0]) == ["79.0"]


@pytest.mark.parametrize(
    ("numbers", "lower", "best"),
    [
        (("9.5", "10.4", "9.5"), False, [False, True, False]),
        (("9.5", "10.4", "9.5"), True, [True, False, True]),
        (("–", "-3.0", "+1.0"), False, [False, False, True]),
        (("–", "–"), False, [False, False]),
        (("reference", "100.0"), True, [False, True]),
    ],
)
def test_the_best_numbers_are_those_that_print_as_the_best(
    numbers: tuple[str, ...], lower: bool, best: list[bool]
) -> None:
    column = mark_best(Column("x", tuple(map(Cell, numbers)), lower=lower))
    assert [cell.best for cell in column.cells] == best


def test_sets_and_averages_are_columns() -> None:
    names = ["average", "near", "near_set (n 600)", "far_set (n 1,200)", "other (n 40)"]
    columns = set_columns(usual_rows(), "fpr95")
    assert [c.title for c in columns] == names
    assert texts(columns[3])[0] == "10.0 ± 1.4"
    assert all(c.lower for c in columns)
    paired = [c.title for c in paired_columns(usual_rows(), with_sets=True)]
    assert paired == [
        f"{group.split(' (')[0]} {metric}".strip() for group in names for metric in ("AUROC ↑", "FPR95 ↓")
    ]
    assert [c.title for c in paired_columns(usual_rows(), with_sets=False)] == ["average AUROC ↑", "average FPR95 ↓"]


def test_a_single_set_stands_for_its_average() -> None:
    rows = usual_rows(sets=ONE)
    assert [c.title for c in set_columns(rows, "auroc")] == ["only (n 50)"]
    assert [c.title for c in paired_columns(rows, with_sets=False)] == ["only AUROC ↑", "only FPR95 ↓"]
    assert overall_name(rows) == "OOD set only (n 50)"
    assert texts(main_columns(rows)[1])[0] == "91.0 ± 1.4"


def test_an_average_over_all_sets_is_not_shown_twice() -> None:
    rows = usual_rows()
    for row in rows:
        row["mean"]["average_near"] = row["mean"]["average"]
    assert [c.title for c in set_columns(rows, "auroc")][:2] == ["average", "near_set (n 600)"]


def test_without_ood_sets_only_the_accuracy_is_left() -> None:
    rows = compared([grid_row("a", (80.0,), sets={})])
    assert [c.title for c in main_columns(rows)] == ["ID accuracy ↑"]
    assert overall_name(rows) == ""
    assert [c.title for c in seed_columns(rows)] == ["seed 1 ID accuracy ↑"]


def test_every_score_and_every_seed() -> None:
    rows = usual_rows()
    del rows[0]["mean"]["scores"]["msp"]
    assert {c.title: texts(c)[0] for c in score_columns(rows, "auroc")} == {
        "msp": "–",
        "energy": "90.0 ± 1.4",
        "energy_region_unknown": "88.0 ± 1.4",
    }
    columns = seed_columns(rows)
    assert [c.title for c in columns] == [
        f"seed {s} {name}" for s in (1, 2) for name in (*METRIC_NAMES.values(), "ID accuracy ↑")
    ]
    assert [texts(c)[1] for c in columns] == ["93.0", "7.0", "74.0", "94.0", "6.0", "75.0"]
