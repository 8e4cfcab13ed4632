"""A complete 1-shot fit of 50 epochs on ten classes, ViT-B/16, compared with 50 plain steps; without start-up.

    python benchmarks/fit.py

Ours: Lightning's complete ``fit`` with CSV logs and a checkpoint, including the encoding of the few-shot images. Plain:
the body of a bare loop (image tower, 77 tokens per prompt, LoCoOp's loss), timed twice and multiplied by 50.
"""

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from common import VIT, Measured, Row, class_names, save_weights, show, timed, write_classes
from lightning.pytorch import Trainer
from lightning.pytorch.loggers import CSVLogger
from plain import Prompts, encode_local, locoop_loss

from clipos_lightning.clip.loading import shared_weights
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.training.callbacks import LastCheckpoint
from clipos_lightning.training.module import ClipOS
from clipos_lightning.utils.progress import silence_libraries

EPOCHS = 50


def fit(folder: Path, model: ClipOS, data: FewShotOOD) -> None:
    """Fit with the same loggers and callbacks as the command line."""
    folder.mkdir()
    logger, callbacks = CSVLogger(folder, name="", version=""), [LastCheckpoint(folder)]
    settings = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    Trainer(accelerator="cpu", max_epochs=EPOCHS, logger=logger, callbacks=callbacks, **settings).fit(model, data)


def plain_step(model: ClipOS, images: torch.Tensor, prompts: Prompts) -> None:
    """One step of the plain loop on the ten few-shot images."""
    loss = locoop_loss(encode_local(model.backbone, images), torch.arange(10), prompts(slice(None)), model.scale)
    loss.backward()


def rows() -> Iterator[Row]:
    """CLIP-OS and LoCoOp with this package, both compared with the same plain loop."""
    silence_libraries()
    with tempfile.TemporaryDirectory() as folder, shared_weights():
        root, weights = Path(folder), save_weights(Path(folder) / "vit.safetensors")
        write_classes(root / "data", class_names(10), 1)
        ours, plain = {}, None
        for name, objective in (("CLIP-OS", "unknown"), ("LoCoOp", "entropy")):
            data = FewShotOOD(id=f"folder:{root / 'data'}", ood_sets=[], num_workers=0)
            model = ClipOS(data.class_names, VIT, weights, objective=objective)
            prompts = Prompts(model.backbone, data.class_names, model.prompts.context)
            ours[name] = timed(partial(fit, root / name, model, data), repeats=1, warm_up=0)
            if plain is None:
                images = data.shot_images(torch.arange(10))
                step = timed(partial(plain_step, model, images, prompts), repeats=2)
                plain = Measured(EPOCHS * step.seconds, step.peak, 2)
            yield Row(
                f"1-shot fit, 10 classes, {EPOCHS} epochs, {name} / {EPOCHS} × a plain step",
                ours[name],
                plain,
                None,
                30,
            )


def main() -> None:
    """Print the table."""
    show(rows())


if __name__ == "__main__":
    main()
