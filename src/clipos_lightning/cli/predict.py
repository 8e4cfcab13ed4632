"""``clipos predict``: classify images or reject them as unknown. Images are streamed; only file names are in memory."""

import argparse
import copy
import shlex
import shutil
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import chain
from math import isclose, isfinite
from pathlib import Path
from typing import Any

import torch

from ..data.decoding import MAX_PIXELS, Decoding
from ..detector.decisions import UNKNOWN, Decision, unknown_label
from ..detector.detector import Detector
from ..detector.image_stream import check_paths, count_paths, stream_paths
from ..detector.row_files import LINES, RowFile, check_out, json_line, lock_out, open_rows, table_line
from ..detector.row_readers import ROW_COLUMNS, PredictionRow
from ..errors import InputError
from ..options.messages import DETECTOR_HELP, CommandParser
from ..utils.files import WriteError
from ..utils.progress import open_bar, silence_libraries
from .inference import (
    Batch,
    ImageFiles,
    add_inference_options,
    decoding_for,
    load_batches,
    note_left_out,
    parse_arguments,
    report_dead_workers,
)
from .prediction_counts import PredictionCounts
from .signals import advise, rows_advice
from .wandb_option import add_wandb_option, log_to_wandb

ROW_FORMATS = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}  # by the suffix of --out
Decide = Callable[[Batch], list[Decision]]


def decide_in_order(batches: Iterable[Batch], deciders: Sequence[Decide]) -> Iterator[tuple[Batch, list[Decision]]]:
    """Batches with their decisions, in order; the deciders (one per device) run in parallel, one batch ahead."""
    with ExitStack() as stack:
        pools = [ThreadPoolExecutor(1) for _ in deciders]
        for pool in pools:
            stack.callback(pool.shutdown, cancel_futures=True)  # an interruption waits for one batch only
        waiting: deque[tuple[Batch, Future[list[Decision]]]] = deque()
        for i, batch in enumerate(batches):
            device = i % len(deciders)
            waiting.append((batch, pools[device].submit(deciders[device], batch)))
            if len(waiting) > len(deciders):
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
    max_pixels: int = MAX_PIXELS,
) -> Iterator[list[PredictionRow]]:
    """Predict images and yield the rows of one batch at a time, in order.

    Args:
        detectors: copies of one detector, one per device.
        paths: paths of the images; consumed as they are needed.
        batch_size: images per batch.
        workers: number of processes that decode images.
        explain: folder for a heat map of each image; None: no heat maps.
        max_pixels: images with more pixels are unreadable.

    Yields:
        Rows with path, class, probability, score, error, decision and threshold; unreadable images have only path and
        error.
    """
    deciders = [make_decider(detector, explain) for detector in detectors]
    preprocessing, decoding = detectors[0].backbone.preprocessing, Decoding(detectors[0].background, max_pixels)
    batches = load_batches(paths, preprocessing, decoding, batch_size, workers)
    for batch, decisions in decide_in_order(batches, deciders):
        yield [row_of(*item) for item in zip(batch.paths, batch.errors, decisions, strict=True)]


def make_decider(detector: Detector, explain: Path | None) -> Decide:
    """A function from a batch to its decisions, which also writes heat maps if ``explain`` is a folder."""

    def decide(batch: Batch) -> list[Decision]:
        if explain is None:
            return detector.decide(detector.predict(batch.images))
        from ..reporting.heatmaps import DecisionText, write_heatmaps  # imports matplotlib, which is slow

        seen, maps = detector.maps(batch.images)
        decisions = detector.decide(seen)
        texts = {
            i: DecisionText(found.class_name, found.probability, detector.score, found.score, found.threshold)
            for i, found in enumerate(decisions)
            if not batch.errors[i]
        }
        write_heatmaps(explain, batch.paths, batch.images, maps, detector.backbone.grid, texts)
        return decisions

    return decide


def row_of(path: str, error: str, found: Decision) -> PredictionRow:
    """The row of an image: column to value."""
    if not error and not (isfinite(found.score) and isfinite(found.probability)):
        error = f"score {found.score} or probability {found.probability} is not finite"
    if error:
        values: tuple[Any, ...] = (path, None, None, None, error, None, None)
    else:
        values = (path, found.class_name, found.probability, found.score, None, found.label, found.threshold)
    return dict(zip(ROW_COLUMNS, values, strict=True))


# ---- the command


