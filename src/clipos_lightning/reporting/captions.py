"""What a detector says of an image, as text, and as the caption strip below a heat map."""

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib import font_manager
from PIL import Image, ImageDraw, ImageFont

from ..types import Pixels
from .plots import HEAT_COLORS, OOD_COLOR

TEXT_COLOR = "#222222"
DELTA, DISTANCE = "difference Δ", "distance to known"  # titles of maps


@dataclass(frozen=True)
class DecisionText:
    """A detector's output for one image, in words.

    Attributes:
        class_name: the most probable class.
        probability: probability of that class over the C classes.
        score_name: name of the detector's score.
        score: score of the image.
        threshold: the image is accepted if its score is at least this; None: not calibrated.

    Example:
        >>> text = DecisionText("cat", 0.62, "energy", 11.5, 14.0)
        >>> text.accepted, text.decision
        (False, ('energy 11.5 < 14', '→ unknown'))
    """

    class_name: str
    probability: float
    score_name: str
    score: float
    threshold: float | None = None

    @property
    def accepted(self) -> bool:
        """Whether the score is not below the threshold."""
        return self.threshold is None or self.score >= self.threshold

    @property
    def decision(self) -> tuple[str, str]:
        """The score next to the threshold, and the decision."""
        if self.threshold is None:
            return f"{self.score_name} {self.score:.4g}", "no threshold: not calibrated"
        sign, label = ("≥", self.class_name) if self.accepted else ("<", "unknown")
        score, threshold = format_pair(self.score, self.threshold)
        return f"{self.score_name} {score} {sign} {threshold}", f"→ {label}"


def format_pair(first: float, second: float) -> tuple[str, str]:
    """Two numbers with four digits, or with as many more as tell them apart.

    Example:
        >>> format_pair(20.95749, 21), format_pair(20.95749, 20.96123), format_pair(3, 3)
        (('20.96', '21'), ('20.957', '20.961'), ('3', '3'))
    """
    pairs = [(f"{first:.{digits}g}", f"{second:.{digits}g}") for digits in range(4, 10)]
    return next(((a, b) for a, b in pairs if a != b), pairs[0])


def format_probability(probability: float) -> str:
    """A probability in whole percent; not 0 % or 100 % but "< 1 %" or "> 99 %"."""
    if probability < 0.005:
        return "< 1 %"
    return "> 99 %" if probability > 0.995 else f"{100 * probability:.0f} %"


def caption_strip(text: DecisionText, width: int, shown: str = DELTA) -> Pixels:
    """Two lines of text, with the colour bar of the map at their right, (H, width, 3).

    The first line is the class with its probability, the second the score, the threshold and the decision. Names that
    are too long for the strip are shortened.

    Args:
        text: the detector's output for the image.
        width: of the strip, in pixels; at least 400.
        shown: title of the map, DELTA or DISTANCE.
    """
    low, high = ("−1", "1") if shown == DELTA else ("0", "0.5")
    size = max(12, width // 45)
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
    bar, row = width // 5, 3 * size // 2
    strip = Image.new("RGB", (width, 2 * row + size), "white")
    draw = ImageDraw.Draw(strip)
    ends = [int(font.getlength(end)) + size // 2 for end in (low, high)]
    left, right = width - ends[1] - bar, width - ends[1]  # of the colour bar
    room = left - ends[0] - 2 * size
    color, probability = TEXT_COLOR if text.accepted else OOD_COLOR, f"  {format_probability(text.probability)}"
    name = fit_text(text.class_name, font, room - font.getlength(probability))
    for line, fill, y in (
        (f"{name}{probability}", TEXT_COLOR, row),
        (fit_text("   ".join(text.decision), font, room), color, 2 * row),
    ):
        draw.text((size // 2, y), line, fill, font, anchor="ls")
    draw.text(((left + right) // 2, row), shown, TEXT_COLOR, font, anchor="ms")
    draw.text((left - size // 2, 2 * row), low, TEXT_COLOR, font, anchor="rs")
    draw.text((right + size // 4, 2 * row), high, TEXT_COLOR, font, anchor="ls")
    colors = matplotlib.colormaps[HEAT_COLORS](np.linspace(0, 1, bar), bytes=True)[None, :, :3]
    strip.paste(Image.fromarray(colors.repeat(size * 3 // 4, 0)), (left, 2 * row - size * 3 // 4))
    return np.asarray(strip)


def fit_text(text: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """A text on one line, with its end replaced by an ellipsis if it is wider than ``room`` pixels."""
    line = " ".join(text.split())
    if font.getlength(line) <= room:
        return line
    length = next((n for n in range(len(line), 0, -1) if font.getlength(f"{line[:n].rstrip()}…") <= room), 0)
    return f"{line[:length].rstrip()}…"
