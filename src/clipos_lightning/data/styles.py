"""Styles of the embedded ``scenes``: the same objects as a sketch, a blueprint, a thermal image, … Pure functions.

A style maps a picture that was rendered at several times the image's side to RGB values of the same size, before it is
averaged down. MicroCLIP was trained on images and names of ``KNOWN_STYLES``, and on photos. It has seen neither images
nor names of ``NEW_STYLES``.
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Picture = NDArray[np.float32]  # (n, n, 3), or (n, n) for a plane; 0 to 255
Style = Callable[[Generator, Picture], Picture]

PHOTO = "photo"
SIDE = 96  # pixels: side of the pictures that the widths and slopes below are for; others are scaled
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
HEAT = {0: (10, 5, 60), 70: (110, 15, 130), 130: (220, 60, 60), 190: (250, 160, 30), 255: (255, 250, 190)}


def sketch(rng: Generator, picture: Picture) -> Picture:
    """Dark pencil lines along the edges, on light paper."""
    paper, pencil = np.full(3, rng.uniform(225, 250)), np.full(3, rng.uniform(30, 80))
    lines = edges(picture)[..., None]
    return _colours(paper + (pencil - paper) * lines)


def blueprint(rng: Generator, picture: Picture) -> Picture:
    """Light lines along the edges, on blue paper with a fine grid."""
    n = len(picture)
    paper = np.array((25, 60, 150)) * rng.uniform(0.8, 1.2)
    ruled = (np.arange(n) + rng.integers(n)) % max(1, n // 4) < n / 48
    lines = np.maximum(edges(picture), 0.2 * (ruled[:, None] | ruled[None, :]))
    return _colours(paper + (np.array((225, 235, 250)) - paper) * lines[..., None])


def thermal(rng: Generator, picture: Picture) -> Picture:
    """Brightness as heat: blurred, from dark blue over red and orange to a pale yellow."""
    heat = blur(_stretch(luminance(picture)), len(picture) / 64)
    channels = np.array(list(HEAT.values())).T
    return _colours(np.stack([np.interp(heat, list(HEAT), channel) for channel in channels], 2))


def negative(rng: Generator, picture: Picture) -> Picture:
    """A colour negative: inverted, with the film's orange tint."""
    tint = np.array((255, 190, 130)) * rng.uniform(0.9, 1.0)
    return _colours((255 - picture) / 255 * tint)


def neon(rng: Generator, picture: Picture) -> Picture:
    """Glowing lines of one bright colour along the edges, in the dark."""
    hue = rng.uniform(0, 3)
    colour = np.clip(1.5 - np.abs((hue - np.arange(3) + 1.5) % 3 - 1.5), 0.1, 1)
    lines = edges(picture)
    glow = np.clip(1.8 * blur(lines, len(picture) / 24), 0, 1)
    return _colours(np.array((12, 8, 22)) + 235 * colour * glow[..., None] + 120 * (lines**2)[..., None])


def relief(rng: Generator, picture: Picture) -> Picture:
    """Pressed into grey metal and lit from one side."""
    angle = rng.uniform(0, 2 * np.pi)
    down, right = slopes(_stretch(luminance(picture)))
    slope = np.cos(angle) * right + np.sin(angle) * down
    return _colours(np.repeat((rng.uniform(115, 140) + 6 * slope)[..., None], 3, 2))


STYLES: dict[str, Style] = {  # append only: the position is part of the random state
    "sketch": sketch,
    "blueprint": blueprint,
    "thermal": thermal,
    "negative": negative,
    "neon": neon,
    "relief": relief,
}
NEW_STYLES = ("neon", "relief")
KNOWN_STYLES = tuple(style for style in STYLES if style not in NEW_STYLES)
STYLE_WORDS = {name: name for name in (PHOTO, *STYLES)} | {
    "thermal": "thermal image",
    "neon": "neon sign",
}  # in prompts


def luminance(picture: Picture) -> Picture:
    """Brightness (n, n) of a picture."""
    return np.asarray(picture @ np.array(LUMA, np.float32), dtype=np.float32)


def edges(picture: Picture) -> Picture:
    """How much of an edge each pixel is, in [0, 1], (n, n): the steepest colour channel's gradient, thickened."""
    steep = np.max([np.hypot(*slopes(channel)) for channel in np.moveaxis(picture, 2, 0)], axis=0)
    strong = Image.fromarray((255 * np.clip((steep - 8) / 25, 0, 1)).astype(np.uint8))
    width = 2 * round(len(picture) / SIDE) + 1
    return np.asarray(strong.filter(ImageFilter.MaxFilter(width)), dtype=np.float32) / np.float32(255)


def slopes(plane: Picture) -> tuple[Picture, Picture]:
    """The slopes of a blurred plane (n, n) downwards and to the right, per 1/``SIDE`` of its side."""
    scale = len(plane) / SIDE
    down, right = (np.asarray(scale * slope, dtype=np.float32) for slope in np.gradient(blur(plane, scale)))
    return down, right


def blur(plane: Picture, radius: float) -> Picture:
    """A Gaussian blur of a plane (n, n), rounded to steps of 1/255 of its range."""
    low, high = float(plane.min()), max(float(plane.max()), float(plane.min()) + 1e-6)
    grey = Image.fromarray(((plane - low) / (high - low) * 255).round().astype(np.uint8))
    blurred = np.asarray(grey.filter(ImageFilter.GaussianBlur(radius)), dtype=np.float32)
    return np.asarray(low + blurred / 255 * (high - low), dtype=np.float32)


def _stretch(plane: Picture) -> Picture:
    """Scale a plane to 0–255."""
    low, high = plane.min(), plane.max()
    return np.asarray((plane - low) / max(high - low, 1e-6) * 255, dtype=np.float32)


def _colours(values: NDArray[np.floating]) -> Picture:
    return np.asarray(np.clip(values, 0, 255), dtype=np.float32)
