"""Matplotlib figures without pyplot's global state, and figures and images as data URIs for HTML pages."""

import base64
import io
import re

import matplotlib
from markupsafe import Markup
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ..errors import printable
from ..types import Pixels

ID_COLOR, OOD_COLOR = "#0b6e8f", "#b8481f"  # also in report.css; contrast with white at least 4.5
HEAT_COLORS = "RdBu_r"  # matplotlib's colour map of all heat maps: blue is low, white the middle, red high
GRID_COLOR = "#dde3ea"
PAGE_COLORS = {"#000000": "var(--ink)", "#ffffff": "none", ID_COLOR: "var(--id)", OOD_COLOR: "var(--ood)"}
PAGE_COLORS |= {GRID_COLOR: "var(--line)"}  # a figure's colours to those of the page around it
METHOD_COLORS = (ID_COLOR, OOD_COLOR, "#6a4fb3", "#2f7d32", "#a8327f", "#7a5c00", "#1f55c4", "#5f6c79")
PAGE_COLORS |= {color: f"var(--method-{k})" for k, color in enumerate(METHOD_COLORS) if k > 1}  # of grid.html.j2
MAX_EMBEDDED_SIDE = 160  # largest side of an embedded image, in pixels


def new_figure(width: float, height: float) -> Figure:
    """A figure of this size in inches, which does not use pyplot's global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def figure_text(text: str) -> str:
    r"""A user's text for a figure, shown as it is: dollar signs start no formula, and line breaks are escaped.

    Example:
        >>> print(figure_text("$x_{$"))
        \$x_{\$
    """
    return printable(text).replace("$", r"\$")


def svg_element(figure: Figure) -> Markup:
    """A figure as an SVG element in the colours of the HTML page around it; equal figures give equal bytes.

    The page must define the CSS variables of PAGE_COLORS, so that figures follow its light and dark colours, and
    ``fill`` for text.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "clipos", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    return Markup(re.sub(r"<[^>]*>", lambda tag: page_tag(tag[0]), text))


def page_tag(tag: str) -> str:
    """A tag of a figure with the page's colours, and without ids, to which nothing refers."""
    tag = re.sub(r' id="[A-Za-z.]+(?:2d)?_\d+"', "", tag)
    for color, variable in PAGE_COLORS.items():
        tag = tag.replace(color, variable)
    return tag


def image_uri(pixels: Pixels, side: int = MAX_EMBEDDED_SIDE) -> str:
    """An image (H, W, 3) as a data URI: up to 64 pixels a PNG, else a JPEG whose sides are scaled down to ``side``."""
    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    kind = "png" if max(picture.size) <= 64 else "jpeg"
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    picture.save(buffer, kind, quality=85, optimize=True)
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode()
