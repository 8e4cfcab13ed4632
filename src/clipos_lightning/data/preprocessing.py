"""How images of any size become the input of a CLIP: resizing, cropping or padding, and normalisation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from ..errors import InputError
from ..options.schema import has_type

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_RESIZE = {"resize_mode": "shortest", "interpolation": "bicubic", "fill_color": 0}  # OpenAI's CLIP
ALLOWED = {"resize_mode": ("shortest", "longest", "squash"), "interpolation": ("bicubic", "bilinear")}


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing that a CLIP's weights declare; the fields of open_clip's ``PreprocessCfg``.

    Attributes:
        size: side of the model's input in pixels.
        resize_mode: ``shortest``: the shorter side to ``size``, then a centre crop; ``longest``: the longer side to
            ``size``, then padding; ``squash``: both sides to ``size``, without keeping the aspect ratio.
        interpolation: ``bicubic`` or ``bilinear``, antialiased.
        fill_color: grey level of the padding, 0 to 255.
        mean: of the channels R, G, B in [0, 1].
        std: of the channels.
    """

    size: int
    resize_mode: str = "shortest"
    interpolation: str = "bicubic"
    fill_color: int = 0
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD

    @classmethod
    def declared(cls, size: int, config: Mapping[str, Any], source: str) -> "Preprocessing":
        """The preprocessing in a configuration of open_clip; what it does not say is as for OpenAI's CLIP.

        Args:
            size: side of the model's input in pixels, whatever the configuration says.
            config: with any fields of ``PreprocessCfg``; others are ignored.
            source: of the configuration, for messages.

        Raises:
            InputError: a value that is not supported.

        Example:
            >>> Preprocessing.declared(224, {"resize_mode": "squash", "interpolation": "random"}, "the weights").text
            'both sides to 224 pixels, without keeping the aspect ratio (bicubic, antialiased)'
        """
        given = {key: config[key] for key in (*CLIP_RESIZE, "mean", "std") if config.get(key) is not None}
        if given.get("interpolation") == "random":  # a choice for training; open_clip then evaluates with bicubic
            given["interpolation"] = "bicubic"
        for key in ("mean", "std"):
            if isinstance(given.get(key), Sequence):
                given[key] = tuple(given[key])
            elif key in given:
                given[key] = (given[key],) * 3
        wrong = [key for key, value in given.items() if not is_supported(key, value)]
        if wrong:
            values = ", ".join(f"{key} {given[key]!r}" for key in wrong)
            raise InputError(
                f"{source}: its image preprocessing is not supported: {values} (resize_mode: shortest, longest or "
                "squash; interpolation: bicubic or bilinear; fill_color: 0 to 255). Choose other weights, or correct "
                "preprocess_cfg in the open_clip_config.json beside their file"
            )
        return cls(size, **given)

    @property
    def filter(self) -> Image.Resampling:
        """PIL's filter of the interpolation."""
        return Image.Resampling[self.interpolation.upper()]

    @property
    def plain(self) -> dict[str, Any]:
        """All fields but the size, as plain data."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items() if key != "size"}

    @property
    def text(self) -> str:
        """Resizing, cropping and padding in words."""
        size, how = self.size, f"({self.interpolation}, antialiased)"
        if self.resize_mode == "squash":
            return f"both sides to {size} pixels, without keeping the aspect ratio {how}"
        if self.resize_mode == "longest":
            padding = f"centred and padded to {size} x {size} with grey level {self.fill_color}"
            return f"longer side to {size} pixels {how}, {padding}"
        return f"shorter side to {size} pixels {how}, centre crop {size} x {size}"


def is_supported(key: str, value: Any) -> bool:
    """Whether a field of :class:`Preprocessing` can have this value."""
    if key in ALLOWED:
        return value in ALLOWED[key]
    if key == "fill_color":
        return isinstance(value, int) and 0 <= value <= 255
    numbers = isinstance(value, tuple) and len(value) == 3 and all(has_type(v, float) for v in value)
    return numbers and (key == "mean" or min(value) > 0)
