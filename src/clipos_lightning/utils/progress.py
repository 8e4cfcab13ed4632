"""Progress bars on stderr, and filters for the log lines and warnings of other libraries."""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOBase
from typing import Any, TextIO, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_only
from tqdm.auto import tqdm

ItemT = TypeVar("ItemT")


def process_rank() -> int:
    """The global rank of this process; 0 outside of distributed runs."""
    return int(getattr(rank_zero_only, "rank", 0))


def track(items: Iterable[ItemT], description: str) -> Iterator[ItemT]:
    """Iterate with a progress bar on stderr, removed when done; shown only by rank 0 and only on a terminal."""
    yield from tqdm(items, description, leave=False, disable=process_rank() != 0 or not sys.stderr.isatty())


class Progress(ProgressBar):
    """Lightning progress bars: one over all training steps, one per test set; hidden if stderr is not a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm[Any] | None = None
        self.enabled = True

    def disable(self) -> None:
        """Hide the bars; Lightning calls this on every rank but 0."""
        self.enabled = False

    def open(self, total: int | float | None, description: str) -> None:
        """Close the current bar and start a new one; a total of None or infinity only counts."""
        self.close()
        count = None if total in (None, float("inf")) else int(total or 0)
        hidden = not self.enabled or not sys.stderr.isatty()
        self.bar = tqdm(total=count, desc=description, leave=True, disable=hidden, dynamic_ncols=True)

    def close(self) -> None:
        """Close the current bar, if there is one."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def step(self) -> None:
        """Advance the bar by one batch."""
        if self.bar is not None:
            self.bar.update(1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start one bar over the batches of all epochs."""
        in_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        batches = trainer.estimated_stepping_batches / in_epoch * trainer.num_training_batches
        self.open(batches, "training prompts")
        if self.bar is not None:
            self.bar.update(trainer.fit_loop.total_batch_idx + 1)  # batches done before, in a resumed run

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Advance the bar and show the loss."""
        self.step()
        if self.bar is not None and "train/loss" in trainer.progress_bar_metrics:
            self.bar.set_postfix_str(f"loss {float(trainer.progress_bar_metrics['train/loss']):.3f}", refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Start a bar at the first batch of each test set."""
        if batch_idx == 0:
            names = list(trainer.test_dataloaders or {})
            totals = trainer.num_test_batches
            label = f"testing {names[dataloader_idx]} ({dataloader_idx + 1} of {len(names)})"
            self.open(totals[dataloader_idx], label)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Advance the bar by one batch."""
        self.step()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start a bar over the held-out training images."""
        self.open(sum(trainer.num_val_batches), "validating on held-out training images")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """Advance the bar by one batch."""
        self.step()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error message starts on a new line."""
        self.close()


def silence_libraries() -> None:
    """Silence Lightning's log lines and the warnings that need no action; stderr is for errors."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*does not have many workers.*",
        r".*exists and is not empty.*",
        r".*LightningCLI's args parameter.*",
        r".*resuming from a checkpoint that ended before the epoch.*",
        r".*Found \d+ module\(s\) in eval mode.*",
        r".*smaller than the logging interval.*",
        r".*GPU available but not used.*",
        r"It is recommended to use .self\.log.*sync_dist=True.*",
        r"Total length of .* across ranks is zero.*",
        r".*isinstance\(treespec, LeafSpec\).*",
    ):
        warnings.filterwarnings("ignore", message)


@contextmanager
def counter(total: int | None, done: int, description: str, shown: bool) -> Iterator[Callable[[int], Any]]:
    """A bar over images on stderr; yields a function that advances it.

    Args:
        total: number of images; None if it is unknown: the bar only counts.
        done: images that were processed before.
        description: text in front of the bar.
        shown: False: no bar.
    """
    with tqdm(total=total, initial=done, desc=description, unit=" images", disable=not shown) as bar:
        yield lambda count: bool(bar.update(count))


@rank_zero_only
def print_once(line: str, file: TextIO | TextIOBase | None = None) -> None:
    """Print a line on rank 0, to stdout or another file, and flush it."""
    print(line, file=file, flush=True)
