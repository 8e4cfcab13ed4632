"""``clipos add``: add classes to a finished detector, from their images alone."""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..data.class_prompts import Wording, read_wordings
from ..data.classnames import folder_names
from ..data.image_files import no_images_error, walk_images
from ..data.image_sets import class_folders
from ..detector.detector import Detector
from ..errors import InputError
from ..options.messages import DETECTOR_HELP, CommandParser
from ..training.notes import counted
from ..utils.progress import silence_libraries, track
from .inference import add_loading_options, check_detector_paths


def add_parser() -> CommandParser:
    """The parser of ``clipos add``."""
    text = "Add classes to a detector; the images of its other classes are not needed. Calibrate the result again."
    parser = CommandParser(prog="clipos add", description=text)
    parser.add_argument("file", metavar="FILE", help=DETECTOR_HELP)
    text = "images of the new class, named like the folder; or a folder of each new class"
    parser.add_argument("folder", metavar="FOLDER", help=text)
    text = "YAML file: class folder to its name, names, or names and templates (docs/own_classes.md)"
    parser.add_argument("--class_names", metavar="YAML", help=text)
    text = "detector to write; must not exist (default: extended.safetensors)"
    parser.add_argument("--out", default="extended.safetensors", metavar="DETECTOR", help=text)
    add_loading_options(parser)
    return parser


def new_classes(folder: Path, class_names: str | None) -> list[tuple[Wording, list[str]]]:
    """The wording and the image files of each new class.

    Args:
        folder: of images, or of class folders.
        class_names: YAML file of names; None: the folders' names with ``_`` as space.

    Raises:
        InputError: no such folder, a folder without images, or a wrong file of names.
    """
    if not folder.is_dir():
        raise InputError(f"add: no folder {folder}: give one with the images of the new class")
    keys = class_folders(folder)
    folders = [folder / key for key in keys] or [folder]
    keys = keys or [folder.resolve().name]
    names = folder_names(keys)
    wordings = read_wordings(class_names, keys, names) if class_names else [{"names": [name]} for name in names]
    images = [sorted(walk_images(str(place))) for place in folders]
    for place, files in zip(folders, images, strict=True):
        if not files:
            raise no_images_error("add", str(place))
    return list(zip(wordings, images, strict=True))


@contextmanager
def own_option() -> Iterator[None]:
    """Name ``--class_names`` in errors about names, in place of the option of ``clipos fit``."""
    try:
        yield
    except InputError as error:
        text = str(error).replace("--data.class_names", "--class_names")
        raise InputError(text if text.startswith("add: ") else f"add: {text}") from error


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos add``; returns the exit code."""
    silence_libraries()
    given = add_parser().parse_args(list(arguments))
    check_detector_paths("add", given.file, given.out)
    with own_option():
        classes = new_classes(Path(given.folder.removeprefix("folder:")), given.class_names)
    detector = Detector.load(given.file, given.device, given.pretrained, given.trust)
    calibrated = detector.threshold is not None
    with own_option():
        for wording, files in track(classes, "adding classes", "classes"):
            detector = detector.add_class(wording, files)
    detector.save(given.out)
    for wording, files in classes:
        print(f"added: {wording['names'][0]} ({counted(len(files), 'image')})")
    count = len(detector.class_names)
    print(f"classes: {count}")
    if calibrated:
        print("threshold: none (the former one does not hold for new classes: calibrate with images of all classes)")
    print(f"detector: {given.out}")
    print(f"next: clipos calibrate {shlex.quote(given.out)} IMAGES --out detector-{count}.safetensors")
    return 0
