"""Names of users in every output: shown as they are, never taken for markup, and read back exactly from data files."""

import csv
import io
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from outcomes import compared, grid_row, outcome_of
from running import clipos, done, save_noise

from clipos_lightning.detector.row_files import csv_line, json_line
from clipos_lightning.detector.row_readers import ROW_COLUMNS, read_csv, read_jsonl
from clipos_lightning.errors import printable
from clipos_lightning.experiments.grid_plots import option_panel
from clipos_lightning.experiments.latex import SPECIAL, to_latex
from clipos_lightning.experiments.results_page import to_page
from clipos_lightning.experiments.shot_curves import curve_figure, shot_curves
from clipos_lightning.experiments.tables import grid_markdown, to_csv
from clipos_lightning.reporting.captions import DecisionText, caption_strip
from clipos_lightning.reporting.heatmaps import panel_figure
from clipos_lightning.reporting.paper_figure import Explanation, paper_figure
from clipos_lightning.reporting.plots import svg_element
from clipos_lightning.reporting.terminal import print_table
from clipos_lightning.utils.csv_cells import FORMULA, name_cell, read_name
from clipos_lightning.utils.files import write_json

pytestmark = pytest.mark.badinput

NAMES = {
    **{"rich": "CLIP-OS [ours] [/near] :cat:", "formula": "=1+1", "minus": "-x", "plus": "+x", "at": "@x"},
    **{"mathtext": "$x_{$", "dollars": "$a$ \\$", "latex": "{}^~\\<>&%#_", "option": "[b]* c", "table": "a|b\\|c"},
    **{"emphasis": "*a* _b_ __c__ ~~d~~", "code": "`a` ``b", "link": "[a](b) ![c](d)", "html": "<b>&amp;</b>"},
    **{"apostrophe": "'=1", "line": "a\nb", "underscore": "_a", "escape": "\x1b[31mred", "other": "é → 犬"},
    **{"bytes": "caf\udce9", "colour": "#000000", "template": "{{ 1 }} {% x %}", "quotes": "\"a' b"},
}
ALL_NAMES = pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))


def outcome(name: str) -> dict[str, object]:
    """A benchmark whose row, OOD set, title and reference have the name."""
    rows = compared([grid_row(name, (90.0,), {name: 9}), grid_row("other", (91.0,), {name: 9})])
    return outcome_of(rows) | {"title": name}


# ---- how each format is read back


class PageText(HTMLParser):
    """The texts of a page, one per element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts, self.current = [""], ""
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.texts[-1] += data

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag != "wbr":
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.texts.append("")


def page_texts(name: str) -> list[str]:
    return PageText(to_page(outcome(name))).texts


def markdown_texts(name: str) -> list[str]:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(grid_markdown(outcome(name)))
    return ["".join(part.content for part in token.children or []) for token in tokens if token.type == "inline"]


def latex_texts(name: str) -> list[str]:
    """The cells of the first column, with LaTeX's commands read back; what is left is no command."""
    body = to_latex(outcome(name)).split("\\midrule\n")[1].split("\\bottomrule")[0]
    codes = sorted((code for code in SPECIAL.values() if code not in ("--", "---")), key=len, reverse=True)
    characters = {code: character for character, code in SPECIAL.items()}
    pattern = "|".join(map(re.escape, codes))
    cells = [re.split(r"(?<!\\) & ", line)[0] for line in body.strip().splitlines()]
    for cell in cells:
        assert not re.search(r"[\\{}$&#^_~%\[\]*<>|`]", re.sub(pattern, "", cell)), cell
    return [re.sub(pattern, lambda code: characters[code[0]], cell) for cell in cells]


def terminal_texts(name: str) -> list[str]:
    with redirect_stdout(io.StringIO()) as out:
        print_table(name, ["method", "AUROC"], [[name, "90.0"]])
    title, row = (line.strip() for line in out.getvalue().splitlines() if printable(name) in line)
    return [title] if title == row.removesuffix("90.0").strip() else []


def figures_with(names: Sequence[str]) -> Iterator[Figure]:
    """Every figure that shows names."""
    pixels, maps = np.zeros((8, 8, 3), np.uint8), np.zeros((2, 2), np.float32)
    rest = (maps, maps, maps > 0)
    yield option_panel([grid_row("row", (90.0,), group="option", value=name) for name in names])
    grid = outcome_of(*([grid_row(n, (90.0,), grid_point={"data.shots": k}) for n in names] for k in (1, 2, 4)))
    yield curve_figure(next(iter(shot_curves(grid).values())))
    yield panel_figure([(printable(name), {"image": pixels}) for name in names])  # a line break is one of ours
    shown = [Explanation(name, pixels, *rest, name, [(name, 0.9), ("cat", 0.1)], "msp", 1.0, 0.5) for name in names]
    yield paper_figure(shown)


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


