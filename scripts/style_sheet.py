"""Draw docs/images/styles.png: pictures of every kind of `scenes`, a row per style, three times enlarged.

python scripts/style_sheet.py --out docs/images/styles.png
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clipos_lightning.data.scenes import render
from clipos_lightning.data.styles import PHOTO, STYLES

COLUMNS = {"id": 10, "seen_shapes": 2, "new_shapes": 3, "texture": 2, "noise": 1, "letters": 2}  # kind to pictures
GAP, ENLARGED = 2, 3


def sheet() -> Image.Image:
    """All rows, with white gaps."""
    rows = []
    for style in (PHOTO, *STYLES):
        images = [render(kind, "train", 0, i, style=style).image for kind, n in COLUMNS.items() for i in range(n)]
        padded = [np.pad(image, ((0, GAP), (0, GAP), (0, 0)), constant_values=255) for image in images]
        rows.append(np.concatenate(padded, axis=1))
    picture = Image.fromarray(np.concatenate(rows))
    return picture.resize((ENLARGED * picture.width, ENLARGED * picture.height), Image.Resampling.NEAREST)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/styles.png"))
    sheet().save(parser.parse_args(arguments).out, optimize=True)


if __name__ == "__main__":
    main()
