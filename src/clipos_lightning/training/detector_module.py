"""DetectorModule: the base class of ClipOS, with its class features, heads, test loop and checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from numpy.typing import NDArray
from torch import Tensor, nn

from ..data.datamodule import FewShotOOD
from ..data.pixels import WHITE
from ..errors import InputError
from ..evaluation.heads import PART_PREFIXES, ZERO_SHOT, Head
from ..evaluation.results import TestTables, headline_metrics
from ..evaluation.score_names import of_any_method, reported_scores, without_memory
from ..evaluation.validation import Validation
from ..method.logits import ExtraTexts
from ..method.objectives import Objective
from ..method.prompts import PromptLearner
from ..options.trainer_checks import check_monitors, check_precision
from ..types import ClassTexts, Features, Texts
from ..utils.progress import set_process_rank
from ..utils.quiet import ignore_expected_warnings, restore_expected_warnings
from .class_features import ClassFeatures
from .divergence import DivergenceGuard
from .negatives import negatives_score
from .random_state import random_state, restore_random_state
from .record import DetectorRecord, check_identity, recorded_preprocessing
from .resuming import check_draw, start_at_next_batch, trainer_options
from .state_checks import check_memory, check_state


class DetectorModule(ClassFeatures):
    """What a detector needs to be tested and stored, independent of training; :class:`ClipOS` sets the attributes.

    Attributes:
        objective: the losses, and the texts that they need.
        prompts: the learnable prompts.
        own: the objective's own ones; None: it has none.
        trained: the learned prompts are used, not the zero-shot ones: set when a fit starts, or by a checkpoint.
        recipe: optimizer and scheduler as plain data for the checkpoint; set by the command line.
        results: test set to column to values; set by a test.
        failure: the error for non-finite scores in the last test.
        outliers: outliers of validation, (M, D); in a fit the same ones each time.
        terms: name to value of the terms of the loss in the last step of this process.
        guard: stops a training that diverges.
        shots_digest: digest of the few-shot images in the checkpoint; None: not known.
        resumed: the checkpoint's random state and record, from when it is loaded by a fit until training starts.
    """

    objective: Objective
    prompts: PromptLearner
    own: nn.Module | None
    trained: bool
    recipe: dict[str, Any]
    results: dict[str, dict[str, NDArray[np.float64]]]
    failure: InputError | None = None
    shots_digest: str | None = None
    outliers: Features
    terms: dict[str, Tensor]
    guard: DivergenceGuard
    resumed: tuple[dict[str, Any], dict[str, Any]] | None = None
    validation_outliers: Callable[[], Features]

    def setup(self, stage: str) -> None:
        """Check the data and the Trainer before anything is encoded.

        Raises:
            InputError: the data are not a :class:`FewShotOOD`, or a Trainer option does not work with this module.
        """
        ignore_expected_warnings()
        set_process_rank(self.global_rank)  # Lightning takes a left-over RANK for that of a single process
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if stage != "predict" and not isinstance(data, FewShotOOD):
            raise InputError("ClipOS takes its images from a FewShotOOD, as in trainer.fit(model, FewShotOOD(...))")
        check_precision(self.trainer.precision)
        if stage == "fit":
            check_monitors(self.trainer.callbacks, data.validate)  # type: ignore[attr-defined]

    def teardown(self, stage: str) -> None:
        """Restore the filters of warnings."""
        restore_expected_warnings()

    # ---- heads

    @property
    def learned(self) -> bool:
        """Whether the detector uses the learned prompts."""
        return self.trained and not self.single_class

    @property
    def learned_parameters(self) -> list[nn.Parameter]:
        """What learns: the contexts of the prompts, and the objective's own prompts."""
        return [*self.prompts.parameters(), *([] if self.own is None else self.own.parameters())]

    def texts_of(self, prompts: Texts, weight: float | None = None) -> tuple[Texts, ExtraTexts]:
        """The texts that images are compared with: those of the objective, and negative words.

        Args:
            prompts: output of ``prompts``.
            weight: of images in the class features; None: ``image_weight``.
        """
        frozen = self.blend(self.plain_text[:-1], weight)
        text, extra = self.objective.texts(self.blend(prompts, weight), frozen, self.own)
        return text, extra if self.negatives is None else replace(extra, negatives=self.negatives)

    def texts_at(self, weight: float | None) -> tuple[Texts, ExtraTexts]:
        """The detector's texts as it is now: before training, its class features are of the zero-shot prompts.

        Args:
            weight: of images in the class features; None: ``image_weight``.
        """
        with torch.no_grad(), self.fp32():
            has_own = type(self.objective).texts is not Objective.texts
            text, extra = self.texts_of(self.prompts() if self.learned or has_own else self.plain_text, weight)
            return (text.detach() if self.learned else self.blend(self.plain_text, weight)), extra.detach()

    @property
    def texts(self) -> tuple[Texts, ExtraTexts]:
        """The detector's texts as it is now."""
        return self.texts_at(None)

    @property
    def text(self) -> Texts:
        """The detector's class features: of the learned prompts, or of the zero-shot prompts before training."""
        return self.texts[0]

    def head(
        self, prefix: str, text: Texts, class_text: ClassTexts, scores: list[str], extra: ExtraTexts | None = None
    ) -> Head:
        """A head with these texts, and with this detector's settings of mask and scores.

        Args:
            prefix: of its columns.
            text: class features.
            class_text: the frozen ones.
            scores: names.
            extra: further texts; None: negative words alone.
        """
        options = (self.backbone.surgery, self.mask, self.scoring)
        extra = ExtraTexts(negatives=self.negatives) if extra is None else extra
        return Head(prefix, text, class_text, self.scale, scores, *options, self.memory, extra)

    @property
    def detector_head(self) -> Head:
        """The head of the detector as it is now, with the detector's score alone."""
        with torch.no_grad():
            text, extra = self.texts
            return self.head("", text, self.class_text, [self.score], extra)

    @property
    def zero_shot_scores(self) -> list[str]:
        """Scores that a test of the detector before training reports: by default all, since it has "unknown"."""
        known = True, self.keeps_memory, negatives_score(self.hparams["negatives"]), self.objective.scores
        return reported_scores(self.hparams["scores"], self.score, *known)

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

        Those without images have no scores that compare with images.
        """
        zero_shot, scores = self.plain_text, self.tested_scores
        text, extra = self.texts
        heads = [self.head("", text, self.class_text, scores, extra)]
        if self.trained:
            shared = [name for name in self.zero_shot_scores if name not in self.objective.scores]
            compared = of_any_method(without_memory(shared))
            heads.append(self.head(ZERO_SHOT, zero_shot, zero_shot[:-1], compared))
        if self.hparams["image_weight"]:
            for part, weight, names in (("text", 0.0, without_memory(scores)), ("images", 1.0, scores)):
                text, extra = self.texts_at(weight)
                frozen = self.blend(zero_shot[:-1], weight)
                heads.append(self.head(PART_PREFIXES[part], text, frozen, names, extra))
        return heads

    # ---- training

    def on_train_start(self) -> None:
        """Go on with the next batch of a checkpoint, and with its random state.

        Raises:
            InputError: the checkpoint does not fit the Trainer's options, or is broken.
        """
        super().on_train_start()
        if self.resumed is not None:
            state, record = self.resumed
            self.resumed = None
            start_at_next_batch(self.trainer, record.get("trainer", {}))
            restore_random_state(state, self.device)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Stop if the gradient is not finite.

        Raises:
            DivergenceError: it is not.
        """
        scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        self.guard.check(self.terms, self.trainer.global_step, scaled)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop if a parameter is not finite.

        Raises:
            DivergenceError: one is not.
        """
        self.guard.check_parameters(self.terms, self.trainer.global_step)

    # ---- validation

    def on_validation_start(self) -> None:
        """Start with the synthesised outliers; each process scores its shard."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:  # a fit has done this when it started
            if not self.trained:
                self.encode_shots(self.trainer.datamodule)  # type: ignore[attr-defined]
            self.outliers = self.validation_outliers()
        head = self.detector_head
        constants = (len(self.class_names), self.score, self.scale, self.scoring.temperature)
        known = head.references and head.references[0], head.extra, self.scoring.group_size
        self.validation = Validation(head.text, *constants, *known)
        self.validation.add_outliers(self.outliers[self.global_rank :: self.trainer.world_size])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Score held-out ID images."""
        features = self.backbone.encode_image(batch["image"])
        with self.fp32():
            self.validation.add_images(features.cls, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Log the metrics of held-out ID images against synthesised outliers; no test OOD set is used."""
        self.log_dict(self.validation.compute())

    # ---- test

    def on_test_start(self) -> None:
        """Encode the prompts once, and create an empty table for each test set."""
        self.failure = None
        if not self.trained:
            self.encode_shots(self.trainer.datamodule)  # type: ignore[attr-defined]
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
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            checkpoint["clipos"]["trainer"] = trainer_options(self.trainer)
            checkpoint["random_state"] = random_state(self.device)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As PyTorch's; without ``strict``, keys of the frozen backbone, which checkpoints lack, are not reported."""
        found = super().load_state_dict(state_dict, strict, assign)
        missing = [key for key in found.missing_keys if not key.startswith("backbone.")]
        return type(found)(missing, found.unexpected_keys)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that backbone, weights, class names and tensors of the checkpoint are those of this module.

        A fit or a validation of it must have its few-shot images, too.

        Raises:
            InputError: one differs, or the checkpoint was not written by clipos.
        """
        if "clipos" not in checkpoint:
            raise InputError("the checkpoint was not written by clipos: give the last.ckpt of a `clipos fit` run")
        given = checkpoint["clipos"]
        given = given | {"preprocessing": recorded_preprocessing(given, self.backbone)}
        check_identity("the checkpoint", given, asdict(self.record))
        check_memory(checkpoint["state_dict"], *self.image_text.shape)
        self.shape_memory(checkpoint["state_dict"])
        self.take_negatives(checkpoint["hyper_parameters"].get("negatives"))
        state = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        check_state(checkpoint["state_dict"], state)
        self.image_weight = checkpoint["clipos"].get("image_weight", self.image_weight)
        self.background = checkpoint.get("datamodule_hyper_parameters", {}).get("background", WHITE)
        self.trained, self.shots_digest = True, checkpoint["clipos"].get("shots")
        stage = None if self._trainer is None else self.trainer.state.fn
        if stage in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            check_draw(checkpoint, self.trainer.datamodule, training=stage == TrainerFn.FITTING)  # type: ignore[attr-defined]
        if stage == TrainerFn.FITTING and "random_state" in checkpoint:
            self.resumed = checkpoint["random_state"], checkpoint["clipos"]
