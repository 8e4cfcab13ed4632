"""The figures in the docs are those that ``make figures`` makes."""

import runpy
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
SCREENSHOTS = {"app"}
figures = runpy.run_path(str(ROOT / "scripts" / "figures.py"))["FIGURES"]


def test_the_sheet_of_styles_is_up_to_date(tmp_path: Path) -> None:
    figures["styles"](tmp_path / "styles.png")
    with Image.open(ROOT / "docs/images/styles.png") as kept, Image.open(tmp_path / "styles.png") as drawn:
        difference = np.abs(np.asarray(kept, dtype=int) - np.asarray(drawn, dtype=int))
    assert difference.mean() < 1  # fonts and blurring may differ between versions of Pillow


def test_each_figure_has_a_command_and_is_shown() -> None:
    files = {path.stem for path in (ROOT / "docs/images").iterdir()}
    assert files - SCREENSHOTS == set(figures)
    pages = "".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
    assert all(f"images/{name}.png" in pages for name in files)
