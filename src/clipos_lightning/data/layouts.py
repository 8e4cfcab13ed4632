"""Layouts of image folders: which folders are splits, and which are classes."""

import re
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from ..errors import InputError
from .image_sets import class_folders

SPLIT_WORDS = {  # kind of a split to the words for it, in lower case
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "validation": ("val", "valid", "validation", "dev", "eval", "evaluation", "pred", "prediction"),
}
KIND_OF = {word: kind for kind, words in SPLIT_WORDS.items() for word in words}
WORD = re.compile("|".join(sorted(KIND_OF, key=len, reverse=True)))
FILLER = re.compile("(?:data|sets?|seg|splits?|images?|imgs?|pictures?|photos?|folders?|files?)*")


def split_kind(folder: str) -> str | None:
    """The kind of split that a folder's name means: train, test, validation, or None.

    Case, digits, separators, and words such as data, set and images around the kind do not count.

    >>> [split_kind(name) for name in ("Training", "test_set", "seg_pred", "val2017", "train images", "trains")]
    ['train', 'test', 'validation', 'validation', 'train', None]
    """
    letters = re.sub(r"[\W\d_]", "", folder.lower())
    found = WORD.search(letters)
    if found is None or not all(map(FILLER.fullmatch, (letters[: found.start()], letters[found.end() :]))):
        return None
    return KIND_OF[found[0]]


def find_splits(path: Path) -> tuple[Path, Path | None] | None:
    """The training folder and the test folder of a data set that has them; None if its folders are classes.

    The usual spellings are recognised (:func:`split_kind`), and a folder of the same name inside, as in
    ``seg_train/seg_train/<class>/``. A class may be called like a split, if it has no folders inside.

    Args:
        path: the folder of the data set.

    Raises:
        InputError: it has two training folders, or a test folder without a training folder.
    """
    names = class_folders(path)
    kinds = {name: kind for name in names if (kind := split_kind(name))}
    if not kinds or not (len(kinds) == len(names) or any(class_folders(path / name) for name in kinds)):
        return None
    training, tests = ([name for name, kind in kinds.items() if kind == wanted] for wanted in ("train", "test"))
    if len(training) != 1:
        found = f"has {' and '.join(training)}" if training else f"has {', '.join(names[:5])}, but no train/"
        raise InputError(f"--data.id: {path} {found}: name the training folder train, and the test folder test")
    return unnest(path / training[0]), unnest(path / tests[0]) if len(tests) == 1 else None


def unnest(path: Path) -> Path:
    """The folder inside a folder if it is the only one and has the same name; otherwise the folder itself."""
    return path / path.name if class_folders(path) == [path.name] else path


def check_classes(root: Path, keys: Sequence[str]) -> None:
    """Refuse folders that may be splits, or hold the classes, rather than be classes.

    Those are two folders without images of their own but with two or more folders of the same names (``2019/cat``,
    ``2019/dog``, ``2020/cat``, ``2020/dog``), and a single one with several folders (``images/cat``, ``images/dog``).

    Args:
        root: folder that contains the class folders.
        keys: path of each image below it, ``<class>/<file>`` or ``<class>/<folder>/…/<file>``.

    Raises:
        InputError: there are such folders.

    >>> check_classes(Path("photos"), ["cat/indoors/1.png", "cat/outdoors/1.png", "dog/1.png", "dog/indoors/2.png"])
    """
    inside: dict[str, set[str]] = {}
    for key in keys:
        name, first, *below = key.split("/", 2)
        inside.setdefault(name, set()).add(first if below else "")  # "": an image of its own
    nested = {name: folders for name, folders in inside.items() if len(folders) > 1 and "" not in folders}
    pairs = combinations(nested.items(), 2) if len(inside) > 1 else ((item, item) for item in nested.items())
    found = next(((a, b, x & y) for (a, x), (b, y) in pairs if len(x & y) > 1), None)
    if found is not None:
        raise InputError(f"--data.id: in {root}, {describe_folders(root, *found)}")


def describe_folders(root: Path, one: str, other: str, shared: set[str]) -> str:
    """What :func:`check_classes` found, and what to do: two folders, or one (then ``other`` equals it)."""
    folders = ", ".join(sorted(shared)[:3])
    if one == other:
        cure = f"give --data.id folder:{root / one}, or move the images up if {one!r} is a class"
        return f"{one!r} has no image files, but the folders {folders}: {cure}"
    if any(map(split_kind, shared)):
        cure = "make train/ and test/ with the class folders inside"
    else:
        cure = "call them train and test if those are the classes; otherwise list yours in a file for --data.class_list"
    return f"{one!r} and {other!r} have no image files, but the folders {folders}: {cure}"
