"""The shapes of the embedded ``scenes``, as polygons.

A shape is a tuple of ``Part``: polygons that are filled or erased in order. Coordinates: x to the right, y downwards;
the object is roughly inside the unit circle.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import cos, hypot, pi, sin
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]


class Part(NamedTuple):
    """A polygon in object coordinates that is added to the object (``ink``) or erased from it."""

    points: Sequence[Point]
    ink: bool = True


def _disc(x: float, y: float, radius: float, ink: bool = True) -> Part:
    return Part(_arc(x, y, radius, radius, 0, 2 * pi, 40), ink)


def _hole(x: float, y: float, radius: float) -> Part:
    return _disc(x, y, radius, ink=False)


def _arc(x: float, y: float, width: float, height: float, start: float, stop: float, n: int = 20) -> list[Point]:
    return [(x + width * cos(a), y + height * sin(a)) for a in np.linspace(start, stop, n).tolist()]


def _box(left: float, top: float, right: float, bottom: float) -> Part:
    return Part([(left, top), (right, top), (right, bottom), (left, bottom)])


def _line(points: Sequence[Point], width: float) -> tuple[Part, ...]:
    """A stroke with round joints: a bar along each segment and a disc at each inner point."""
    bars = []
    for (x0, y0), (x1, y1) in pairwise(points):
        scale = width / 2 / hypot(x1 - x0, y1 - y0)
        nx, ny = (y0 - y1) * scale, (x1 - x0) * scale
        bars.append(Part([(x0 + nx, y0 + ny), (x1 + nx, y1 + ny), (x1 - nx, y1 - ny), (x0 - nx, y0 - ny)]))
    return (*bars, *(_disc(x, y, width / 2) for x, y in points[1:-1]))


def _spider() -> tuple[Part, ...]:
    legs = [[(0, 0), (0.6, y), (1, end)] for y, end in ((-0.6, -0.95), (-0.3, -0.3), (0.2, 0.3), (0.5, 0.95))]
    both_sides = [[(side * x, y) for x, y in leg] for leg in legs for side in (-1, 1)]
    return _disc(0, 0.12, 0.4), _disc(0, -0.32, 0.22), *(part for leg in both_sides for part in _line(leg, 0.13))


SHAPES: dict[str, tuple[Part, ...]] = {
    "circle": (_disc(0, 0, 1),),
    "square": (_box(-0.85, -0.85, 0.85, 0.85),),
    "triangle": (Part([(0, -1), (0.95, 0.8), (-0.95, 0.8)]),),
    "star": (Part([(r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i, r in enumerate((1, 0.42) * 5)]),),
    "heart": (_disc(-0.45, -0.35, 0.52), _disc(0.45, -0.35, 0.52), Part([(-0.93, -0.12), (0.93, -0.12), (0, 1)])),
    "cross": (_box(-0.3, -1, 0.3, 1), _box(-1, -0.3, 1, 0.3)),
    "moon": (_disc(0, 0, 1), _hole(0.45, -0.2, 0.85)),
    "flower": tuple(_disc(x, y, 0.42) for x, y in _arc(0, 0, 0.58, 0.58, 0, 1.6 * pi, 5)),
    "fish": (
        Part([(-0.35, 0), (-1, -0.6), (-1, 0.6)]),
        Part([(-0.4, 0), (0.1, -0.4), (0.1, 0.4)]),
        Part(_arc(0.35, 0, 0.65, 0.42, 0, 2 * pi)),
    ),
    "key": (
        *(_disc(-0.6, 0, 0.42), _hole(-0.6, 0, 0.2)),
        *(_box(-0.25, -0.13, 1, 0.13), _box(0.8, 0, 1, 0.5), _box(0.4, 0, 0.6, 0.4)),
    ),
    "ring": (_disc(0, 0, 1), _hole(0, 0, 0.55)),
    "diamond": (Part([(0, -1), (0.6, 0), (0, 1), (-0.6, 0)]),),
    "arrow": (_box(-1, -0.25, 0.2, 0.25), Part([(0.2, -0.7), (1, 0), (0.2, 0.7)])),
    "house": (Part([(-0.8, -0.1), (0, -1), (0.8, -0.1)]), _box(-0.65, -0.1, 0.65, 0.9)),
    "tree": (Part([(0, -1), (0.7, 0.4), (-0.7, 0.4)]), _box(-0.2, 0.4, 0.2, 1)),
    "boat": (Part([(-1, 0.3), (1, 0.3), (0.6, 0.9), (-0.6, 0.9)]), Part([(0, -1), (0, 0.2), (0.8, 0.2)])),
    "cloud": (_disc(-0.5, 0.2, 0.45), _disc(0.5, 0.2, 0.45), _disc(0, -0.1, 0.6), _box(-0.5, 0.2, 0.5, 0.65)),
    "mushroom": (Part(_arc(0, 0.1, 1, 0.95, pi, 2 * pi)), _box(-0.3, 0.1, 0.3, 1)),
    "cup": (
        *(_disc(0.6, -0.1, 0.38), _hole(0.6, -0.1, 0.2)),
        Part([(-0.7, -0.8), (0.48, -0.8), (0.33, 0.9), (-0.55, 0.9)]),
    ),
    "umbrella": (Part(_arc(0, -0.05, 1, 0.9, pi, 2 * pi)), _box(-0.07, -0.1, 0.07, 1)),
    "spiral": _line(
        [(0.07 * a * cos(a), 0.07 * a * sin(a)) for a in np.linspace(0.4 * pi, 4.6 * pi, 36).tolist()], 0.2
    ),
    "hourglass": (
        *(_box(-0.75, -1, 0.75, -0.75), Part([(-0.65, -0.85), (0.65, -0.85), (0, 0.08)])),
        *(_box(-0.75, 0.75, 0.75, 1), Part([(-0.65, 0.85), (0.65, 0.85), (0, -0.08)])),
    ),
    "lightning": (Part([(0.35, -1), (-0.55, 0.15), (-0.05, 0.15), (-0.4, 1), (0.6, -0.25), (0.08, -0.25), (0.6, -1)]),),
    "anchor": (
        *(_disc(0, -0.75, 0.28), _hole(0, -0.75, 0.12)),
        *(_box(-0.11, -0.5, 0.11, 0.9), _box(-0.45, -0.38, 0.45, -0.18)),
        *_line(_arc(0, 0.1, 0.78, 0.75, 0.1 * pi, 0.9 * pi), 0.24),
    ),
    "comb": (_box(-1, -0.6, 1, -0.2), *(_box(x - 0.09, -0.3, x + 0.09, 0.7) for x in (-0.91, -0.455, 0, 0.455, 0.91))),
    "ladder": (
        *(_box(-0.6, -1, -0.4, 1), _box(0.4, -1, 0.6, 1)),
        *(_box(-0.5, y - 0.09, 0.5, y + 0.09) for y in (-0.7, -0.23, 0.23, 0.7)),
    ),
    "spider": _spider(),
    "crown": (
        Part([(-0.95, -0.55), (-0.4, 0.1), (0, -0.8), (0.4, 0.1), (0.95, -0.55), (0.75, 0.5), (-0.75, 0.5)]),
        _box(-0.75, 0.6, 0.75, 0.85),
    ),
    "cactus": (
        *(_box(-0.25, -0.75, 0.25, 1), _disc(0, -0.75, 0.25)),
        *(*_line([(-0.2, 0.3), (-0.7, 0.3), (-0.7, -0.35)], 0.3), _disc(-0.7, -0.35, 0.15)),
        *(*_line([(0.2, 0), (0.7, 0), (0.7, -0.6)], 0.3), _disc(0.7, -0.6, 0.15)),
    ),
    "stairs": tuple(_box(-0.95 + 0.475 * i, 0.5 - 0.45 * i, 0.95, 0.95 - 0.45 * i) for i in range(4)),
}
