"""The embedded data set ``scenes``: small images of one object on a textured background, with ground-truth masks.

Nothing is stored: every image is a pure function of (kind, stream, seed, index). MicroCLIP was trained on images of the
twenty shapes ``ID_SHAPES + SEEN_SHAPES`` in the eight ``COLORS`` on the eight ``BACKGROUNDS``, rendered by this module;
``NEW_SHAPES``, ``NEW_TEXTURES``, letters and pure noise were not part of its training. Ten shapes are the ID classes,
the other kinds are the OOD sets:

    kind          image                                                 object mask
    id            one of the ten ID shapes; the label is index % 10     yes
    seen_shapes   one of the other ten shapes of MicroCLIP's training   yes
    new_shapes    one of ten shapes that were not in its training       yes
    texture       only a background, of a known or a new pattern        zeros
    noise         a mixture of per-pixel and low-frequency noise        zeros
    letters       one to three large letters on a background            zeros

Every kind exists as a photo and in the styles of ``data/styles.py``: as a sketch, a blueprint, …
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import cos, pi, sin
from string import ascii_uppercase
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..types import Pixels
from .shapes import SHAPES, Part
from .styles import PHOTO, STYLES

Plane = NDArray[np.floating]

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

SUPERSAMPLE = 3  # edges and patterns are rendered at this multiple of the image's side, then averaged
PIXEL_NOISE = 5 / 3  # standard deviation: that of N(0, 5) at three times the image's side, averaged
SIZE_RANGE = (0.28, 0.43)  # half width of an object, relative to the image's side
MAX_TILT = 0.35  # radians


@dataclass(frozen=True)
class Scene:
    """A rendered image with its ground truth.

    Attributes:
        image: RGB, uint8 (size, size, 3).
        mask: fraction of each pixel that the object covers, float32 (size, size) in [0, 1]; zeros without an object.
        shape: name of the object's shape; "" without an object.
        color: colour of the object, a key of ``COLORS``; "" without an object.
        background: pattern behind the object, one of ``BACKGROUNDS``; "" without an object.
    """

    image: Pixels
    mask: NDArray[np.float32]
    shape: str
    color: str
    background: str


# ---------------------------------------------------------------------------------------------- backgrounds

# A pattern maps the phases a, b (radians along two rotated axes, (n, n)) to the weight of the second colour in [0, 1].
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
    """A pattern of random angle, frequency and phase: the weight of the second colour (n, n)."""
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
    image = Image.fromarray((coarse * 255).astype(np.uint8)).resize((n, n), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32) / 255


# --------------------------------------------------------------------------------------------------- images


def render_scene(rng: Generator, shape: str | None = None, *, size: int = 32, supersample: int = SUPERSAMPLE) -> Scene:
    """Render one object of random colour, size, position and rotation on a random background.

    Args:
        rng: generator of all random choices.
        shape: a key of ``SHAPES``; None: one of the twenty that MicroCLIP was trained on, at random.
        size: side of the image in pixels.
        supersample: edges and patterns are rendered at this multiple of ``size``, then averaged.

    Returns:
        The scene, with an image (size, size, 3) and a mask (size, size).

    Raises:
        ValueError: the shape is unknown, or ``size`` or ``supersample`` is below 1.

    >>> scene = render_scene(np.random.default_rng(0), "star")
    >>> scene.image.shape, scene.color, scene.background
    ((32, 32, 3), 'white', 'gradient')
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


def render_texture(rng: Generator, size: int = 32, supersample: int = SUPERSAMPLE) -> Pixels:
    """Render a background of ``BACKGROUNDS`` or ``NEW_TEXTURES`` without an object: uint8 (size, size, 3)."""
    pattern = _pattern(rng, _pick(rng, BACKGROUNDS + NEW_TEXTURES), supersample * size)
    return _compose(rng, pattern, np.zeros_like(pattern), "white", size)


