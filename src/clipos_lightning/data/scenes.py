"""The embedded data set `scenes`: small pictures of one object on a textured background, with the object's true mask.

Nothing is stored: every picture is a pure function of (kind, stream, seed, index). MicroCLIP was trained on pictures of
the twenty shapes `ID_SHAPES + SEEN_SHAPES`, of the eight `COLORS` and the eight `BACKGROUNDS`, drawn by the rules of
this file; it has never seen `NEW_SHAPES`, `NEW_TEXTURES`, letters or pure noise. Ten shapes are the ID classes, the
other kinds are the OOD sets:

    kind          picture                                               object's mask
    id            one of the ten ID shapes, the label is index % 10     yes
    seen_shapes   one of the ten other shapes that MicroCLIP knows      yes
    new_shapes    a shape that it has never seen                        yes
    texture       a background alone, of a seen or an unseen pattern    zeros
    noise         a mixture of per-pixel and low-frequency noise        zeros
    letters       one to three large letters on a background            zeros
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin
from string import ascii_uppercase
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .shapes import SHAPES, Part

Plane = NDArray[np.floating]
Pixels = NDArray[np.uint8]

KINDS = ("id", "seen_shapes", "new_shapes", "texture", "noise", "letters")
STREAMS = {"train": 1, "tune": 2, "report": 3}

ID_SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "moon", "flower", "fish", "key")
SEEN_SHAPES = ("ring", "diamond", "arrow", "house", "tree", "boat", "cloud", "mushroom", "cup", "umbrella")
NEW_SHAPES = ("spiral", "hourglass", "lightning", "anchor", "comb", "ladder", "spider", "crown", "cactus", "stairs")
COLORS = {
    "red": (210, 45, 45),
    "green": (50, 165, 70),
    "blue": (50, 90, 215),
    "yellow": (235, 205, 50),
    "purple": (145, 65, 180),
    "orange": (240, 140, 40),
    "white": (240, 240, 240),
    "black": (25, 25, 25),
}
BACKGROUNDS = ("plain", "striped", "checkered", "dotted", "noisy", "gradient", "cloudy", "grid")
NEW_TEXTURES = ("waves", "ripples", "plaid", "bricks", "marble")

SHAPES_OF = {"id": ID_SHAPES, "seen_shapes": SEEN_SHAPES, "new_shapes": NEW_SHAPES}

SUPERSAMPLE = 3  # edges and patterns are drawn on this many times the pixels a side, then averaged
PIXEL_NOISE = 5 / 3  # N(0, 5) on three times the pixels a side, averaged
SIZE_RANGE = (0.28, 0.43)  # an object's half width, as a share of the picture's side
MAX_TILT = 0.35  # radians


@dataclass(frozen=True)
class Scene:
    """A picture, where its object is, and what it shows.

    Attributes:
        image: (size, size, 3) uint8, RGB.
        mask: (size, size) float32 in [0, 1], the share of each pixel that the object covers; zeros without an object.
        shape: the object's name, "" without an object.
        color: the object's colour, a key of `COLORS`, "" without an object.
        background: the name of the pattern behind the object, one of `BACKGROUNDS`, "" without an object.
    """

    image: Pixels
    mask: NDArray[np.float32]
    shape: str
    color: str
    background: str


# ---------------------------------------------------------------------------------------------- backgrounds

# A pattern maps the phases a, b (radians along two turned axes, (n, n) each) to the second colour's share, in [0, 1].
Pattern = Callable[[Generator, Plane, Plane], NDArray[Any]]


def _cloudy(rng: Generator, a: Plane, b: Plane) -> Plane:
    return _upsample(rng.random((6, 6)), len(a))


def _gradient(rng: Generator, a: Plane, b: Plane) -> Plane:
    return np.asarray((a - a.min()) / (a.max() - a.min()))


def _bricks(rng: Generator, a: Plane, b: Plane) -> NDArray[np.bool_]:
    odd_row = np.floor(b / pi) % 2
    return np.asarray((np.abs(np.sin(b)) < 0.3) | (np.abs(np.sin(a / 2 + odd_row * pi / 2)) < 0.15))


PATTERNS: dict[str, Pattern] = {
    "plain": lambda rng, a, b: np.zeros_like(a),
    "striped": lambda rng, a, b: np.sin(a) > 0,
    "checkered": lambda rng, a, b: (np.sin(a) > 0) ^ (np.sin(b) > 0),
    "dotted": lambda rng, a, b: np.sin(a) ** 2 + np.sin(b) ** 2 < 0.35,
    "noisy": lambda rng, a, b: rng.random(a.shape, dtype=np.float32),
    "gradient": _gradient,
    "cloudy": _cloudy,
    "grid": lambda rng, a, b: (np.abs(np.sin(a / 2)) < 0.15) | (np.abs(np.sin(b / 2)) < 0.15),
    "waves": lambda rng, a, b: np.sin(a + 1.5 * np.sin(b)) > 0,
    "ripples": lambda rng, a, b: np.sin(np.hypot(a, b)) > 0,
    "plaid": lambda rng, a, b: 0.5 + 0.25 * (np.sin(a) + np.sin(b)),
    "bricks": _bricks,
    "marble": lambda rng, a, b: 0.5 + 0.5 * np.sin(a / 2 + 9 * _cloudy(rng, a, b)),
}


def _pattern(rng: Generator, name: str, n: int) -> Plane:
    """The pattern `name`, of random angle, frequency and phase: (n, n), the second colour's share."""
    x, y = _axes(n)
    frequency = 2 * pi * rng.integers(3, 8)
    phase, angle = rng.random() * 2 * pi, rng.random() * pi
    a = frequency * (x * cos(angle) + y * sin(angle)) + phase
    b = frequency * (y * cos(angle) - x * sin(angle)) + phase
    return PATTERNS[name](rng, a, b).astype(np.float32)


