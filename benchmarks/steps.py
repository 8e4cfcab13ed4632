"""A training step and its text encoding, compared with the plain ones: LoCoOp's loss at 10, 100 and 1,000 classes.

    python benchmarks/steps.py [--classes 10 100 1000]

Batch 32, ViT-B/16 with random weights. Ours is ``ClipOS`` under Lightning's Trainer, from the start of one step to the
start of the next; the plain one is the body of a bare loop. Loss, text features and the context's gradient must agree.
The plain text encoding runs some prompts at a time, from the gradient of the loss: same arithmetic, less memory.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from common import VIT, Measured, Row, check, class_names, peak_mb, reset_peak, save_weights, show, timed, write_classes
from lightning.pytorch import Callback, Trainer
from plain import Prompts, encode_local, locoop_loss

from clipos_lightning.clip.loading import shared_weights
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.training.module import ClipOS
from clipos_lightning.utils.progress import silence_libraries

BATCH = 32
CACHED = {10: 50.0, 100: 18.0, 1000: 10.0}  # classes: goal for the ratio
UNCACHED = {100: 1.6, 1000: 5.0}
TEXT = {100: 10.0}


class Watch(Callback):
    """Record when steps start, and the first step's loss and gradient."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.loss = self.gradient = torch.empty(0)

    def on_train_batch_start(self, *_: Any) -> None:
        """Record the time."""
        self.starts.append(time.perf_counter())
        if len(self.starts) == 2:
            reset_peak()

    def on_before_optimizer_step(self, trainer: Trainer, module: Any, optimizer: Any) -> None:
        """Keep the gradient."""
        if len(self.starts) == 1:
            self.gradient = module.prompts.context.grad.clone()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, *_: Any) -> None:
        """Keep the loss."""
        if len(self.starts) == 1:
            self.loss = outputs["loss"].detach()


def make(root: Path, weights: str, budget_mb: int) -> tuple[ClipOS, FewShotOOD]:
    """LoCoOp's objective with ``ClipOS``, on 32 images."""
    data = FewShotOOD(id=f"folder:{root}", ood_sets=[], shots="all", batch_size=BATCH, num_workers=0)
    data.shot_positions = list(range(0, len(data.id_set.train), max(1, len(data.id_set.train) // BATCH)))[:BATCH]
    model = ClipOS(
        data.class_names, VIT, weights, objective="entropy", outlier_weight=0.25, feature_budget_mb=budget_mb
    )
    return model, data


def our_steps(model: ClipOS, data: FewShotOOD, repeats: int) -> tuple[Watch, Measured]:
    """Train a few steps and time them; the first one is a warm-up."""
    watch = Watch()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(accelerator="cpu", max_steps=repeats + 2, callbacks=[watch], enable_model_summary=False, **quiet).fit(
        model, data
    )
    pairs = zip(watch.starts[1:], watch.starts[2:], strict=False)
    return watch, Measured(statistics.median(b - a for a, b in pairs), peak_mb(), repeats)


def rows_at(classes: int, weights: str, root: Path, tower: Measured | None) -> Generator[Row, None, Measured]:
    """Measure the text, the cached and the uncached step for a number of classes.

    Args:
        classes: C.
        weights: file of the backbone's weights.
        root: folder to write images to.
        tower: timing of the plain image tower; None: measure it.

    Yields:
        Rows of the table.

    Returns:
        Timing of the plain image tower, for the next call.
    """
    names = class_names(classes)
    write_classes(root, names, -(-BATCH // classes))
    model, data = make(root, weights, 2048)
    backbone, scale, context = model.backbone, model.scale, model.prompts.context.detach().clone()
    text = model.prompts().detach()
    watch, cached = our_steps(model, data, 5)
    batch = data.global_batch(0)
    images, labels = data.shot_images(batch["index"]), batch["label"]

    repeats = 1 if classes > 100 else 2
    tower = tower or timed(lambda: encode_local(backbone, images), 2)
    leaf = text.clone().requires_grad_()
    features = encode_local(backbone, images)
    loss_time = timed(lambda: locoop_loss(features, labels, leaf, scale).backward(), repeats)
    leaf.grad = None
    loss = locoop_loss(features, labels, leaf, scale)
    loss.backward()
    assert leaf.grad is not None
    prompts, gradient = Prompts(backbone, data.class_names, context), leaf.grad
    plain_text = timed(lambda: check(text, prompts.forward_backward(gradient), "text"), repeats, repeats - 1)
    assert prompts.context.grad is not None
    check(watch.gradient * (2 * repeats - 1), prompts.context.grad, "the context's gradient", 1e-2)
    check(watch.loss, loss.detach(), "the loss")

    def our_text() -> None:
        model.prompts().backward(gradient)

    yield Row(f"text, forward and backward, {classes:,} classes", timed(our_text, 3), plain_text, TEXT.get(classes))
    seconds = tower.seconds + loss_time.seconds + plain_text.seconds
    plain = Measured(seconds, max(m.peak for m in (tower, loss_time, plain_text)), repeats)
    yield Row(f"training step, {classes:,} classes, features cached", cached, plain, CACHED.get(classes))
    again, uncached = our_steps(*make(root, weights, 0), 1)
    check(again.loss, loss.detach(), "the loss without a cache")
    yield Row(
        f"training step, {classes:,} classes, images encoded at each step", uncached, plain, UNCACHED.get(classes)
    )
    return tower


def rows(classes: list[int]) -> Iterator[Row]:
    """Measure all numbers of classes."""
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder, shared_weights():
        weights = save_weights(Path(folder) / "vit.safetensors")
        tower = None
        for count in classes:
            tower = yield from rows_at(count, weights, Path(folder) / str(count), tower)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000])
    show(rows(parser.parse_known_args()[0].classes))


if __name__ == "__main__":
    main()
