"""``clipos predict``: a decision for each of one's own images, streamed; a folder's file names are in memory."""

import argparse
import copy
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from math import isclose
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..data.image_sets import open_image
from ..data.transforms import to_model_size
from ..detector.detector import UNKNOWN, Decision, Detector
from ..detector.image_stream import check_paths, count_paths, stream_paths
from ..detector.row_files import LINES, ROW_COLUMNS, Done, PredictionRow, RowFile, check_out, open_rows, table_line
from ..errors import InputError
from ..options.messages import TRUST, CommandParser
from ..types import Images
from ..utils.progress import counter, silence_libraries

T = TypeVar("T")
FORMS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # by the name of --out
Decide = Callable[["Batch"], list[Decision]]


@dataclass
class Batch:
    """Images at the model's size, with their paths and errors; an unreadable one is black and has an error."""

    paths: list[str]
    images: Images
    errors: list[str]


class ImageFiles(Dataset[tuple[str, torch.Tensor | None, str]]):
    """Image files by their path, at the model's size: (path, pixels, error)."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __getitem__(self, path: str) -> tuple[str, torch.Tensor | None, str]:
        try:
            return path, to_model_size(open_image(Path(path)), self.size), ""
        except InputError as error:
            return path, None, str(error)
        except Exception as error:  # a broken file is a row, whatever its decoder raises
            return path, None, f"cannot read image {path}: {type(error).__name__}: {' '.join(str(error).split())}"

    def collate(self, items: list[tuple[str, torch.Tensor | None, str]]) -> Batch:
        """Items as a batch."""
        blank = torch.zeros(3, self.size, self.size, dtype=torch.uint8)
        paths, images, errors = zip(*items, strict=True)
        return Batch(list(paths), torch.stack([blank if i is None else i for i in images]), list(errors))


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Some at a time, in order."""
    iterator = iter(items)
    while part := list(islice(iterator, size)):
        yield part


def load_batches(paths: Iterable[str], size: int, batch_size: int, workers: int) -> Iterator[Batch]:
    """Batches of images in the order of their paths, decoded by worker processes a few batches ahead."""
    files = ImageFiles(size)
    sampler: Any = chunks(paths, batch_size)  # asked as batches are wanted, here and not in the workers
    return iter(DataLoader(files, batch_sampler=sampler, num_workers=workers, collate_fn=files.collate))


@contextmanager
def living_workers() -> Iterator[None]:
    """A decoding process that dies is said in one line."""
    try:
        yield
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise InputError(
            "a decoding process died, of memory or of shared memory: try --num_workers 0, or give the container more "
            "(docker run --shm-size 2g)"
        ) from error


def decide_in_order(batches: Iterable[Batch], judges: Sequence[Decide]) -> Iterator[tuple[Batch, list[Decision]]]:
    """Each batch with its decisions, in order; the judges (one a device) work beside each other, a batch ahead."""
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in judges]
        waiting: deque[tuple[Batch, Future[list[Decision]]]] = deque()
        for i, batch in enumerate(batches):
            which = i % len(judges)
            waiting.append((batch, pools[which].submit(judges[which], batch)))
            if len(waiting) > len(judges):
                done, decisions = waiting.popleft()
                yield done, decisions.result()
        for done, decisions in waiting:
            yield done, decisions.result()


def predict(
    detectors: Sequence[Detector],
    paths: Iterable[str],
    batch_size: int = 128,
    workers: int = 0,
    explain: Path | None = None,
) -> Iterator[list[PredictionRow]]:
    """Rows of images, in order, a batch at a time.

    Args:
        detectors: the same one on each device.
        paths: of the images; taken as they are needed.
        batch_size: images per forward.
        workers: processes that decode.
        explain: a folder for a heat map of each image.

    Yields:
        Rows: path, class, probability, score, error, decision, threshold; an unreadable image has only path and error.
    """
    judges = [decide_with(detector, explain) for detector in detectors]
    batches = load_batches(paths, detectors[0].backbone.image_size, batch_size, workers)
    for batch, decisions in decide_in_order(batches, judges):
        yield [row_of(*item) for item in zip(batch.paths, batch.errors, decisions, strict=True)]


def decide_with(detector: Detector, explain: Path | None) -> Decide:
    """What a device does with a batch; with a folder, it draws what the detector saw."""

    def judge(batch: Batch) -> list[Decision]:
        if explain is None:
            return detector.decide(detector.predict(batch.images))
        from ..reporting.heatmaps import write_heatmaps  # imports matplotlib, which is slow

        seen, maps = detector.maps(batch.images)
        readable = [i for i, error in enumerate(batch.errors) if not error]
        write_heatmaps(explain, batch.paths, batch.images, maps, detector.backbone.grid, readable)
        return detector.decide(seen)

    return judge


