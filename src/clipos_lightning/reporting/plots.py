"""Matplotlib figures without pyplot's global state, and figures and images as data URIs for HTML pages."""

import base64
import io
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..types import Pixels

ID_COLOR, OOD_COLOR = "#0b6e8f", "#d1603d"
MAX_EMBEDDED_SIDE = 160  # largest side of an embedded image, in pixels


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, which does not use pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def axes_grid(count: int, height: float = 2.6) -> tuple[Figure, list[Any]]:
    """A figure with ``count`` panels, four per row, and their axes; ``height`` of a row in inches."""
    columns = max(1, min(4, count))
    rows = -(-count // columns)
    figure = new_figure(2.7 * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    return figure, axes


def svg_uri(figure: Figure) -> str:
    """A figure as an SVG data URI; equal figures give equal bytes."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "clipos", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()


def image_uri(pixels: Pixels) -> str:
    """An image (H, W, 3) as a data URI: up to 64 pixels a PNG, else a JPEG scaled down to MAX_EMBEDDED_SIDE."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if max(picture.size) <= 64 else "jpeg"
    picture.thumbnail((MAX_EMBEDDED_SIDE, MAX_EMBEDDED_SIDE), Image.Resampling.LANCZOS)
    picture.save(buffer, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
