"""DetectorModule: the base class of ClipOS, with its class features, heads, test loop and checkpoints."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..errors import InputError
from ..evaluation.heads import PART_PREFIXES, ZERO_SHOT, Head
from ..evaluation.results import TestTables, headline_metrics
from ..evaluation.scores import ScoreOptions, reported_scores
from ..method.mask import MaskOptions
from ..method.prompts import PromptLearner
from ..method.prototypes import VIEWS, blend
from ..types import ClassTexts, Texts
from .checkpoint import check_state
from .record import DetectorRecord, check_identity
from .shots import Shots


class DetectorModule(LightningModule):
    """What a detector needs to be tested and stored, independent of training; :class:`ClipOS` sets the attributes.

    Attributes:
        backbone: the frozen CLIP.
        prompts: the learnable prompts.
        class_names: C names.
        score: name of the detector's score.
        scores: names of the scores in the report.
        mask: which patches are ID-relevant.
        scoring: constants of the scores.
        scale: s of the model.
        plain_text: features of the zero-shot prompts, "unknown" last, (C + 1, D).
        image_text: mean feature of each class's few-shot images, (C, D); zeros if the images have no weight.
        image_weight: weight of ``image_text`` in the class features, in [0, 1].
        trained: the learned prompts are used, not the zero-shot ones: set when a fit starts, or by a checkpoint.
        notes: messages to print after training.
        recipe: optimizer and scheduler as plain data for the checkpoint; set by the command line.
        results: test set to column to values; set by a test.
        failure: the error for non-finite scores in the last test.
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
    failure: InputError | None = None

    def fp32(self) -> torch.autocast:
        """A context that disables mixed precision: only the two encoders run in the precision of the Trainer."""
        return torch.autocast(self.device.type, enabled=False)

    # ---- class features

    @property
    def class_text(self) -> ClassTexts:
        """The frozen class features of the mask, (C, D)."""
        return self.blend(self.plain_text[:-1])

    @property
    def zero_shot_text(self) -> Texts:
        """The zero-shot detector's class features, "unknown" last, (C + 1, D)."""
        return self.blend(self.plain_text)

    def blend(self, text: Texts, weight: float | None = None) -> Texts:
        """Blend text features with the mean image features of the classes; None: with ``image_weight``."""
        return blend(text, self.image_text, self.image_weight if weight is None else weight)

    def encode_class_images(self, data: Any) -> None:
        """Set ``image_text`` from the few-shot images if they have a weight; ``auto`` chooses the weight, too.

        Args:
            data: the DataModule.

        Raises:
            InputError: the few-shot images are missing.
        """
        if self.hparams["image_weight"]:
            data.setup("fit")  # unlike the set-up of a test, it raises if few-shot images are missing
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

    # ---- heads

    @property
    def text(self) -> Texts:
        """The detector's class features: of the learned prompts, or of the zero-shot prompts before training."""
        with torch.no_grad(), self.fp32():
            return self.blend(self.prompts()) if self.trained else self.zero_shot_text

    def head(self, prefix: str, text: Texts, class_text: ClassTexts, scores: list[str]) -> Head:
        """A head with these class features, and with this detector's settings of mask and scores."""
        return Head(prefix, text, class_text, self.scale, scores, self.backbone.surgery, self.mask, self.scoring)

    @property
    def detector_head(self) -> Head:
        """The head of the detector as it is now, with the detector's score alone."""
        with torch.no_grad():
            return self.head("", self.text, self.class_text, [self.score])

    @property
    def zero_shot_scores(self) -> list[str]:
        """Scores that a test of the zero-shot detector reports: by default all, since it always has "unknown"."""
        return reported_scores(self.hparams["scores"], self.score, has_unknown=True)

    @property
    def tested_scores(self) -> list[str]:
        """Scores that a test of this detector reports."""
        return self.scores if self.trained else self.zero_shot_scores

    @torch.no_grad()
    def heads(self) -> list[Head]:
        """The detectors that a test compares.

        - this detector;
        - the zero-shot detector, if this one was trained;
        - with an image weight: text features alone, and image features alone.
        """
        zero_shot, scores = self.plain_text, self.tested_scores
        heads = [self.head("", self.text, self.class_text, scores)]
        if self.trained:
            heads.append(self.head(ZERO_SHOT, zero_shot, zero_shot[:-1], self.zero_shot_scores))
        if self.hparams["image_weight"]:
            with self.fp32():
                text = self.prompts() if self.trained else zero_shot
            heads.append(self.head(PART_PREFIXES["text"], text, zero_shot[:-1], scores))
            images = self.blend(text, 1.0)
            heads.append(self.head(PART_PREFIXES["images"], images, images[: len(self.class_names)], scores))
        return heads

    # ---- test

    def on_test_start(self) -> None:
        """Encode the prompts once, and create an empty table for each test set."""
        self.failure = None
        if not self.trained:
            self.encode_class_images(self.trainer.datamodule)  # type: ignore[attr-defined]
        tests = self.trainer.datamodule.test_sets  # type: ignore[attr-defined]
        masked = {name: images.has_masks for name, (images, _) in tests.items()}
        self.tables = TestTables(self.heads(), masked, self.backbone.grid, self.device)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch with every head, after one pass of the backbone."""
        features = self.backbone.encode_image(batch["image"], self.tables.paths(batch))
        with self.fp32():
            self.tables.update(dataloader_idx, features, batch)

    def on_test_epoch_end(self) -> None:
        """Gather the tables of all processes, and log the metrics of the detector's score."""
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

    # ---- checkpoints: some kilobytes, without the frozen backbone

    @property
    def record(self) -> DetectorRecord:
        """Backbone, weights, classes and options of this detector."""
        pretrained, wordings = self.hparams["pretrained"], self.hparams["class_wordings"]
        options = (self.backbone.surgery, self.mask, self.scoring)
        return DetectorRecord.of(self.backbone, self.score, options, self.class_names, pretrained, wordings)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remove the frozen backbone, and add the record of the detector."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("backbone.")}
        checkpoint["clipos"] = {**asdict(self.record), "recipe": self.recipe, "image_weight": self.image_weight}
        data = getattr(self._trainer, "datamodule", None)
        if data is not None and data.shot_positions:
            checkpoint["clipos"]["shots"] = data.manifest()["digest"]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that backbone, weights, class names and tensors of the checkpoint are those of this module.

        Raises:
            InputError: one differs, or the checkpoint was not written by clipos.
        """
        if "clipos" not in checkpoint:
            raise InputError("the checkpoint was not written by clipos: give the last.ckpt of a `clipos fit` run")
        check_identity("the checkpoint", checkpoint["clipos"], asdict(self.record))
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        check_state(checkpoint["state_dict"], state)
        self.image_weight = checkpoint["clipos"].get("image_weight", self.image_weight)
        self.trained = True
