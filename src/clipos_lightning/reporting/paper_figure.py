"""A figure for a paper: one image a row with its maps, the most probable classes, and the decision."""

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
from .heatmaps import DELTA_COLORS, MAP_COLORS, enlarge, map_panels
from .plots import ID_COLOR, OOD_COLOR, new_figure


@dataclass
class Verdict:
    """One image, what the detector saw in it and what it says of it.

    Attributes:
        name: of the image.
        image: (H, W, 3) uint8, square.
        clip: plain CLIP's S_clip for the shown class, (g, g).
        surgery: S for it, (g, g).
        mask: its ID-relevant patches, (g, g) bool.
        shown: the class that the maps are of.
        classes: the most probable classes and their probabilities, best first.
        score_name: the detector's score.
        score: of this image.
        threshold: None: not calibrated.
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

    @property
    def inside(self) -> bool:
        """Not below the threshold."""
        return self.threshold is None or self.score >= self.threshold

    @property
    def decision(self) -> str:
        """Score, threshold and decision, on two lines."""
        if self.threshold is None:
            return f"{self.score_name} {self.score:.4g}\nno threshold: not calibrated"
        sign, what = ("≥", self.classes[0][0]) if self.inside else ("<", "unknown")
        return f"{self.score_name} {self.score:.4g} {sign} {self.threshold:.4g}\n→ {what}"


PAPER: Any = {
    "font.size": 7,
    "axes.linewidth": 0.5,
    "pdf.fonttype": 42,  # text stays text
    "svg.fonttype": "none",
    "svg.hashsalt": "clipos",  # the same figure, the same bytes
}
TITLES = ("image", "CLIP's map  $S_{clip}$", "surgery map  $S$", "$\\Delta = S - S_{clip}$", "ID-relevant patches",
          "class probabilities")  # fmt: skip


WIDTH, PANEL, SPACE, NAMES, BARS = 7.1, 1.02, 0.06, 0.72, 0.9  # inches: of a page's text, a panel, between, beside
HEAD, ROW, FOOT = 0.22, PANEL + 0.3, 0.3


def paper_figure(verdicts: Sequence[Verdict]) -> Figure:
    """A row for each image: image, S_clip, S, their difference, the mask; beside them classes and score."""
    with matplotlib.rc_context(PAPER):
        figure = new_figure(WIDTH, HEAD + ROW * len(verdicts) + FOOT)
        figure.set_layout_engine("none")
        for row, verdict in enumerate(verdicts):
            top = HEAD + row * ROW
            axes = [place(figure, column, top, PANEL, PANEL) for column in range(5)]
            axes.append(place(figure, 5 + NAMES / (PANEL + SPACE), top, BARS, PANEL))
            draw_verdict(axes, verdict)
            if row == 0:
                for axis, title in zip(axes, TITLES, strict=True):
                    axis.set_title(title, fontsize=7, pad=4, x=0.15 if axis is axes[5] else 0.5)
        draw_color_bar(figure, ScalarMappable(Normalize(0, 1), MAP_COLORS), 1, 2, [0, 0.5, 1])
        draw_color_bar(figure, ScalarMappable(Normalize(-1, 1), DELTA_COLORS), 3, 1, [-1, 0, 1])
    return figure


def place(figure: Figure, column: float, top: float, width: float, height: float) -> Any:
    """Axes in a column of panels, in inches from the top."""
    left, whole = SPACE / 2 + column * (PANEL + SPACE), figure.get_figheight()
    return figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))


def draw_color_bar(figure: Figure, colors: ScalarMappable, column: int, columns: int, ticks: Sequence[float]) -> None:
    """A bar at the foot below some columns, with room for the labels at its ends."""
    inset = 0.1
    width = columns * (PANEL + SPACE) - SPACE - 2 * inset
    axis = place(figure, column + inset / (PANEL + SPACE), figure.get_figheight() - FOOT + 0.04, width, 0.06)
    bar = figure.colorbar(colors, cax=axis, orientation="horizontal", ticks=ticks)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axis.tick_params(labelsize=6, length=2, width=0.5, pad=1)


def draw_verdict(axes: Sequence[Any], verdict: Verdict) -> None:
    """One row."""
    panels = map_panels(verdict.image, verdict.clip, verdict.surgery, verdict.mask)
    for axis, pixels in zip(axes, panels.values(), strict=False):
        axis.imshow(enlarge(pixels), interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0].set_xlabel(shorten(verdict.name, 22), fontsize=6, labelpad=2, color="#555555")
    axes[4].set_xlabel(f"for “{shorten(verdict.shown, 20)}”", fontsize=6, labelpad=2, color="#555555")
    draw_bars(axes[5], verdict)


def draw_bars(axis: Any, verdict: Verdict) -> None:
    """The most probable classes as bars, the score and the decision below."""
    names, shares = zip(*verdict.classes, strict=True)
    places = np.arange(len(names))
    colors = [ID_COLOR if name == verdict.shown else "#b8c2cc" for name in names]
    axis.barh(places, shares, 0.62, color=colors)
    for place, share in zip(places, shares, strict=True):
        axis.text(share + 0.03, place, format_probability(share), va="center", fontsize=6)
    axis.set(ylim=(max(len(names), 3) - 0.4, -0.6), xlim=(0, 1.5), xticks=[])
    axis.set_yticks(places, [shorten(name, 16) for name in names], fontsize=6)
    axis.tick_params(axis="y", length=0, pad=2)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    color = "#222222" if verdict.inside else OOD_COLOR
    text = "\n".join(shorten(line, 30) for line in verdict.decision.split("\n"))
    axis.annotate(text, (-NAMES / BARS + 0.06, 0), (0, -3), "axes fraction", "offset points",
                  va="top", fontsize=6, color=color, linespacing=1.25)  # fmt: skip


def format_probability(share: float) -> str:
    """Whole percent; what rounds to nothing or to everything is neither."""
    return "< 1 %" if share < 0.005 else "> 99 %" if share > 0.995 else f"{100 * share:.0f} %"


def shorten(text: str, length: int) -> str:
    """At most so many characters, the end kept: of a file's name it says the most; no dollar starts a formula."""
    return (text if len(text) <= length else f"…{text[1 - length :]}").replace("$", r"\$")
