"""Pictures of a test: figures for dashboards, small embedded images for the page. Arrays in, pictures out."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from ..evaluation.metrics import auroc, counts_at_thresholds
from ..evaluation.results import Results
from ..types import FloatArray
from .report import paired_scores

ID_COLOR, OOD_COLOR = "#0b6e8f", "#d1603d"
MAX_EMBEDDED_SIDE = 160  # pixels of an embedded image


@dataclass
class Example:
    """One test image, what the detector said, and its maps on the patch grid.

    Attributes:
        image: (H, W, 3) uint8.
        surgery: S for the predicted class, (g, g).
        clip: plain CLIP's S_clip, (g, g).
        mask: the ID-relevant patches, (g, g) bool.
        origin: the true class, or the OOD set.
        key: of the image in its set.
        predicted: the predicted class.
        probability: of that class over the C classes.
        score: the detector's.
        truth: the true object mask (H, W), or None.
    """

    image: NDArray[np.uint8]
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
        """What it is and what it was taken for, on two lines."""
        return f"{self.origin}\n→ {self.predicted} {100 * self.probability:.0f} %"


def new_figure(columns: float, rows: float) -> Figure:
    """A figure without any global state of pyplot."""
    figure = Figure(figsize=(columns, rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def embed(pixels: NDArray[np.uint8]) -> str:
    """An image (H, W, 3) as a data URI: exact PNG when it is small, else a JPEG of at most LARGEST pixels."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if max(picture.size) <= 64 else "jpeg"
    picture.thumbnail((MAX_EMBEDDED_SIDE, MAX_EMBEDDED_SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()


def colored(values: FloatArray, colors: str, low: float = 0, high: float = 1) -> NDArray[np.uint8]:
    """A map (g, g) in the colours of a matplotlib map, (g, g, 3)."""
    scaled = np.clip((values - low) / (high - low), 0, 1)
    return matplotlib.colormaps[colors](scaled, bytes=True)[..., :3]


def axes_grid(count: int, height: float = 2.6) -> tuple[Figure, list[Any]]:
    """A figure with ``count`` panels, four a row."""
    columns = max(1, min(4, count))
    rows = -(-count // columns)
    figure = new_figure(2.7 * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes


def roc_curves(curves: Mapping[str, Mapping[str, tuple[FloatArray, FloatArray]]]) -> Figure:
    """ROC curves, ID positive: set -> detector -> (ID scores, OOD scores)."""
    figure, axes = axes_grid(len(curves))
    colors = [ID_COLOR, OOD_COLOR]
    for axis, (name, detectors) in zip(axes, curves.items(), strict=True):
        for color, (label, (inside, outside)) in zip(colors, detectors.items(), strict=False):
            true, false = counts_at_thresholds(inside, outside)
            x, y = np.append(0, false / len(outside)), np.append(0, true / len(inside))
            style = "--" if label == "zero-shot" and len(detectors) > 1 else "-"
            axis.plot(x, y, style, color=color, label=f"{label} {auroc(inside, outside):.1f}")
        axis.plot([0, 1], [0, 1], color="#dde3ea", linewidth=0.8, zorder=0)
        axis.set(title=name, xlabel="OOD accepted", ylabel="ID accepted", xlim=(0, 1), ylim=(0, 1.01))
        axis.legend(loc="lower right", fontsize=7, frameon=False, title="AUROC", title_fontsize=7)
    return figure


def histograms(inside: FloatArray, outside: Mapping[str, FloatArray], score: str) -> Figure:
    """Histograms of one score: ID against each OOD set."""
    figure, axes = axes_grid(len(outside), 2.2)
    for axis, (name, values) in zip(axes, outside.items(), strict=True):
        both = np.concatenate([inside, values])
        low, high = np.percentile(both, [0.5, 99.5])
        bins = np.linspace(low, high if high > low else low + 1, 40)
        for data, color, label in ((inside, ID_COLOR, "ID"), (values, OOD_COLOR, name)):
            axis.hist(np.clip(data, bins[0], bins[-1]), bins, density=True, alpha=0.6, color=color, label=label)
        axis.set(title=name, xlabel=score, yticks=[])
        axis.legend(fontsize=7, frameon=False)
    return figure


def draw_gallery(examples: Sequence[Example]) -> Figure:
    """A row for each image: image, plain CLIP's map, the surgery path's, their difference, the ID-relevant mask."""
    masked = any(e.truth is not None for e in examples)
    titles = ["image", "plain CLIP  S_clip", "surgery  S", "Δ = S − S_clip", "ID-relevant"]
    titles += ["true object"] if masked else []
    figure = new_figure(1.45 * len(titles), 1.5 * len(examples) + 0.3)
    for row, example in enumerate(examples):
        drawn = draw_maps(example) + ([(example.truth, {"cmap": "gray", "vmin": 0, "vmax": 1})] if masked else [])
        for column, (picture, style) in enumerate(drawn):
            axis = figure.add_subplot(len(examples), len(titles), row * len(titles) + column + 1)
            axis.set_axis_off()
            if picture is not None:
                axis.imshow(picture, **style)
            caption = example.caption if column == 0 else titles[column] if row == 0 else ""
            axis.set_title(caption, fontsize=7)
    return figure


def draw_maps(example: Example) -> list[tuple[Any, dict[str, Any]]]:
    """Pictures and imshow styles of one row of the gallery."""
    heat = {"cmap": "magma", "vmin": 0, "vmax": 1}
    return [
        (example.image, {}),
        (example.clip, heat),
        (example.surgery, heat),
        (example.surgery - example.clip, {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}),
        (shade(example.image, example.mask), {}),
    ]


def shade(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image with everything outside the mask (patch grid) faded to grey."""
    height, width = image.shape[:2]
    rows, columns = np.arange(height) * mask.shape[0] // height, np.arange(width) * mask.shape[1] // width
    keep = mask[rows[:, None], columns[None]][..., None]
    faded = 0.25 * image.mean(-1, keepdims=True) + 0.75 * 235
    return np.where(keep, image, faded).astype(np.uint8)


def image_strip(examples: Sequence[Example]) -> Figure:
    """Images in a row, each over its ID-relevant patches: the most convincing mistakes."""
    figure = new_figure(1.45 * max(1, len(examples)), 3.2)
    for i, example in enumerate(examples):
        for row, picture in enumerate((example.image, shade(example.image, example.mask))):
            axis = figure.add_subplot(2, len(examples), row * len(examples) + i + 1)
            axis.set_axis_off()
            axis.imshow(picture)
            axis.set_title("" if row else example.caption, fontsize=7)
    return figure


def dashboard_figures(
    results: Results, score: str, trained: bool, galleries: Mapping[str, Sequence[Example]]
) -> dict[str, Figure]:
    """Caption to figure: ROC curves, histograms, heat maps, the most convincing mistakes."""
    found, curves = {}, paired_scores(results, score, trained)
    if curves:
        outside = {name: results[name][score] for name in curves}
        found[f"ROC curves of {score}, ID positive"] = roc_curves(curves)
        found[f"{score} on ID and OOD images (higher = more ID)"] = histograms(results["id"][score], outside, score)
    if galleries.get("classes"):
        caption = "ID test images: what the method thought belonged to the predicted class"
        found[caption] = draw_gallery(galleries["classes"])
    if galleries.get("outside"):
        caption = f"OOD images with the highest {score}: the most convincing mistakes, and their ID-relevant patches"
        found[caption] = image_strip(galleries["outside"])
    return found


# ---- a figure for a paper: one image a row


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
    image: NDArray[np.uint8]
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


WIDTH, PANEL, GAP, NAMES, BARS = 7.1, 1.02, 0.06, 0.72, 0.9  # inches: of a page's text, a panel, between, beside
HEAD, ROW, FOOT = 0.22, PANEL + 0.3, 0.3


def paper_figure(verdicts: Sequence[Verdict]) -> Figure:
    """A row for each image: image, S_clip, S, their difference, the mask; beside them classes and score."""
    with matplotlib.rc_context(PAPER):
        figure = new_figure(WIDTH, HEAD + ROW * len(verdicts) + FOOT)
        figure.set_layout_engine("none")
        for row, verdict in enumerate(verdicts):
            top = HEAD + row * ROW
            axes = [place(figure, column, top, PANEL, PANEL) for column in range(5)]
            axes.append(place(figure, 5 + NAMES / (PANEL + GAP), top, BARS, PANEL))
            heats = draw_verdict(axes, verdict)
            if row == 0:
                for axis, title in zip(axes, TITLES, strict=True):
                    axis.set_title(title, fontsize=7, pad=4, x=0.15 if axis is axes[5] else 0.5)
        draw_color_bar(figure, heats[0], 1, 2, [0, 0.5, 1])
        draw_color_bar(figure, heats[1], 3, 1, [-1, 0, 1])
    return figure


def place(figure: Figure, column: float, top: float, width: float, height: float) -> Any:
    """Axes in a column of panels, in inches from the top."""
    left, whole = GAP / 2 + column * (PANEL + GAP), figure.get_figheight()
    return figure.add_axes((left / WIDTH, 1 - (top + height) / whole, width / WIDTH, height / whole))


def draw_color_bar(figure: Figure, heat: Any, column: int, columns: int, ticks: Sequence[float]) -> None:
    """A bar at the foot below some columns, with room for the labels at its ends."""
    inset = 0.1
    width = columns * (PANEL + GAP) - GAP - 2 * inset
    axis = place(figure, column + inset / (PANEL + GAP), figure.get_figheight() - FOOT + 0.04, width, 0.06)
    bar = figure.colorbar(heat, cax=axis, orientation="horizontal", ticks=ticks)
    bar.outline.set_visible(False)  # type: ignore[operator]
    axis.tick_params(labelsize=6, length=2, width=0.5, pad=1)


def draw_verdict(axes: Sequence[Any], verdict: Verdict) -> tuple[Any, Any]:
    """One row; returns what its two colour bars are of."""
    shade_of = {"edgecolors": "face", "linewidth": 0.4}  # cells of a vector file without seams
    delta = verdict.surgery - verdict.clip
    axes[0].imshow(verdict.image)
    heat = axes[1].pcolormesh(verdict.clip, cmap="cividis", vmin=0, vmax=1, **shade_of)
    axes[2].pcolormesh(verdict.surgery, cmap="cividis", vmin=0, vmax=1, **shade_of)
    difference = axes[3].pcolormesh(delta, cmap="RdBu_r", vmin=-1, vmax=1, **shade_of)
    axes[4].imshow(shade(verdict.image, verdict.mask))
    for axis in axes[1:4]:
        axis.set(aspect="equal", ylim=(len(delta), 0))
    for axis in axes[:5]:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    axes[0].set_xlabel(shorten(verdict.name, 22), fontsize=6, labelpad=2, color="#555555")
    axes[4].set_xlabel(f"for “{shorten(verdict.shown, 20)}”", fontsize=6, labelpad=2, color="#555555")
    draw_bars(axes[5], verdict)
    return heat, difference


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