def render_noise(rng: Generator, size: int = 32) -> Pixels:
    """Render a random mixture of per-pixel and smooth noise, in colour or grey: uint8 (size, size, 3)."""
    channels = 3 if rng.random() < 0.7 else 1
    cells = int(rng.integers(2, max(3, size // 2)))
    smooth = _upsample(rng.random((cells, cells, 3)), size)[..., :channels] - 0.5
    fine = rng.random((size, size, channels), dtype=np.float32) - 0.5
    weight, contrast = rng.random(), rng.uniform(80, 255)
    image = rng.uniform(90, 165) + contrast * (weight * smooth + (1 - weight) * fine)
    return _to_uint8(np.broadcast_to(image, (size, size, 3)))


def render_letters(rng: Generator, size: int = 32, supersample: int = SUPERSAMPLE) -> Pixels:
    """Render one to three large letters of one colour on a background: uint8 (size, size, 3)."""
    color, n = _pick(rng, tuple(COLORS)), supersample * size
    return _compose(rng, _pattern(rng, _pick(rng, BACKGROUNDS), n), _draw_letters(rng, n), color, size)


def render(kind: str, stream: str, seed: int, index: int, *, size: int = 32, style: str = PHOTO) -> Scene:
    """Render image ``index`` of a kind: a pure function of its arguments.

    Different streams have no image in common. Shapes cycle with the index, so that classes are balanced: the label of
    an ID image is ``index % len(ID_SHAPES)``. The report stream is the same in every run: use seed 0 for it. In each
    style an index shows the same shape, in another colour and place.

    Args:
        kind: one of ``KINDS``.
        stream: a key of ``STREAMS``: "train", "tune" or "report".
        seed: at least 0.
        index: at least 0, without an upper limit.
        size: side of the image in pixels.
        style: "photo", or a key of ``STYLES``.

    Returns:
        The scene; without an object its mask is zeros, and its shape and colour are "".

    Raises:
        ValueError: the kind, stream or style is unknown, the seed or index is negative, or ``size`` is below 1.

    >>> scene = render("id", "report", seed=0, index=3)
    >>> scene.shape, scene.image.shape, scene.mask.shape
    ('star', (32, 32, 3), (32, 32))
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, not {size}")
    if kind not in KINDS or stream not in STREAMS:
        raise ValueError(f"no scenes {kind!r} of stream {stream!r}; kinds: {', '.join(KINDS)}; {', '.join(STREAMS)}")
    key = (STREAMS[stream], seed, KINDS.index(kind), index)
    if style == PHOTO:
        return _render(np.random.default_rng(key), kind, index, size, SUPERSAMPLE)
    if style not in STYLES:
        raise ValueError(f"no style {style!r}; one of {', '.join((PHOTO, *STYLES))}")
    rng = np.random.default_rng((*key, 1 + list(STYLES).index(style)))
    return restyle(rng, _render(rng, kind, index, SUPERSAMPLE * size, 1), style)


def restyle(rng: Generator, scene: Scene, style: str) -> Scene:
    """Show a scene in another style.

    Args:
        rng: generator of the style's random choices.
        scene: rendered at ``SUPERSAMPLE`` times the image's side, without supersampling.
        style: a key of ``STYLES``.

    Returns:
        The scene with an image and a mask of the image's side.
    """
    size = len(scene.image) // SUPERSAMPLE
    styled = STYLES[style](rng, scene.image.astype(np.float32))
    image = np.stack([_reduce(channel, size) for channel in np.moveaxis(styled, 2, 0)], 2)
    image += PIXEL_NOISE * rng.standard_normal(image.shape, dtype=np.float32)
    return replace(scene, image=_to_uint8(image), mask=_reduce(scene.mask, size))


def _render(rng: Generator, kind: str, index: int, size: int, supersample: int) -> Scene:
    """Image ``index`` of a kind as a photo."""
    if kind in SHAPES_OF:
        shapes = SHAPES_OF[kind]
        return render_scene(rng, shapes[index % len(shapes)], size=size, supersample=supersample)
    if kind == "noise":
        image = render_noise(rng, size)
    else:
        image = (render_texture if kind == "texture" else render_letters)(rng, size, supersample)
    return Scene(image, np.zeros((size, size), np.float32), "", "", "")


def _pick(rng: Generator, names: Sequence[str]) -> str:
    return names[int(rng.integers(len(names)))]


def _draw_shape(rng: Generator, parts: Sequence[Part], n: int) -> Plane:
    """The object at a random size, position and rotation: (n, n), 1 inside, 0 outside."""
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
    """One to three capital letters in a row, at a random height and rotation: (n, n) in [0, 1]."""
    canvas = Image.new("L", (n, n))
    pen = ImageDraw.Draw(canvas)
    count = int(rng.integers(1, 4))
    em = n * (1.1, 0.75, 0.55)[count - 1]
    for i in range(count):
        font = _font(max(1, round(em * rng.choice((0.8, 0.9, 1.0)))))
        x, y = n * ((i + 0.5) / count + rng.uniform(-0.04, 0.04)), n * rng.uniform(0.4, 0.6)
        pen.text((x, y), _pick(rng, ascii_uppercase), fill=255, font=font, anchor="mm", stroke_width=n // 48)
    rotated = canvas.rotate(float(rng.uniform(-20, 20)), Image.Resampling.BILINEAR)
    return np.asarray(rotated, dtype=np.float32) / 255


@lru_cache(maxsize=32)
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Pillow's default font, ``size`` pixels high."""
    return ImageFont.load_default(size)


def _compose(rng: Generator, pattern: Plane, cover: Plane, color: str, size: int) -> Pixels:
    """Put an object on a background of two random colours, shade it and add noise: uint8 (size, size, 3).

    Colours are affine in ``pattern`` and ``cover`` (n, n), so these are downsampled first: one plane instead of three.
    """
    first = rng.integers(40, 216, 3)
    second = np.clip(first + rng.choice((-1, 1), 3) * rng.integers(25, 80, 3), 0, 255)
    ink = np.array(COLORS[color]) * rng.uniform(0.8, 1.1) + rng.normal(0, 8, 3)
    shade = 1 + 0.18 * (_axes(size)[1][..., None] - 0.5)
    weight = _reduce(pattern * (1 - cover), size)[..., None]
    covered = _reduce(cover, size)[..., None]
    image = first * (1 - covered) + (second - first) * weight + ink * shade * covered
    return _to_uint8(image + PIXEL_NOISE * rng.standard_normal(image.shape, dtype=np.float32))


def _reduce(plane: Plane, size: int) -> NDArray[np.float32]:
    """Downsample a plane (n, n) by averaging blocks, n a multiple of ``size``: (size, size)."""
    k = len(plane) // size
    return np.asarray(plane.reshape(size, k, size, k).mean((1, 3)), dtype=np.float32)


def _to_uint8(picture: NDArray[np.floating]) -> Pixels:
    return np.asarray(np.clip(picture, 0, 255), dtype=np.uint8)
