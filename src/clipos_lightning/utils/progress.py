"""What the terminal shows of work under way: bars that say what is going on, and no banners of other libraries."""

import logging
import math
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_only
from tqdm.auto import tqdm

T = TypeVar("T")


def process_rank() -> int:
    """This process's rank among all of the run."""
    return int(getattr(rank_zero_only, "rank", 0))


def track(items: Iterable[T], description: str) -> Iterator[T]:
    """Iterate with a bar on stderr, which vanishes when done; only on the first process and a terminal."""
    yield from tqdm(items, description, leave=False, disable=process_rank() != 0 or not sys.stderr.isatty())


class Progress(ProgressBar):
    """One bar over all training steps, and one per test set; silent where stderr is not a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm[Any] | None = None
        self.enabled = True

    def disable(self) -> None:
        """Other processes than the first show nothing."""
        self.enabled = False

    def open(self, total: int | float | None, description: str) -> None:
        """Close the bar there is and start another."""
        self.close()
        count = None if total in (None, float("inf")) else int(total or 0)
        hidden = not self.enabled or not sys.stderr.isatty()
        self.bar = tqdm(total=count, desc=description, leave=True, disable=hidden, dynamic_ncols=True)

    def close(self) -> None:
        """End the bar there is."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def step(self) -> None:
        """One batch more."""
        if self.bar is not None:
            self.bar.update(1)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One bar over the whole run."""
        in_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        batches = trainer.estimated_stepping_batches / in_epoch * trainer.num_training_batches
        self.open(batches, "training prompts")
        if self.bar is not None:
            self.bar.update(trainer.fit_loop.total_batch_idx + 1)  # of a resumed run

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """The loss beside the bar."""
        self.step()
        if self.bar is not None and "train/loss" in trainer.progress_bar_metrics:
            self.bar.set_postfix_str(f"loss {float(trainer.progress_bar_metrics['train/loss']):.3f}", refresh=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Done."""
        self.close()

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A bar for each set: k of n."""
        if batch_idx == 0:
            names = list(trainer.test_dataloaders or {})
            totals = trainer.num_test_batches
            label = f"testing {names[dataloader_idx]} ({dataloader_idx + 1} of {len(names)})"
            self.open(totals[dataloader_idx], label)

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """One batch more."""
        self.step()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Done."""
        self.close()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The undrawn training images."""
        self.open(sum(trainer.num_val_batches), "validating on undrawn training images")

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        """One batch more."""
        self.step()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Done."""
        self.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """No bar is left half-way in front of an error."""
        self.close()


def silence_libraries() -> None:
    """No banners and tips: stderr is for what is wrong."""
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
    """A bar on stderr that is told how many images are done more; without a total it only counts."""
    with tqdm(total=total, initial=done, desc=description, unit=" images", disable=not shown) as bar:
        yield lambda count: bool(bar.update(count))


@rank_zero_only
def print_once(line: str, file: TextIO | None = None) -> None:
    """A line on stdout (or elsewhere), by the first process."""
    print(line, file=file, flush=True)
