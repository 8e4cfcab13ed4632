"""The figure of ``clipos explain``: a row per image with its maps, the most probable classes and the decision."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ..types import FloatArray, Pixels
from .captions import DISTANCE, TEXT_COLOR, DecisionText, format_probability
from .heatmaps import MAX_DISTANCE, enlarge, map_panels
from .plots import HEAT_COLORS, ID_COLOR, OOD_COLOR, figure_text, new_figure


@dataclass
class Explanation:
    """One image, its maps for a class, and the detector's output for it.

    Attributes:
        name: name of the image.
        image: uint8, square, (H, H, 3).
        clip: plain CLIP's S_clip, (g, g).
        surgery: S, (g, g).
        mask: the ID-relevant patches, bool, (g, g).
        shown: the class of the maps.
        classes: the most probable classes and their probabilities, highest first.
        score_name: name of the detector's score.
        score: score of this image.
        threshold: the image is accepted if its score is at least this; None: not calibrated.
        distance: of each patch to the nearest one of the known images, (g, g); None: several classes.
    """

    name: str
    image: Pixels
    clip: FloatArray
    surgery: FloatArray
    mask: NDArray[np.bool_]
    shown: str
    classes: Sequence[tuple[str, float]]
    score_name: str
    score: float
    threshold: float | None = None
    distance: FloatArray | None = None

    @property
    def text(self) -> DecisionText:
        """The detector's output in words."""
        return DecisionText(*self.classes[0], self.score_name, self.score, self.threshold)


PAPER: Any = {  # matplotlib's settings
    "font.size": 7,
    "axes.linewidth": 0.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "clipos",  # equal figures give equal bytes
}
TITLES = ("image", "CLIP's map  $S_{clip}$", "surgery map  $S$", "$\\Delta = S - S_{clip}$", "ID-relevant patches",
          "class probabilities")  # fmt: skip


# sizes in inches: the figure, a panel, the space between panels, class names and bars; the rows
WIDTH, PANEL, SPACE, NAMES, BARS = 7.1, 1.02, 0.06, 0.72, 0.9
HEADER, ROW, FOOTER = 0.22, PANEL + 0.3, 0.3


def paper_figure(explanations: Sequence[Explanation]) -> Figure:
    """A figure with a row for each image: image, S_clip, S, Delta, ID-relevant patches, class probabilities.

    With a single class, the distance of each patch to the known images is in Delta's place.
    """
    single = explanations[0].distance is not None
    titles = [DISTANCE if single and title.startswith("$\\Delta") else title for title in TITLES]
    with matplotlib.rc_context(PAPER):
        figure = new_figure(WIDTH, HEADER + ROW * len(explanations) + FOOTER)
        figure.set_layout_engine("none")
        for row, explanation in enumerate(explanations):
            top = HEADER + row * ROW
            axes = [add_axes(figure, column, top, PANEL, PANEL) for column in range(5)]
            axes.append(add_axes(figure, 5 + NAMES / (PANEL + SPACE), top, BARS, PANEL))
            draw_row(axes, explanation)
            if row == 0:
                for axis, title in zip(axes, titles, strict=True):
                    axis.set_title(title, fontsize=7, pad=4, x=0.15 if axis is axes[5] else 0.5)
        draw_color_bar(figure, ScalarMappable(Normalize(0, 1), HEAT_COLORS), 1, 2, [0, 0.5, 1])
        low, high = (0, MAX_DISTANCE) if single else (-1, 1)
        draw_color_bar(figure, ScalarMappable(Normalize(low, high), HEAT_COLORS), 3, 1, [low, (low + high) / 2, high])
    return figure


def add_axes(figure: Figure, column: float, top: float, width: float, height: float) -> Any:
    """Add axes at a column of panels; top, width and height in inches."""
    left, figure_height = SPACE / 2 + column * (PANEL + SPACE), figure.get_figheight()
    bottom = 1 - (top + height) / figure_height
    return figure.add_axes((left / WIDTH, bottom, width / WIDTH, height / figure_height))


def draw_color_bar(figure: Figure, colors: ScalarMappable, column: int, columns: int, ticks: Sequence[float]) -> None:
    """Draw a colour bar below ``columns`` columns from ``column`` on."""
    inset = 0.1  # space for the tick labels at both ends
    width = columns * (PANEL + SPACE) - SPACE - 2 * inset
    axis = add_axes(figure, column + inset / (PANEL + SPACE), figure.get_figheight() - FOOTER + 0.04, width, 0.06)
    bar = figure.colorbar(colors, cax=axis, orientation="horizontal", ticks=ticks)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axis.tick_params(labelsize=6, length=2, width=0.5, pad=1)


def draw_row(axes: Sequence[Any], explanation: Explanation) -> None:
    """Draw one image's row on its six axes."""
    maps = (explanation.image, explanation.clip, explanation.surgery, explanation.mask)
    panels = map_panels(*maps, distance=explanation.distance)
    for axis, pixels in zip(axes, panels.values(), strict=False):
        axis.imshow(enlarge(pixels), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0].set_xlabel(shorten(explanation.name, 22), fontsize=6, labelpad=2, color="#555555")
    axes[4].set_xlabel(f"for “{shorten(explanation.shown, 20)}”", fontsize=6, labelpad=2, color="#555555")
    draw_bars(axes[5], explanation)


def draw_bars(axis: Any, explanation: Explanation) -> None:
    """Draw the most probable classes as bars, and below them score and decision."""
    names, probabilities = zip(*explanation.classes, strict=True)
    positions = np.arange(len(names))
    colors = [ID_COLOR if name == explanation.shown else "#b8c2cc" for name in names]
    axis.barh(positions, probabilities, 0.62, color=colors)
    for position, probability in zip(positions, probabilities, strict=True):
        axis.text(probability + 0.03, position, format_probability(probability), va="center", fontsize=6)
    axis.set(ylim=(max(len(names), 3) - 0.4, -0.6), xlim=(0, 1.5), xticks=[])
    axis.set_yticks(positions, [shorten(name, 16) for name in names], fontsize=6)
    axis.tick_params(axis="y", length=0, pad=2)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    color = TEXT_COLOR if explanation.text.accepted else OOD_COLOR
    text = "\n".join(shorten(line, 30) for line in explanation.text.decision)
    axis.annotate(text, (-NAMES / BARS + 0.06, 0), (0, -3), "axes fraction", "offset points",
                  va="top", fontsize=6, color=color, linespacing=1.25)  # fmt: skip


def shorten(text: str, length: int) -> str:
    """The last ``length`` characters of a text for the figure, after an ellipsis if it is longer.

    Example:
        >>> shorten("photos/cat.jpg", 8)
        '…cat.jpg'
    """
    return figure_text(text if len(text) <= length else f"…{text[1 - length :]}")