@lru_cache(maxsize=8)
def _axes(n: int) -> tuple[Plane, Plane]:
    """The coordinates x (1, n) and y (n, 1) in [0, 1)."""
    line = np.arange(n, dtype=np.float32) / np.float32(n)
    return line[None, :], line[:, None]


def _upsample(coarse: NDArray[np.float64], n: int) -> Plane:
    """(h, w) or (h, w, 3) values in [0, 1], bicubic to (n, n) or (n, n, 3)."""
    picture = Image.fromarray((coarse * 255).astype(np.uint8)).resize((n, n), Image.Resampling.BICUBIC)
    return np.asarray(picture, dtype=np.float32) / 255


# ------------------------------------------------------------------------------------------------- pictures


def render_scene(rng: Generator, shape: str | None = None, *, size: int = 32, supersample: int = SUPERSAMPLE) -> Scene:
    """Draw one object of a random colour, size, place and tilt on a random background.

    Args:
        rng: where every choice comes from.
        shape: a key of `SHAPES`; None draws one of the twenty that MicroCLIP was trained on.
        size: the picture's side in pixels.
        supersample: edges and patterns are drawn on this many times the pixels a side, then averaged.

    Returns:
        The scene, its image (size, size, 3) and mask (size, size).

    Raises:
        ValueError: for an unknown shape, or a size or supersampling below 1.
    """
    if size < 1 or supersample < 1:
        raise ValueError(f"size and supersample must be at least 1, not {size} and {supersample}")
    shape = _pick(rng, ID_SHAPES + SEEN_SHAPES) if shape is None else shape
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}; one of {', '.join(SHAPES)}")
    color, background = _pick(rng, tuple(COLORS)), _pick(rng, BACKGROUNDS)
    n = size * supersample
    cover = _draw_shape(rng, SHAPES[shape], n)
    image = _compose(rng, _pattern(rng, background, n), cover, color, size)
    return Scene(image, _reduce(cover, size), shape, color, background)


def render_texture(rng: Generator, size: int = 32) -> Pixels:
    """A background without an object, of `BACKGROUNDS` or `NEW_TEXTURES`: (size, size, 3) uint8."""
    pattern = _pattern(rng, _pick(rng, BACKGROUNDS + NEW_TEXTURES), SUPERSAMPLE * size)
    return _compose(rng, pattern, np.zeros_like(pattern), "white", size)


