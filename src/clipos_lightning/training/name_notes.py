"""A hint for class names that mean nothing to CLIP: numbers, codes, and WordNet ids."""

import re
from collections.abc import Sequence

from ..data.classnames import imagenet_classes

SHOWN = 3  # names in the hint
GENERIC = "class|label|category|group|cluster|type|kind|folder|id|cls|cat|no|nr"  # in front of a number
CODE = re.compile(rf"(?i)n\d{{8}}|[a-z]?|(?:{GENERIC}|[a-z]{{1,2}})?[ _.#-]*\d[\d ._-]*[a-z]?")


def is_code(name: str) -> bool:
    """Whether a class name is a number, a code such as A12, a WordNet id, or a word such as "class" with a number.

    Example:
        >>> [name for name in ("0001", "n01440764", "class_3", "A12", "b", "cat", "Boeing 747", "猫") if is_code(name)]
        ['0001', 'n01440764', 'class_3', 'A12', 'b']
    """
    return CODE.fullmatch(name.strip()) is not None


def describe_codes(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    """A line on class names that mean nothing to CLIP, or on folders that are read with ImageNet's names.

    Args:
        names: name of each class in the prompts, (C).
        keys: key of each class: its folder name, or its index, (C).

    Returns:
        At most one line.

    Example:
        >>> describe_codes(["cat", "dog"], ["cat", "dog"])
        []
        >>> describe_codes(["tench"], ["n01440764"])
        ['class folders are WordNet ids of ImageNet-1k and get its names (n01440764: tench); --data.class_names FILE gives others']
    """  # noqa: E501
    known = imagenet_classes()
    if names and all(known.get(key) == name for key, name in zip(keys, names, strict=True)):
        return [
            f"class folders are WordNet ids of ImageNet-1k and get its names ({shortened_pairs(keys)}); "
            "--data.class_names FILE gives others"
        ]
    codes = [name for name in names if is_code(name)]
    if not codes:
        return []
    shown = ", ".join(codes[:SHOWN]) + (", …" if len(codes) > SHOWN else "")
    synsets = [name for name in codes if name in known]
    words = f" ({shortened_pairs(synsets)} in ImageNet-1k)" if synsets else ""
    return [
        f"hint: {len(codes)} of {len(names)} class names are numbers or codes, which mean nothing to CLIP: "
        f"{shown}{words}; give words with --data.class_names FILE, or use --model.image_weight auto (docs/names.md)"
    ]


def shortened_pairs(synsets: Sequence[str]) -> str:
    """The first WordNet ids with their names in ImageNet-1k."""
    known = imagenet_classes()
    pairs = ", ".join(f"{key}: {known[key]}" for key in synsets[:SHOWN])
    return pairs + (", …" if len(synsets) > SHOWN else "")
