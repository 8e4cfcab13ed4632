"""Default class names for the prompts, each list with its source."""

import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import pairwise

from ..errors import InputError
from ..options.text_files import read_text_file

# batches.meta's own order and names, which OpenAI's CLIP prompts use too
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

# the fine labels in meta's order (alphabetical) with `_` as space: OpenAI's CLIP prompts (data/prompts.md)
CIFAR100 = tuple(
    """
    apple, aquarium fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy, bridge, bus, butterfly,
    camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock, cloud, cockroach, couch, crab, crocodile,
    cup, dinosaur, dolphin, elephant, flatfish, forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn
    mower, leopard, lion, lizard, lobster, man, maple tree, motorcycle, mountain, mouse, mushroom, oak tree, orange,
    orchid, otter, palm tree, pear, pickup truck, pine tree, plain, plate, poppy, porcupine, possum, rabbit,
    raccoon, ray, road, rocket, rose, sea, seal, shark, shrew, skunk, skyscraper, snail, snake, spider, squirrel,
    streetcar, sunflower, sweet pepper, table, tank, telephone, television, tiger, tractor, train, trout, tulip,
    turtle, wardrobe, whale, willow tree, wolf, woman, worm
    """.replace("\n    ", " ")
    .strip()
    .split(", ")
)

# folder to class name, as in OpenAI's CLIP prompts (data/prompts.md)
EUROSAT = {
    "AnnualCrop": "annual crop land",
    "Forest": "forest",
    "HerbaceousVegetation": "brushland or shrubland",
    "Highway": "highway or road",
    "Industrial": "industrial buildings or commercial buildings",
    "Pasture": "pasture land",
    "PermanentCrop": "permanent crop land",
    "Residential": "residential buildings or homes or apartments",
    "River": "river",
    "SeaLake": "lake or sea",
}

# MedMNIST's INFO for BloodMNIST, without the cell types in brackets after "immature granulocytes"
BLOODMNIST = (
    *("basophil", "eosinophil", "erythroblast", "immature granulocytes"),
    *("lymphocyte", "monocyte", "neutrophil", "platelet"),
)


@cache
def imagenet_classes() -> dict[str, str]:
    """WordNet ids of ImageNet-1k to class names, in index order; the packaged file names its sources."""
    return dict(line.split(" ", 1) for line in packaged_lines("imagenet_classes.txt"))


def folder_names(folders: Sequence[str]) -> list[str]:
    """Class names of folders: with ``_`` as space, or ImageNet-1k's names if all folders are its WordNet ids.

    Names that are not UTF-8 are read as Latin-1.

    >>> folder_names(["red_fox", "wolf"]), folder_names(["n01440764", "n01443537"])
    (['red fox', 'wolf'], ['tench', 'goldfish'])
    >>> folder_names([os.fsdecode("café".encode("latin-1")), "café"])
    ['café', 'café']
    """
    known = imagenet_classes()
    if folders and all(folder in known for folder in folders):
        return [known[folder] for folder in folders]
    return [as_text(folder).replace("_", " ") for folder in folders]


def as_text(name: str) -> str:
    """A file name as text that can be written anywhere: read as Latin-1 if it is not UTF-8."""
    content = os.fsencode(name)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def imagenet100_classes() -> list[str]:
    """WordNet ids of ImageNet-100 (MCM's list), sorted; the packaged file names its source."""
    return packaged_lines("imagenet100_classes.txt")


def packaged_lines(name: str) -> list[str]:
    """Lines of a text file in ``assets/``, without those that start with ``#``."""
    text = (files("clipos_lightning") / "assets" / name).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if not line.startswith("#")]


def read_negatives(file: str) -> list[str]:
    """Read words that are none of the classes, one or a phrase per line; empty lines and ``#`` comments are skipped.

    Returns:
        The words in their order; repeated ones once.

    Raises:
        InputError: the file cannot be read, or has no word.
    """
    lines = read_text_file(file, "--model.negatives: cannot read").splitlines()
    words = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")))
    if not words:
        raise InputError(f"--model.negatives: {file} has no word: write one per line")
    return words


def read_class_list(file: str) -> list[str]:
    """Read the names of class folders from a text file, one per line; empty lines and ``#`` comments are skipped.

    Returns:
        The names, sorted.

    Raises:
        InputError: the file cannot be read, or has fewer than two names or a name twice.
    """
    lines = read_text_file(file, "--data.class_list: cannot read").splitlines()
    names = sorted(line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#"))
    twice = [a for a, b in pairwise(names) if a == b]
    if len(names) < 2 or twice:
        what = f"names {twice[0]!r} twice" if twice else f"names {len(names)} classes, at least two are needed"
        raise InputError(f"--data.class_list: {file} {what}; write one class folder per line")
    return names