@ALL_NAMES
@pytest.mark.parametrize("texts", [page_texts, markdown_texts, latex_texts, terminal_texts])
def test_what_people_read_shows_names_as_they_are(texts: Callable[[str], list[str]], name: str) -> None:
    shown = name if texts is page_texts else printable(name)  # a page may hold what does not print
    assert shown.strip() in [text.strip() for text in texts(name)]


def test_figures_show_names_as_they_are() -> None:
    """In the SVG they are text."""
    names = [name for name in NAMES.values() if len(printable(name)) <= 16]  # longer ones are shortened
    for figure in figures_with(names):
        page = ElementTree.fromstring(encoded(svg_element(figure)))
        texts = {"".join(part.itertext()).strip() for part in page.iter()}
        for name in names:
            assert any(shown in texts for shown in (printable(name), f"for “{printable(name)}”", f"→ {name}")), name
    for name in names:
        caption_strip(DecisionText(name, 0.9, "msp", 1.0, 0.5), 400)


# ---- files for programs


@ALL_NAMES
def test_rows_are_read_back_exactly_and_are_no_formulas(name: str) -> None:
    row = dict(zip(ROW_COLUMNS, (name, name, 0.5, -1.5, None, name, -2.0), strict=True))
    text = csv_line(row)
    (cells,) = csv.reader(io.StringIO(text, newline=""))
    assert cells[ROW_COLUMNS.index("score")] == "-1.5"
    assert not any(cells[ROW_COLUMNS.index(column)].startswith(tuple(FORMULA)) for column in ("path", "class"))
    (back,) = read_csv(iter([csv_line(None), *text.splitlines(keepends=True)]), Path("x.csv"))
    assert back == row | {"path": f"./{name}" if name.startswith(tuple(FORMULA)) else name}
    for only_ascii in (False, True):
        line = json_line(row, only_ascii)
        assert line.encode("utf-8") and line.isascii() >= only_ascii and json.loads(line) == row
        assert list(read_jsonl(iter([line]), Path("x.jsonl"))) == [row]


@ALL_NAMES
def test_the_benchmarks_csv_is_read_back_exactly(name: str) -> None:
    first = next(csv.DictReader(io.StringIO(to_csv(outcome(name)), newline="")))
    for cell in (first["row"], first["set"]):
        assert not cell.startswith(tuple(FORMULA)) and read_name(cell) == name
    assert read_name(name_cell(name)) == name


def test_json_has_no_numbers_that_are_not_finite(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"auroc": float("nan"), "all": [1.5, float("inf"), "NaN"]})
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"auroc": None, "all": [1.5, None, "NaN"]}


# ---- a whole test


def test_a_test_on_sets_with_such_names(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [NAMES[kind] for kind in ("formula", "mathtext", "link", "table", "code", "line", "underscore", "template")]
    data = Path(shutil.copytree(tiny_folder, tmp_path / "data"))
    (data / "photos").rename(data / "id[red]")
    save_noise(data / "other" / f"{NAMES['bytes']}.png", 1)
    for name in names:
        (data / name).symlink_to(data / "other")
    config = {"data": {"root": str(data), "id": "folder:id[red]", "ood_sets": [f"folder:{name}" for name in names]}}
    (tmp_path / "names.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    run = done("test", "--config", "demo.yaml", "--config", "names.yaml", "--data.limit_per_set", 8)
    assert list(run.report["ood"]) == names and run.report["id"]["name"] == "id[red]"
    assert all(f"{NAMES['bytes']}.png" in run.scores[f"{name}/paths"] for name in names)
    assert run.lines[0].split(": ")[1].startswith("id[red] ")
    for name in names:
        assert any(line.strip().startswith(f"{printable(name)} ") for line in run.lines), name
    for file in ("report.md", "report.html", "config.yaml", "report.json"):
        (run.folder / file).read_text(encoding="utf-8")


def test_the_list_of_data_sets_shows_the_root_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "[red] :cat:"
    assert str(root) in clipos("data", "list", "--root", root).out.replace("\n", "")