def predict_parser() -> CommandParser:
    """The parser of ``clipos predict``."""
    text = "Classify images with a detector, or reject them as unknown: one row per image, in the order of the paths."
    parser = CommandParser(prog="clipos predict", description=text)
    parser.add_argument("file", metavar="FILE", help=DETECTOR_HELP)
    text = "image files, folders (searched recursively), quoted patterns such as 'photos/**/*.jpg', or - for stdin"
    parser.add_argument("paths", nargs="+", metavar="PATH", help=text)
    text = ".csv or .jsonl file to write; must not exist (default: stdout, as a table on a terminal, otherwise as CSV)"
    parser.add_argument("--out", metavar="ROWS", help=text)
    text = "format of the rows (default: by the suffix of --out)"
    parser.add_argument("--format", choices=(*LINES, "table"), help=text)
    text = "add the missing rows to an existing --out, also after an interrupted run"
    parser.add_argument("--resume", action="store_true", help=text)
    text = "write a heat map of each image to this folder: the image, Delta, and the ID-relevant patches"
    parser.add_argument("--explain", metavar="FOLDER", help=text)
    text = "GPUs to run on in parallel: their number, or a list of indices such as 0,1 (default: one)"
    parser.add_argument("--devices", metavar="GPUS", help=text)
    add_wandb_option(parser, "the numbers of images, not the images,")
    add_inference_options(parser)
    return parser


def choose_format(given: argparse.Namespace) -> str:
    """The format of the rows: csv, jsonl or table; from ``--format``, else the suffix of ``--out``, else the output.

    Raises:
        InputError: the options do not fit together, or the suffix is unknown.
    """
    if given.out is None:
        if given.resume:
            raise InputError("predict: --resume needs the file to continue: give it as --out")
        return given.format or ("table" if sys.stdout.isatty() else "csv")
    if given.format == "table":
        raise InputError("predict: --format table is for stdout only: leave out --out, or use --format csv or jsonl")
    form = given.format or ROW_FORMATS.get(Path(given.out).suffix.lower())
    if form is None:
        raise InputError(f"predict: --out {given.out}: use the suffix .csv or .jsonl, or give --format csv or jsonl")
    return form


def choose_devices(devices: str | None, device: str) -> list[str]:
    """Names of the devices to run on; ``--devices`` is ignored on machines without a GPU.

    Raises:
        InputError: ``--devices`` is not a number or a list, or names a GPU that does not exist.
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
        raise InputError(f"predict: --devices {devices}: this machine has {count} GPUs, 0 to {count - 1}")
    return [f"cuda:{number}" for number in chosen]


def load_on(file: str, pretrained: str | None, devices: Sequence[str], trust: bool = False) -> list[Detector]:
    """Load the detector and copy it to each device."""
    first = Detector.load(file, "cpu", pretrained, trust)
    copies = [first, *(copy.deepcopy(first) for _ in devices[1:])]
    return [detector.to(device) for detector, device in zip(copies, devices, strict=True)]


def open_output(out: Path, form: str, detector: Detector, decoding: Decoding) -> RowFile:
    """Open ``--out``; rows of an earlier run are kept after checking that the same detector wrote them."""

    def same_detector(rows: Sequence[PredictionRow]) -> bool:
        files = ImageFiles(detector.backbone.preprocessing, decoding)
        batch = files.collate([files[row["path"]] for row in rows])
        found = detector.decide(detector.predict(batch.images))
        return all(error or agrees(row, now) for row, error, now in zip(rows, batch.errors, found, strict=True))

    thresholds = {name: detector.threshold_of(i) for i, name in enumerate(detector.class_names)}
    return open_rows(out, form, thresholds, lambda rows: not rows or same_detector(rows))


def agrees(row: PredictionRow, now: Decision) -> bool:
    """Whether a row equals a new decision, within rounding differences between devices."""
    pairs = ((float(row["score"]), now.score), (float(row["probability"]), now.probability))
    return row["class"] == now.class_name and all(isclose(a, b, rel_tol=1e-3, abs_tol=1e-4) for a, b in pairs)


def print_rows(batches: Iterator[list[PredictionRow]], form: str, class_names: Sequence[str]) -> None:
    """Print rows to stdout as they come."""
    width = max(len(name) for name in (*class_names, unknown_label(class_names), "unreadable"))
    terminal = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns if terminal else None
    line = LINES[form] if form in LINES else table_line(width, terminal, columns)
    if form == "jsonl" and (getattr(sys.stdout, "encoding", None) or "utf-8").lower() not in ("utf-8", "utf8"):
        line = partial(json_line, only_ascii=True)
    first = next(batches, [])  # before the header, so that nothing is printed if the first batch fails
    sys.stdout.write(line(None))
    for rows in chain([first], batches):
        sys.stdout.write("".join(map(line, rows)))
        sys.stdout.flush()


def check_explain(folder: str | None, resume: bool) -> Path | None:
    """The folder for heat maps.

    Raises:
        InputError: without ``--resume``, it exists and is not an empty folder.
    """
    if folder is None:
        return None
    if Path(folder).exists() and not resume and (not Path(folder).is_dir() or any(Path(folder).iterdir())):
        raise InputError(f"predict: --explain {folder} exists and is not an empty folder: give another name")
    return Path(folder)


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos predict``; returns the exit code."""
    silence_libraries()
    given = parse_arguments(predict_parser(), arguments)
    form, explain = choose_format(given), check_explain(given.explain, given.resume)
    with nullcontext() if given.out is None else lock_out(Path(given.out)):
        return run_predict(given, form, explain)


