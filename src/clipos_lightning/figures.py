"""The report's pictures: ROC curves, score histograms, heat maps of what belonged to the class. Arrays to figures."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from .metrics import auroc, steps

ID_COLOR, OOD_COLOR = "#0b6e8f", "#d1603d"
Array = NDArray[np.floating]


@dataclass
class Example:
    """One image with its maps on the patch grid.

    Attributes:
        image: (H, W, 3) uint8.
        surgery: S, (g, g).
        clip: plain CLIP's S_clip, (g, g).
        mask: the ID-relevant patches, (g, g) bool.
        caption: over the image.
        truth: the true object mask (H, W), or None.
    """

    image: NDArray[np.uint8]
    surgery: Array
    clip: Array
    mask: NDArray[np.bool_]
    caption: str
    truth: Array | None = None


def new_figure(columns: float, rows: float) -> Figure:
    """A figure without any global state of pyplot."""
    figure = Figure(figsize=(columns, rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def data_uri(figure: Figure, dpi: int = 110) -> str:
    """A figure as an embedded PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def panels(count: int, height: float = 2.6) -> tuple[Figure, list[Any]]:
    """A figure with ``count`` panels, four a row."""
    columns = max(1, min(4, count))
    rows = -(-count // columns)
    figure = new_figure(2.7 * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes


def roc_curves(curves: Mapping[str, Mapping[str, tuple[Array, Array]]]) -> Figure:
    """ROC curves, ID positive: set -> detector -> (ID scores, OOD scores)."""
    figure, axes = panels(len(curves))
    colors = [ID_COLOR, OOD_COLOR]
    for axis, (name, detectors) in zip(axes, curves.items(), strict=True):
        for color, (label, (inside, outside)) in zip(colors, detectors.items(), strict=False):
            true, false = steps(inside, outside)
            x, y = np.append(0, false / len(outside)), np.append(0, true / len(inside))
            style = "--" if label == "zero-shot" and len(detectors) > 1 else "-"
            axis.plot(x, y, style, color=color, label=f"{label} {auroc(inside, outside):.1f}")
        axis.plot([0, 1], [0, 1], color="#dde3ea", linewidth=0.8, zorder=0)
        axis.set(title=name, xlabel="OOD accepted", ylabel="ID accepted", xlim=(0, 1), ylim=(0, 1.01))
        axis.legend(loc="lower right", fontsize=7, frameon=False, title="AUROC", title_fontsize=7)
    return figure


def histograms(inside: Array, outside: Mapping[str, Array], score: str) -> Figure:
    """Histograms of one score: ID against each OOD set."""
    figure, axes = panels(len(outside), 2.2)
    for axis, (name, values) in zip(axes, outside.items(), strict=True):
        both = np.concatenate([inside, values])
        low, high = np.percentile(both, [0.5, 99.5])
        bins = np.linspace(low, high if high > low else low + 1, 40)
        for data, color, label in ((inside, ID_COLOR, "ID"), (values, OOD_COLOR, name)):
            axis.hist(np.clip(data, bins[0], bins[-1]), bins, density=True, alpha=0.6, color=color, label=label)
        axis.set(title=name, xlabel=score, yticks=[])
        axis.legend(fontsize=7, frameon=False)
    return figure


def gallery(examples: Sequence[Example]) -> Figure:
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


def strip(examples: Sequence[Example]) -> Figure:
    """Images in a row, each over its ID-relevant patches: the most convincing mistakes."""
    figure = new_figure(1.45 * max(1, len(examples)), 3.2)
    for i, example in enumerate(examples):
        for row, picture in enumerate((example.image, shade(example.image, example.mask))):
            axis = figure.add_subplot(2, len(examples), row * len(examples) + i + 1)
            axis.set_axis_off()
            axis.imshow(picture)
            axis.set_title("" if row else example.caption, fontsize=7)
    return figure
