"""What the page of ``clipos app`` shows of a detector's results: pure functions, without Gradio."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..data.decoding import Decoding, open_image, short_reason
from ..data.image_files import is_image
from ..detector.decisions import unknown_label
from ..detector.detector import Detector
from ..detector.file import ATTRIBUTES
from ..detector.model_card import facts, limits
from ..detector.recalls import Recalls
from ..detector.row_files import csv_line
from ..detector.row_readers import PredictionRow
from ..errors import InputError, printable
from ..reporting.paper_figure import Explanation
from ..utils.markdown import escape_markdown
from .explain import explain_images
from .predict import predict, row_of
from .prediction_counts import PredictionCounts

IMAGES_PER_STEP = 32  # images between two steps of the progress bar
ROW_HEADERS = ("file", "decision", "class", "probability, %", "score", "error")
NO_DECISION = "unreadable"


@dataclass(frozen=True)
class Upload:
    """An image file that the page received.

    Attributes:
        path: of the copy on this machine.
        name: of the user's file.
    """

    path: str
    name: str

    def rename(self, message: str) -> str:
        """An error message with the user's name of the file in place of the path of the copy."""
        return message.replace(printable(self.path), printable(self.name))


def uploads_of(files: Sequence[Mapping[str, Any]] | None) -> list[Upload]:
    """The uploads in Gradio's data of a component for files.

    Example:
        >>> uploads_of([{"path": "/tmp/1/a_b.png", "orig_name": "a b.png"}, {"path": "/tmp/2/c.png"}])[0].name
        'a b.png'
    """
    return [
        Upload(str(file["path"]), str(file.get("orig_name") or Path(str(file["path"])).name)) for file in files or ()
    ]


def images_in(uploads: Iterable[Upload], left_out: Counter[str]) -> list[Upload]:
    """The image files of an uploaded folder, sorted by name, as `clipos predict` takes them from a folder.

    Args:
        uploads: all files of the folder.
        left_out: gets the number of other files, by suffix.
    """
    return sorted((upload for upload in uploads if is_image(upload.name, left_out)), key=lambda upload: upload.name)


# ---- one image


def explain_upload(detector: Detector, upload: Upload, decoding: Decoding) -> Explanation:
    """Decision and maps of an image, as `clipos explain` finds them.

    Raises:
        InputError: the image cannot be read, or its score is not finite.
    """
    try:
        picture = open_image(Path(upload.path), decoding)
    except InputError as error:
        raise InputError(upload.rename(str(error))) from error
    found = explain_images(detector, [picture], [upload.name])[0]
    text = found.text
    row = row_of(upload.name, "", detector.decision(0, text.probability, text.score))
    if row["error"]:
        raise InputError(row["error"])
    return found


def at_threshold(explanation: Explanation, threshold: float | None) -> Explanation:
    """An explanation with another threshold; None: with its own."""
    return explanation if threshold is None else replace(explanation, threshold=threshold)


def label_of(explanation: Explanation, class_names: Sequence[str]) -> str:
    """The decision: the most probable class, or unknown."""
    text = explanation.text
    return text.class_name if text.accepted else unknown_label(class_names)


# ---- several images


def predict_uploads(
    detector: Detector, uploads: Sequence[Upload], max_pixels: int, step: Callable[[int], Any]
) -> Iterator[PredictionRow]:
    """The rows of images, as `clipos predict` writes them, with the user's names; ``step`` gets the number done."""
    done = 0
    for rows in predict([detector], (upload.path for upload in uploads), IMAGES_PER_STEP, max_pixels=max_pixels):
        for upload, row in zip(uploads[done:], rows, strict=False):
            yield {**row, "path": upload.name, "error": row["error"] and upload.rename(row["error"])}
        done += len(rows)
        step(done)


def decide_again(detector: Detector, rows: Iterable[PredictionRow], threshold: float | None) -> list[PredictionRow]:
    """Rows with the decisions at another threshold, without a pass of the backbone; None: with those they have."""
    if threshold is None:
        return list(rows)
    index = {name: i for i, name in enumerate(detector.class_names)}
    judge = replace(detector, threshold=threshold, class_thresholds=None)

    def again(row: PredictionRow) -> PredictionRow:
        if row["error"]:
            return row
        return row_of(row["path"], "", judge.decision(index[row["class"]], row["probability"], row["score"]))

    return list(map(again, rows))


def table_cells(row: PredictionRow) -> list[str | float | None]:
    """A row of the table of the page, in the order of :data:`ROW_HEADERS`; its numbers are rounded.

    Example:
        >>> table_cells({"path": "a.png", "class": "cat", "probability": 0.98765, "score": 11.51234, "error": None,
        ...              "decision": "unknown", "threshold": 14.0})
        ['a.png', 'unknown', 'cat', 98.8, 11.51, '']
    """
    if row["error"]:
        return [row["path"], NO_DECISION, "", None, None, short_reason(row["path"], row["error"])]
    probability, score = round(100 * row["probability"], 1), float(f"{row['score']:.4g}")
    return [row["path"], row["decision"], row["class"], probability, score, ""]


def count_rows(detector: Detector, rows: list[PredictionRow]) -> str:
    """How many images there are, unknown and unreadable, in the words of `clipos predict`."""
    calibrated = detector.threshold is not None or detector.class_thresholds is not None
    counts = PredictionCounts(calibrated)
    for _ in counts.count(iter([rows]), lambda size: None):
        pass
    return str(counts)


def csv_text(rows: Iterable[PredictionRow]) -> str:
    """The rows as the CSV of `clipos predict`."""
    return "".join(map(csv_line, [None, *rows]))


# ---- about the detector


def as_recall(percent: float) -> float:
    """A recall in percent as a fraction, without the error of the division.

    Example:
        >>> 71.4 / 100, as_recall(71.4)
        (0.7140000000000001, 0.714)
    """
    return round(percent / 100, 10)


def describe_recall(recalls: Recalls, recall: float, score: str, calibration: Mapping[str, Any]) -> tuple[str, str]:
    """The threshold at a recall, and what it promises."""
    recall, threshold = recalls.at(recall)
    point = calibration.get("point")
    rule = f"{score} ≥ {threshold:.6g}"
    if not isinstance(point, Mapping) or "guaranteed" not in point or "n" not in point:
        return rule, "no guarantee: the calibration images were those of training, or crops of them"
    return rule, (
        f"a new image of the kind of the {point['n']} calibration images is accepted with a probability of at least "
        f"{100 * recall:g} %"
    )


def describe_detector(detector: Detector) -> str:
    """Classes, backbone, score, calibration and limits of a detector, in Markdown."""
    record = asdict(detector.record) | {key: getattr(detector, key) for key in ATTRIBUTES}
    names = ", ".join(map(escape_markdown, detector.class_names))
    lines = [f"classes: {names}", *(f"{name.partition(',')[0]}: {value}" for name, value in facts(record))]
    return "\n".join(f"- {line}" for line in [*lines, *limits(record)])


def summarize_detector(detector: Detector, most: int = 8) -> str:
    """The classes and the backbone in one line."""
    names = detector.class_names
    shown = ", ".join(names[:most]) + (", …" if len(names) > most else "")
    kind = "class" if len(names) == 1 else "classes"
    return f"{len(names)} {kind}: {shown}. Backbone {detector.backbone.name}, score {detector.score}."