def run_predict(given: argparse.Namespace, form: str, explain: Path | None) -> int:
    """Predict the images of a command line; nobody else writes to its ``--out``."""
    if given.out is not None:
        check_out(Path(given.out), given.resume)
    check_paths(given.paths, "predict")
    detectors = load_on(given.file, given.pretrained, choose_devices(given.devices, given.device), given.trust)
    decoding = decoding_for(detectors[0], given)
    file = None if given.out is None else open_output(Path(given.out), form, detectors[0], decoding)
    counts, left_out = PredictionCounts(detectors[0].threshold is not None), Counter[str]()
    if not counts.calibrated:
        calibrate = f"calibrate sets one: clipos calibrate {shlex.quote(given.file)} IMAGES"
        print(f"note: no threshold: every image gets a class ({calibrate})", file=sys.stderr)
    elif (label := unknown_label(detectors[0].class_names)) != UNKNOWN:
        print(f"note: a class is named {UNKNOWN!r}: the decision for other images is {label!r}", file=sys.stderr)
    if file is not None:
        advise(lambda: rows_advice(file.partial, counts.images))
    with report_dead_workers(), report_kept_rows(file), log_to_wandb(given, "predict", detectors[0]) as log:
        predict_images(given, detectors, form, explain, file, counts, left_out)
        log(counts.figures)
    if file is not None:
        advise(lambda: f"{given.out} is complete")
    done = 0 if file is None else len(file.done)
    print(f"{counts}; {done} were already done" if done else counts, file=sys.stderr)
    note_left_out(left_out)
    others = done - counts.skipped
    if others > 0:
        print(f"note: {given.out} has rows of {others} images that are not among these paths", file=sys.stderr)
    return 0


@contextmanager
def report_kept_rows(file: RowFile | None) -> Iterator[None]:
    """Report rows that cannot be written as an InputError that names the file with the rows so far."""
    try:
        yield
    except WriteError as error:
        if file is None or error.filename != str(file.path) or not file.partial.exists():
            raise
        raise InputError(
            f"predict: cannot write --out {file.path}: {error.strerror}: free some space and add --resume, which "
            f"continues {file.partial}, or give another --out"
        ) from error


def predict_images(
    given: argparse.Namespace,
    detectors: Sequence[Detector],
    form: str,
    explain: Path | None,
    file: RowFile | None,
    counts: PredictionCounts,
    left_out: Counter[str],
) -> None:
    """Predict the images and write the rows to the file, or to stdout if there is none; count files of other kinds."""
    paths = stream_paths(given.paths, left_out)
    todo = paths if file is None else counts.skip(paths, file.done)
    shown = file is not None or not (sys.stdout.isatty() and sys.stderr.isatty())  # no bar between rows
    done = 0 if file is None else len(file.done)
    with open_bar("predict", partial(count_paths, given.paths), "images", done, leave=True, shown=shown) as bar:
        batches = predict(detectors, todo, given.batch_size, given.num_workers, explain, given.max_pixels)
        batches = counts.count(batches, bar.update)
        if file is not None:
            file.write(batches)
        else:
            print_rows(batches, form, detectors[0].class_names)