def render_noise(rng: Generator, size: int = 32) -> Pixels:
    """A random mixture of per-pixel noise and smooth noise, coloured or grey: (size, size, 3) uint8."""
    channels = 3 if rng.random() < 0.7 else 1
    cells = int(rng.integers(2, max(3, size // 2)))
    smooth = _upsample(rng.random((cells, cells, 3)), size)[..., :channels] - 0.5
    fine = rng.random((size, size, channels), dtype=np.float32) - 0.5
    share, contrast = rng.random(), rng.uniform(80, 255)
    image = rng.uniform(90, 165) + contrast * (share * smooth + (1 - share) * fine)
    return _to_uint8(np.broadcast_to(image, (size, size, 3)))


def render_letters(rng: Generator, size: int = 32) -> Pixels:
    """One to three large letters of one colour on a background: (size, size, 3) uint8."""
    color, n = _pick(rng, tuple(COLORS)), SUPERSAMPLE * size
    return _compose(rng, _pattern(rng, _pick(rng, BACKGROUNDS), n), _draw_letters(rng, n), color, size)


def render(kind: str, stream: str, seed: int, index: int, *, size: int = 32) -> Scene:
    """Picture `index` of a kind: a pure function of its arguments.

    The streams share no picture. Shapes cycle with the index, so that classes are balanced: the label of an ID picture
    is `index % len(ID_SHAPES)`. The report stream is meant to be the same for every run: pass it seed 0.

    Args:
        kind: one of `KINDS`.
        stream: one of `STREAMS`: "train", "tune" or "report".
        seed: at least 0.
        index: at least 0; any number of pictures may be drawn.
        size: the picture's side in pixels.

    Returns:
        The scene; without an object its mask is zeros, its shape and colour "".

    Raises:
        ValueError: for an unknown kind or stream, or a negative seed or index.
    """
    if kind not in KINDS or stream not in STREAMS:
        raise ValueError(f"no scenes {kind!r} of stream {stream!r}; kinds: {', '.join(KINDS)}; {', '.join(STREAMS)}")
    rng = np.random.default_rng((STREAMS[stream], seed, KINDS.index(kind), index))
    if kind in SHAPES_OF:
        shapes = SHAPES_OF[kind]
        return render_scene(rng, shapes[index % len(shapes)], size=size)
    draw = {"texture": render_texture, "noise": render_noise, "letters": render_letters}[kind]
    return Scene(draw(rng, size), np.zeros((size, size), np.float32), "", "", "")


def _pick(rng: Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _draw_shape(rng: Generator, parts: Sequence[Part], n: int) -> Plane:
    """The object at a random size, place and tilt: (n, n), 1 where it is, else 0."""
    half = n * rng.uniform(*SIZE_RANGE)
    margin = 0.98 * half
    x, y = rng.uniform(margin, n - margin, 2)
    tilt = rng.uniform(-MAX_TILT, MAX_TILT)
    c, s = half * cos(tilt), half * sin(tilt)
    canvas = Image.new("L", (n, n))
    pen = ImageDraw.Draw(canvas)
    for points, ink in parts:
        pen.polygon([(x + c * px - s * py, y + s * px + c * py) for px, py in points], fill=int(ink))
    return np.asarray(canvas, dtype=np.float32)


def _draw_letters(rng: Generator, n: int) -> Plane:
    """One to three capital letters side by side, at a random height and tilt: (n, n) in [0, 1]."""
    canvas = Image.new("L", (n, n))
    pen = ImageDraw.Draw(canvas)
    count = int(rng.integers(1, 4))
    em = n * (1.1, 0.75, 0.55)[count - 1]
    for i in range(count):
        font = _font(max(1, round(em * rng.choice((0.8, 0.9, 1.0)))))
        x, y = n * ((i + 0.5) / count + rng.uniform(-0.04, 0.04)), n * rng.uniform(0.4, 0.6)
        pen.text((x, y), _pick(rng, ascii_uppercase), fill=255, font=font, anchor="mm", stroke_width=n // 48)
    turned = canvas.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BILINEAR)
    return np.asarray(turned, dtype=np.float32) / 255


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's own font, `size` pixels high."""
    return ImageFont.load_default(size)


def _compose(rng: Generator, pattern: Plane, cover: Plane, color: str, size: int) -> Pixels:
    """Lay the object over a background of two random colours, shade it and add noise: (size, size, 3) uint8.

    Colours are affine in `pattern` and `cover` (n, n each), so these are averaged down first: one plane, not three.
    """
    first = rng.integers(40, 216, 3)
    second = np.clip(first + rng.choice((-1, 1), 3) * rng.integers(25, 80, 3), 0, 255)
    ink = np.array(COLORS[color]) * rng.uniform(0.8, 1.1) + rng.normal(0, 8, 3)
    shade = 1 + 0.18 * (_axes(size)[1][..., None] - 0.5)
    share = _reduce(pattern * (1 - cover), size)[..., None]
    covered = _reduce(cover, size)[..., None]
    picture = first * (1 - covered) + (second - first) * share + ink * shade * covered
    return _to_uint8(picture + PIXEL_NOISE * rng.standard_normal(picture.shape, dtype=np.float32))


def _reduce(plane: Plane, size: int) -> NDArray[np.float32]:
    """Average the blocks of an (n, n) plane, n a multiple of `size`: (size, size)."""
    k = len(plane) // size
    return np.asarray(plane.reshape(size, k, size, k).mean((1, 3)), dtype=np.float32)


def _to_uint8(picture: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)
