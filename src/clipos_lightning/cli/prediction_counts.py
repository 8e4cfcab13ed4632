"""How many images ``clipos predict`` has read, rejected, could not read, and skipped."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..detector.row_files import PathCounts
from ..detector.row_readers import PredictionRow


class PredictionCounts:
    """Counts the rows that pass through: images, unknown, unreadable, and images skipped on ``--resume``.

    Args:
        calibrated: whether the detector has a threshold.
    """

    def __init__(self, calibrated: bool) -> None:
        self.calibrated = calibrated
        self.images = self.unknown = self.broken = self.skipped = 0

    def skip(self, paths: Iterable[str], done: PathCounts) -> Iterator[str]:
        """Yield the paths that are not done and count the others."""
        for path in paths:
            if done.take(path):
                self.skipped += 1
            else:
                yield path

    def count(
        self, batches: Iterator[list[PredictionRow]], step: Callable[[int], Any]
    ) -> Iterator[list[PredictionRow]]:
        """Yield the batches and count their rows; ``step`` is called with the size of each batch."""
        for rows in batches:
            self.images += len(rows)
            self.broken += sum(bool(row["error"]) for row in rows)
            self.unknown += sum(row["threshold"] is not None and row["score"] < row["threshold"] for row in rows)
            yield rows
            step(len(rows))

    @property
    def figures(self) -> dict[str, int]:
        """The counts by name."""
        unknown = {"unknown": self.unknown} if self.calibrated else {}
        return {"images": self.images, **unknown, "unreadable": self.broken, "skipped": self.skipped}

    def __str__(self) -> str:
        unknown = f"{self.unknown} unknown" if self.calibrated else "no threshold"
        return f"{self.images} images, {unknown}, {self.broken} unreadable"
