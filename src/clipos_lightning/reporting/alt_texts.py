"""What the pictures and charts of a report show, in words: their alternative texts."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ..types import FloatArray
from .heatmaps import Example


def picture_texts(example: Example) -> dict[str, str]:
    """Title to alternative text of each of an example's panels."""
    classes, delta = f"for {example.predicted}", example.surgery - example.clip
    texts = {
        "image": f"image {example.key} of {example.origin}",
        "plain CLIP": f"plain CLIP's similarity {classes}: {describe_map(example.clip)}",
        "surgery S": f"surgery similarity S {classes}: {describe_map(example.surgery)}",
        "difference Δ": f"difference Δ {classes}: positive on {(delta > 0).mean():.0%} of the patches, "
        + describe_map(delta),
        "ID-relevant": f"ID-relevant patches {classes}: {describe_mask(example.mask)}; the others are faded",
    }
    if example.truth is not None:
        texts["true object"] = f"true object: {describe_mask(example.truth >= 0.5)}"
    return texts


def describe_map(values: FloatArray) -> str:
    """Where a map has its highest and its lowest value.

    Args:
        values: on the patch grid, (g, g).

    Example:
        >>> describe_map(np.arange(9.0).reshape(3, 3))
        'highest at the bottom right, lowest at the top left'
    """
    low, high = (np.unravel_index(k, values.shape) for k in (values.argmin(), values.argmax()))
    return f"highest at the {describe_place(high, values.shape)}, lowest at the {describe_place(low, values.shape)}"


def describe_mask(mask: NDArray[np.bool_]) -> str:
    """The size of a mask and where its centre of mass is.

    Args:
        mask: on the patch grid or on pixels, (h, w).

    Example:
        >>> describe_mask(np.eye(4, dtype=bool)), describe_mask(np.zeros((4, 4), bool))
        ('25% of the image, around the centre', 'nowhere')
    """
    if not mask.any():
        return "nowhere"
    centre = tuple(float(k.mean()) for k in np.nonzero(mask))
    return f"{mask.mean():.0%} of the image, around the {describe_place(centre, mask.shape)}"


def describe_place(position: Sequence[float | np.integer], shape: tuple[int, ...]) -> str:
    """The third of an image that a row and a column are in, such as "top left" or "centre"."""
    thirds = (("top", "", "bottom"), ("left", "", "right"))
    words = (names[int(3 * (at + 0.5) / size)] for names, at, size in zip(thirds, position, shape, strict=True))
    return " ".join(filter(None, words)) or "centre"


def describe_histogram(name: str, scores: FloatArray) -> str:
    """The median and the middle half of the scores of a set.

    Args:
        name: of the set.
        scores: (N,).

    Example:
        >>> describe_histogram("noise", np.arange(5.0))
        'histogram of the scores of noise: median 2, half of them between 1 and 3'
    """
    low, median, high = np.percentile(scores, [25, 50, 75])
    return f"histogram of the scores of {name}: median {median:.4g}, half of them between {low:.4g} and {high:.4g}"


def describe_curves(name: str, areas: Mapping[str, float]) -> str:
    """The areas below the ROC curves of a set, in percent.

    Example:
        >>> describe_curves("noise", {"trained": 98.76, "zero-shot": 90})
        'ROC curves of noise: AUROC trained 98.8, zero-shot 90.0'
    """
    return f"ROC curves of {name}: AUROC " + ", ".join(f"{label} {area:.1f}" for label, area in areas.items())
