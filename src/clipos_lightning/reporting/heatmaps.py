"""Heat maps: similarity maps and ID-relevant patches as pixels, for all reports, figures and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion

from ..errors import printable
from ..types import ClassMaps, FloatArray, Images, Pixels
from ..utils.files import atomic_write, make_folder
from .captions import DELTA, DISTANCE, DecisionText, caption_strip
from .plots import HEAT_COLORS, figure_text, new_figure

MIN_PANEL_SIDE = 224  # least side of a panel in a file, in pixels
MAX_DISTANCE = 0.5  # end of the colour scale of distances to the known images
GAP = 4  # space between the panels of a file, in pixels
OUTLINE = (4, 6)  # black up to the first, then white up to the second, in pixels


@dataclass
class Example:
    """One image, the detector's output for it, and its maps on the patch grid.

    Attributes:
        image: (H, W, 3) uint8.
        surgery: S for the predicted class, (g, g).
        clip: plain CLIP's S_clip, (g, g).
        mask: the ID-relevant patches, (g, g) bool.
        origin: the true class, or the OOD set.
        key: name of the image in its set: a path or a number.
        predicted: the predicted class.
        probability: probability of that class over the C classes.
        score: the detector's score.
        truth: the true object mask in [0, 1], (H, W); None: not known.
    """

    image: Pixels
    surgery: FloatArray
    clip: FloatArray
    mask: NDArray[np.bool_]
    origin: str
    key: str
    predicted: str
    probability: float
    score: float
    truth: FloatArray | None = None

    @property
    def caption(self) -> str:
        """True and predicted class, on two lines."""
        return f"{printable(self.origin)}\n→ {printable(self.predicted)} {100 * self.probability:.0f} %"

    @property
    def panels(self) -> dict[str, Pixels]:
        """Title to pixels of the image and its maps, from :func:`map_panels`."""
        return map_panels(self.image, self.clip, self.surgery, self.mask, self.truth)


def map_panels(
    image: Pixels,
    clip: FloatArray,
    surgery: FloatArray,
    mask: NDArray[np.bool_],
    truth: FloatArray | None = None,
    distance: FloatArray | None = None,
) -> dict[str, Pixels]:
    """Title to pixels of an image and its maps.

    The panels are the image, S_clip, S, Delta = S - S_clip, the image with all but the ID-relevant patches faded, and
    the true object if it is known. With a single class, the distance to the known images is in Delta's place.

    Args:
        image: uint8, (H, W, 3).
        clip: plain CLIP's S_clip, (g, g).
        surgery: S, (g, g).
        mask: the ID-relevant patches, (g, g).
        truth: the true object mask in [0, 1], (H, W) or (g, g); None: not known.
        distance: of each patch to the nearest one of the known images, (g, g); None: several classes.
    """
    panels = {
        "image": image,
        "plain CLIP": map_pixels(clip),
        "surgery S": map_pixels(surgery),
        **(
            {DELTA: delta_pixels(surgery - clip)}
            if distance is None
            else {DISTANCE: map_pixels(distance / MAX_DISTANCE)}
        ),
        "ID-relevant": fade_outside(image, mask),
    }
    return panels if truth is None else {**panels, "true object": gray_pixels(truth)}


def map_pixels(values: FloatArray) -> Pixels:
    """A similarity map in [0, 1], (g, g), as colours, (g, g, 3): red above 0.5, blue below."""
    return matplotlib.colormaps[HEAT_COLORS](np.clip(values, 0, 1), bytes=True)[..., :3]


def delta_pixels(values: FloatArray) -> Pixels:
    """A discrepancy map in [-1, 1], (g, g), as colours, (g, g, 3): red above 0, blue below."""
    return map_pixels((values + 1) / 2)


def gray_pixels(values: FloatArray) -> Pixels:
    """An object mask in [0, 1], (H, W), as grey values, (H, W, 3)."""
    return np.repeat((255 * values).astype(np.uint8)[..., None], 3, -1)


def fade_outside(image: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """The image, (H, W, 3), with the patches outside the mask, (g, g), faded to grey.

    Example:
        >>> fade_outside(np.zeros((1, 2, 3), np.uint8), np.array([[True, False]]))[0, :, 0].tolist()
        [0, 176]
    """
    height, width = image.shape[:2]
    rows, columns = np.arange(height) * mask.shape[0] // height, np.arange(width) * mask.shape[1] // width
    keep = mask[rows[:, None], columns[None]][..., None]
    faded = 0.25 * image.mean(-1, keepdims=True) + 0.75 * 235
    return np.where(keep, image, faded).astype(np.uint8)


def enlarge(pixels: Pixels, side: int = MIN_PANEL_SIDE) -> Pixels:
    """Repeat the pixels of a square image until it has at least ``side`` rows, so that viewers keep sharp edges."""
    times = -(-side // len(pixels))
    return pixels.repeat(times, 0).repeat(times, 1)


def outlined(pixels: Pixels, mask: NDArray[np.bool_]) -> Pixels:
    """Square pixels, enlarged, with a line around the patches of a mask, (g, g), on their inner side.

    Example:
        >>> gray = np.full((2, 2, 3), 128, np.uint8)
        >>> outlined(gray, np.array([[True, False], [False, False]]))[[0, 4, 6, 111, 112], 50, 0].tolist()
        [0, 255, 128, 0, 128]
    """
    large = enlarge(pixels)
    patches = np.arange(len(large)) * len(mask) // len(large)
    inside = mask[patches[:, None], patches[None]]
    thick, thin = (binary_erosion(inside, iterations=width) for width in OUTLINE)
    large[inside & ~thin] = 255
    large[inside & ~thick] = 0
    return large


def panel_figure(rows: Sequence[tuple[str, Mapping[str, Pixels]]], scale: str = "plain CLIP, S") -> Figure:
    """A figure with a row of panels for each image, titles above the first row, and a colour bar below the last.

    Args:
        rows: (caption, title to pixels) of each image, at least one.
        scale: the maps of the lower scale of the colour bar; the upper one is Delta's.
    """
    columns = len(rows[0][1])
    figure = new_figure(1.45 * columns, 1.6 * len(rows) + 0.8)
    grid = figure.add_gridspec(len(rows) + 1, columns, height_ratios=[1] * len(rows) + [0.06])
    for row, (caption, panels) in enumerate(rows):
        for column, (title, pixels) in enumerate(panels.items()):
            axis = figure.add_subplot(grid[row, column])
            axis.set_axis_off()
            axis.imshow(pixels, interpolation="nearest")
            lines = (caption if column == 0 else title if row == 0 else "").split("\n")
            axis.set_title("\n".join(map(figure_text, lines)), fontsize=7)
    bar = figure.add_subplot(grid[-1, columns // 4 : columns - columns // 4])
    figure.colorbar(ScalarMappable(cmap=HEAT_COLORS), cax=bar, orientation="horizontal")
    bar.set_xticks([0, 0.5, 1], labels=["0", f"{scale}: 0.5", "1"], fontsize=7)
    bar.secondary_xaxis("top").set_xticks([0, 0.5, 1], labels=["−1", "difference Δ: 0", "1"], fontsize=7)
    return figure


# ---- one file per image


def write_heatmaps(
    folder: Path,
    paths: Sequence[str],
    images: Images,
    maps: ClassMaps,
    grid: tuple[int, int],
    texts: Mapping[int, DecisionText],
) -> None:
    """Write a PNG for each image: the image, Delta and the ID-relevant patches in a row, a caption strip below.

    Args:
        folder: created if it does not exist.
        paths: of the images of a batch; a PNG gets the path of its image below ``folder``.
        images: uint8, of the model's size, (B, 3, S, S).
        maps: of the batch.
        grid: rows and columns of patches.
        texts: position in the batch to the detector's output, for the images to write.
    """
    clip, surgery, mask = (t.reshape(-1, *grid).cpu().numpy() for t in (maps.clip, maps.surgery, maps.mask))
    distances = None if maps.difference is None else maps.difference.reshape(-1, *grid).cpu().numpy()
    for i, text in texts.items():
        target = folder / heatmap_name(paths[i])
        make_folder(target.parent)
        distance = None if distances is None else distances[i]
        panels = map_panels(images[i].permute(1, 2, 0).numpy(), clip[i], surgery[i], mask[i], distance=distance)
        shown = DELTA if distance is None else DISTANCE
        row = panel_row([panels[title] for title in ("image", shown, "ID-relevant")])
        picture = Image.fromarray(np.concatenate([row, caption_strip(text, row.shape[1], shown)]))
        with atomic_write(target) as partial:
            picture.save(partial, "png")


def panel_row(panels: Sequence[Pixels]) -> Pixels:
    """Square panels in a row with white gaps, all as high as the first one enlarged."""
    side = len(enlarge(panels[0]))
    gap = np.full((side, GAP, 3), 255, dtype=np.uint8)
    parts = [np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.NEAREST)) for p in panels]
    return np.concatenate([part for panel in parts for part in (gap, panel)][1:], axis=1)


def heatmap_name(path: str) -> Path:
    """The path of an image's heat map below the output folder: that of the image, with ``..`` replaced.

    Example:
        >>> heatmap_name("../photos/cat.jpg").as_posix(), heatmap_name("/x/cat.jpg").as_posix()
        ('__/photos/cat.jpg.png', 'x/cat.jpg.png')
    """
    parts = ["__" if part == ".." else part for part in PurePath(path).parts if part != PurePath(path).anchor]
    return Path(*parts[:-1], f"{parts[-1]}.png")
