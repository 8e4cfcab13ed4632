"""DetectorModule: the part of ClipOS that is a detector: class features, heads, the test loop, checkpoints."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..errors import InputError
from ..evaluation.heads import SIDES, ZERO_SHOT, Head
from ..evaluation.results import TestTables, headline_metrics
from ..evaluation.scores import ScoreOptions, defined_scores
from ..method.mask import MaskOptions
from ..method.prompts import PromptLearner
from ..method.prototypes import VIEWS, blend
from ..types import ClassTexts, Texts
from .checkpoint import check_state
from .record import DetectorRecord, check_identity
from .shots import Shots


class DetectorModule(LightningModule):
    """A detector under Lightning, however it was trained; :class:`ClipOS` builds and trains it.

    Attributes:
        backbone: the frozen CLIP.
        prompts: the learnable prompts.
        class_names: C names.
        score: the detector's score.
        scores: those in the report.
        trained: whether the prompts have learned something; otherwise it is the zero-shot detector.
        plain_text: the zero-shot prompts' features, "unknown" last, (C + 1, D).
        image_text: each class's mean few-shot image feature, (C, D); zeros where the images have no weight.
        image_weight: their weight in the class features, in [0, 1].
        results: set to column to values, after a test.
        notes: messages to print after training.
        recipe: optimizer and schedule as plain data, for the checkpoint (filled by the command line).
    """

    backbone: FrozenClip
    prompts: PromptLearner
    class_names: list[str]
    score: str
    scores: list[str]
    mask: MaskOptions
    scoring: ScoreOptions
    scale: float
    plain_text: Tensor
    image_text: Tensor
    image_weight: float
    trained: bool
    notes: list[str]
    recipe: dict[str, Any]
    results: dict[str, dict[str, NDArray[np.float64]]]
    failure: InputError | None = None  # non-finite scores of the last test

    def exact(self) -> torch.autocast:
        """Fp32 whatever the Trainer's precision: only the two encoders run in mixed precision."""
        return torch.autocast(self.device.type, enabled=False)

    # ---- what the classes look like

    @property
    def class_text(self) -> ClassTexts:
        """The frozen class features of the mask, (C, D)."""
        return self.blend(self.plain_text[:-1])

    @property
    def zero_shot_text(self) -> Texts:
        """The zero-shot detector's prompts, "unknown" last, (C + 1, D)."""
        return self.blend(self.plain_text)

    def blend(self, text: Texts, weight: float | None = None) -> Texts:
        """The classes' rows blended with their few-shot images' mean features."""
        return blend(text, self.image_text, self.image_weight if weight is None else weight)

    def learn_images(self, data: Any) -> None:
        """Each class's mean image feature where it has a share, and with ``auto`` how large that is.

        Args:
            data: the DataModule, which has drawn the few-shot images.
        """
        if self.hparams["image_weight"]:
            data.setup("fit")  # a test draws where it can; here it must
            shots = Shots(self.backbone, data)
            self.image_text.copy_(shots.means(len(self.class_names)))
            if self.hparams["image_weight"] == "auto":
                chosen = shots.image_weight(self.plain_text[:-1], self.scale)
                weight = chosen.weight
                self.image_weight = weight if self._trainer is None else self.trainer.strategy.broadcast(weight)
                self.notes.append(
                    f"image weight {weight}, chosen on {VIEWS} views of {len(data.shot_positions)} few-shot images "
                    f"(quality: text alone {chosen.text_quality:.2f}, images alone {chosen.image_quality:.2f})"
                )

    # ---- testing

    @property
    def text(self) -> Texts:
        """The detector's prompts: the learned ones, or the zero-shot detector's before any training."""
        with torch.no_grad(), self.exact():
            return self.blend(self.prompts()) if self.trained else self.zero_shot_text

    def head(self, prefix: str, text: Texts, class_text: ClassTexts, scores: list[str]) -> Head:
        """This detector's constants around some prompts."""
        constants = (self.scale, scores, self.backbone.surgery, self.mask, self.scoring)
        return Head(prefix, text, class_text, *constants)

    @property
    def detector_head(self) -> Head:
        """The detector at this moment, with its score alone."""
        with torch.no_grad():
            return self.head("", self.text, self.class_text, [self.score])

    @property
    def zero_shot_scores(self) -> list[str]:
        """What the zero-shot detector, which always has "unknown", reports where nothing was chosen."""
        return list(dict.fromkeys([*defined_scores(True), self.score]))

    @property
    def tested_scores(self) -> list[str]:
        """The scores that a test of this detector reports."""
        return self.scores if self.trained or self.hparams["scores"] else self.zero_shot_scores

    @torch.no_grad()
    def heads(self) -> list[Head]:
        """What a test compares: the detector; beside a trained one zero-shot; where images count, each side alone."""
        every = self.scores if self.hparams["scores"] else self.zero_shot_scores
        text, plain, ours = self.text, self.plain_text, self.tested_scores
        heads = [self.head("", text, self.class_text, ours)]
        if self.trained:
            heads.append(self.head(ZERO_SHOT, plain, plain[:-1], every))
        if self.hparams["image_weight"]:
            with self.exact():
                learned = self.prompts() if self.trained else plain
            heads.append(self.head(SIDES["text"], learned, plain[:-1], ours))
            images = self.blend(learned, 1.0)
            heads.append(self.head(SIDES["images"], images, images[: len(self.class_names)], ours))
        return heads

    def on_test_start(self) -> None:
        """Encode the prompts once; an empty table for each set."""
        self.failure = None
        if not self.trained:
            self.learn_images(self.trainer.datamodule)  # type: ignore[attr-defined]
        tests = self.trainer.datamodule.test_sets  # type: ignore[attr-defined]
        masked = {name: images.has_masks for name, (images, _) in tests.items()}
        self.tables = TestTables(self.heads(), masked, self.backbone.grid, self.device)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch under every head, in one pass of the backbone."""
        features = self.backbone.encode_image(batch["image"], self.tables.paths(batch))
        with self.exact():
            self.tables.update(dataloader_idx, features, batch)

    def on_test_epoch_end(self) -> None:
        """Gather every table over processes; log the headline score's metrics."""
        self.results = self.tables.gather()
        try:
            metrics = headline_metrics(self.results, self.score)
        except InputError as error:
            self.failure = error
        else:
            self.log_dict({f"test/{name}": value for name, value in metrics.items()}, rank_zero_only=True)

    def on_test_end(self) -> None:
        """Raise for non-finite scores after all callbacks have run.

        Raises:
            InputError: a score is not finite.
        """
        if self.failure is not None:
            raise self.failure

    # ---- checkpoints: kilobytes, and checked

    @property
    def record(self) -> DetectorRecord:
        """What this detector belongs to."""
        given = (self.class_names, self.hparams["pretrained"], self.hparams["class_wordings"])
        return DetectorRecord.of(self.backbone, self.detector_head, *given)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen backbone; record what the checkpoint belongs to."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("backbone.")}
        checkpoint["clipos"] = {**asdict(self.record), "recipe": self.recipe, "image_weight": self.image_weight}
        data = getattr(self._trainer, "datamodule", None)
        if data is not None and data.shot_positions:
            checkpoint["clipos"]["shots"] = data.manifest()["digest"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check backbone, weights, activation, class names and keys.

        Raises:
            InputError: the checkpoint is not ours, or was trained on something else.
        """
        if "clipos" not in checkpoint:
            raise InputError("the checkpoint was not written by clipos: give a last.ckpt of `clipos fit`")
        check_identity("the checkpoint", checkpoint["clipos"], asdict(self.record))
        learned = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        check_state(checkpoint["state_dict"], learned)
        self.image_weight = checkpoint["clipos"].get("image_weight", self.image_weight)
        self.trained = True
