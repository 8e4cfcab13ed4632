"""The sheet of styles in the docs is what the script draws."""

import runpy
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]


def test_the_sheet_in_the_docs_is_up_to_date() -> None:
    drawn = runpy.run_path(str(ROOT / "scripts" / "style_sheet.py"))["sheet"]()
    with Image.open(ROOT / "docs" / "images" / "styles.png") as kept:
        difference = np.abs(np.asarray(kept, dtype=int) - np.asarray(drawn, dtype=int))
    assert difference.mean() < 1  # fonts and blurring may differ between versions of Pillow
