"""Captions of heat maps: class, score, threshold and decision, in a strip that nothing leaves."""

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from PIL import ImageFont

from clipos_lightning.reporting.captions import TEXT_COLOR, DecisionText, caption_strip, fit_text, format_pair
from clipos_lightning.reporting.plots import OOD_COLOR

WIDTHS = (400, 680, 1016, 2024)


def luminance(color: str) -> float:
    """Relative luminance of WCAG."""
    values = np.array(matplotlib.colors.to_rgb(color))
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_decision_is_the_scores() -> None:
    below, equal = (DecisionText("cat", 0.5, "mcm", score, 0.25) for score in (0.2499, 0.25))
    assert not below.accepted and below.decision == ("mcm 0.2499 < 0.25", "→ unknown")
    assert equal.accepted and equal.decision == ("mcm 0.25 ≥ 0.25", "→ cat")
    free = DecisionText("cat", 0.5, "mcm", -3.0)
    assert free.accepted and free.decision == ("mcm -3", "no threshold: not calibrated")


def test_two_numbers_that_differ_look_different() -> None:
    rng = np.random.default_rng(0)
    for first in rng.normal(20, 5, 50).astype(np.float32):
        second = np.nextafter(first, np.float32(99))
        a, b = format_pair(float(first), float(second))
        assert a != b and float(a) <= float(b)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_strip_has_the_palette_and_words_that_end_before_it(width: int) -> None:
    short = caption_strip(DecisionText("cat", 0.5, "mcm", 0.3, 0.25), width)
    long = caption_strip(DecisionText("cat and dog " * 30, 0.004, "energy_region_unknown" * 9, 0.3, 0.25), width)
    assert short.shape == long.shape and short.shape[1] == width
    bar = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, width // 5), bytes=True)[:, :3]
    starts = [x for x in range(width - len(bar) + 1) if (short[:, x : x + len(bar)] == bar).all((1, 2)).any()]
    assert len(starts) == 1
    words_end = np.flatnonzero((short != long).any((0, 2))).max()
    label = np.flatnonzero((short < 128).any((0, 2)))  # columns with ink
    assert words_end + 4 < label[label > words_end].min() < starts[0]
    for strip in (short, long):  # a margin at every side
        assert (strip[:2] == 255).all() and (strip[-2:] == 255).all() and (strip[:, -1] == 255).all()


def test_a_rejected_image_has_its_own_colour_and_all_words_contrast() -> None:
    accepted, rejected = (caption_strip(DecisionText("cat", 0.5, "mcm", s, 0.25), 680) for s in (0.3, 0.2))
    color = np.array([int(OOD_COLOR[i : i + 2], 16) for i in (1, 3, 5)])
    assert (rejected == color).all(-1).any() and not (accepted == color).all(-1).any()
    for text in (TEXT_COLOR, OOD_COLOR):
        assert 1.05 / (luminance(text) + 0.05) >= 4.5


def test_a_text_is_cut_at_its_end() -> None:
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 14)
    assert fit_text("two\n  words", font, 500) == "two words"
    for room in (30, 77, 160):
        cut = fit_text("a class name that is much too long", font, room)
        assert cut.endswith("…") and "a class name that is much too long".startswith(cut[:-1])
        assert room - 25 < font.getlength(cut) <= room
    assert fit_text("long", font, 1) == "…"