def row_of(path: str, error: str, found: Decision) -> PredictionRow:
    """A row by column."""
    if error:
        values: tuple[Any, ...] = (path, None, None, None, error, None, None)
    else:
        values = (path, found.class_name, found.probability, found.score, None, found.label, found.threshold)
    return dict(zip(ROW_COLUMNS, values, strict=True))


# ---- the command


def add_engine_options(parser: CommandParser) -> None:
    """What every command that looks at images takes."""
    workers = min(8, (os.cpu_count() or 1) // 2)
    parser.add_argument("--batch_size", type=int, default=128, help="images per forward (default 128)")
    parser.add_argument("--num_workers", type=int, default=workers, help=f"decoding processes (default {workers})")
    parser.add_argument("--pretrained", help="the backbone's weights, where they are not where they were in training")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (default)")
    parser.add_argument("--trust", action="store_true", help=TRUST)


def predict_parser() -> CommandParser:
    """The options of ``clipos predict``."""
    parser = CommandParser(prog="clipos predict", description=__doc__)
    parser.add_argument("file", help="a detector: detector.safetensors, or the last.ckpt of a `clipos fit` run")
    text = "images, folders (read recursively), quoted patterns such as 'photos/**/*.jpg', or - for a list on stdin"
    parser.add_argument("paths", nargs="+", metavar="path", help=text)
    text = "file to write, .csv or .jsonl (must not exist); default: to stdout, a table on a terminal and CSV to a pipe"
    parser.add_argument("--out", help=text)
    parser.add_argument("--format", choices=(*LINES, "table"), help="instead of what the name of --out says")
    text = "go on with --out: images that have a row there are skipped, also after a run that was killed"
    parser.add_argument("--resume", action="store_true", help=text)
    text = "write a heat map of each image into this folder: the image, Delta, and the ID-relevant patches"
    parser.add_argument("--explain", metavar="FOLDER", help=text)
    parser.add_argument("--devices", help="GPUs to share the work: a number of them, or a list such as 0,1")
    add_engine_options(parser)
    return parser


def parse_arguments(parser: CommandParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options, checked as far as they can be by themselves."""
    given = parser.parse_args(list(arguments))
    name = parser.prog.removeprefix("clipos ")
    if given.batch_size < 1:
        raise InputError(f"{name}: --batch_size is {given.batch_size}: at least 1")
    if given.num_workers < 0:
        raise InputError(f"{name}: --num_workers is {given.num_workers}: at least 0")
    return given


def choose_format(given: argparse.Namespace) -> str:
    """csv, jsonl or table: as asked for, by the name of ``--out``, or by where the rows go."""
    if given.out is None:
        if given.resume:
            raise InputError("predict: --resume goes on with a file: give it as --out")
        return given.format or ("table" if sys.stdout.isatty() else "csv")
    if given.format == "table":
        raise InputError("predict: --format table is for the screen: leave out --out, or take csv or jsonl")
    form = given.format or FORMS.get(Path(given.out).suffix.lower())
    if form is None:
        raise InputError(f"predict: --out {given.out}: name it .csv or .jsonl, or say --format csv or jsonl")
    return form


def choose_devices(devices: str | None, device: str) -> list[str]:
    """Names of the devices; without a GPU, ``--devices`` means nothing.

    Raises:
        InputError: not a number or a list, or a GPU that is not there.
    """
    if devices is None or device == "cpu" or not torch.cuda.is_available():
        return [device]
    try:
        numbers = [int(part) for part in devices.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"predict: --devices {devices}: give a number of GPUs, or a list such as 0,1") from error
    chosen = numbers if "," in devices else list(range(sum(numbers)))
    count = torch.cuda.device_count()
    if not chosen or not 0 <= min(chosen) <= max(chosen) < count:
        raise InputError(f"predict: --devices {devices}: there are {count} GPUs, 0 to {count - 1}")
    return [f"cuda:{number}" for number in chosen]


def load_on(file: str, pretrained: str | None, devices: Sequence[str], trust: bool = False) -> list[Detector]:
    """The detector, once on each device."""
    first = Detector.load(file, "cpu", pretrained, trust)
    every = [first, *(copy.deepcopy(first) for _ in devices[1:])]
    return [detector.to(device) for detector, device in zip(every, devices, strict=True)]


def resumed(out: Path, form: str, detector: Detector) -> RowFile:
    """``--out``, with what an earlier run of the same detector left in it."""

    def same(rows: Sequence[PredictionRow]) -> bool:
        files = ImageFiles(detector.backbone.image_size)
        batch = files.collate([files[row["path"]] for row in rows])
        found = detector.decide(detector.predict(batch.images))
        return all(error or agrees(row, now) for row, error, now in zip(rows, batch.errors, found, strict=True))

    return open_rows(out, form, detector.threshold, lambda rows: not rows or same(rows))


def agrees(row: PredictionRow, now: Decision) -> bool:
    """Whether a row is what a detector says now: another device may round differently."""
    pairs = ((float(row["score"]), now.score), (float(row["probability"]), now.probability))
    return row["class"] == now.class_name and all(isclose(a, b, rel_tol=1e-3, abs_tol=1e-4) for a, b in pairs)


class PredictionCounts:
    """Counts rows as they pass: images, unknown, unreadable; and those that an earlier run did."""

    def __init__(self) -> None:
        self.images = self.unknown = self.broken = self.skipped = 0

    def skip(self, paths: Iterable[str], done: Done) -> Iterator[str]:
        """The paths that are not done, the others counted."""
        for path in paths:
            if path in done:
                self.skipped += 1
            else:
                yield path

    def count(
        self, batches: Iterator[list[PredictionRow]], step: Callable[[int], Any]
    ) -> Iterator[list[PredictionRow]]:
        """The batches, counted; ``step`` is told how many rows there are more."""
        for rows in batches:
            self.images += len(rows)
            self.broken += sum(bool(row["error"]) for row in rows)
            self.unknown += sum(below_threshold(row) for row in rows)
            yield rows
            step(len(rows))

    def __str__(self) -> str:
        return f"{self.images} images, {self.unknown} unknown, {self.broken} unreadable"


def below_threshold(row: PredictionRow) -> bool:
    """Whether the decision is "unknown"."""
    return row["threshold"] is not None and row["score"] < row["threshold"]


def print_rows(batches: Iterator[list[PredictionRow]], form: str, class_names: Sequence[str]) -> None:
    """Rows on stdout, as they come."""
    width = max(len(name) for name in (*class_names, UNKNOWN, "unreadable"))
    line = LINES[form] if form in LINES else table_line(width, sys.stdout.isatty())
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # file names need not be UTF-8
    first = next(batches, [])  # before the header: a run that fails at once prints nothing
    sys.stdout.write(line(None))
    for rows in chain([first], batches):
        sys.stdout.write("".join(map(line, rows)))
        sys.stdout.flush()


def check_explain(folder: str | None, resume: bool) -> Path | None:
    """The folder for heat maps: a new or an empty one, unless a run goes on."""
    if folder is None:
        return None
    if Path(folder).exists() and not resume and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
        raise InputError(f"predict: --explain {folder} exists and is not an empty folder: give another one")
    return Path(folder)


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos predict``; returns the exit code."""
    silence_libraries()
    given = parse_arguments(predict_parser(), arguments)
    form, explain = choose_format(given), check_explain(given.explain, given.resume)
    if given.out is not None:
        check_out(Path(given.out), given.resume)
    check_paths(given.paths, "predict")
    detectors = load_on(given.file, given.pretrained, choose_devices(given.devices, given.device), given.trust)
    file = None if given.out is None else resumed(Path(given.out), form, detectors[0])
    tally = PredictionCounts()
    try:
        with living_workers():
            predict_images(given, detectors, form, explain, file, tally)
    except KeyboardInterrupt:
        if file is not None and file.partial.exists():
            print(f"{file.partial} has {tally.images} rows more: go on with --resume", file=sys.stderr)
        raise
    print(tally if file is None or not len(file.done) else f"{tally}; {len(file.done)} were done", file=sys.stderr)
    others = 0 if file is None else len(file.done) - tally.skipped
    if others > 0:
        print(f"note: {given.out} has rows of {others} images that are not among these paths", file=sys.stderr)
    return 0


def predict_images(
    given: argparse.Namespace,
    detectors: Sequence[Detector],
    form: str,
    explain: Path | None,
    file: RowFile | None,
    tally: PredictionCounts,
) -> None:
    """Predict, and write the rows where they go."""
    paths = stream_paths(given.paths)
    todo = paths if file is None else tally.skip(paths, file.done)
    shown = sys.stderr.isatty() and (file is not None or not sys.stdout.isatty())
    done = 0 if file is None else len(file.done)
    with counter(count_paths(given.paths) if shown else None, done, "predicting", shown) as step:
        batches = predict(detectors, todo, given.batch_size, given.num_workers, explain)
        batches = tally.count(batches, step)
        if file is not None:
            file.write(batches)
        else:
            print_rows(batches, form, detectors[0].class_names)
