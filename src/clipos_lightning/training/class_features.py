"""ClassFeatures: the frozen class features of a detector, from text, from the few-shot images, or from both."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..data.datamodule import FewShotOOD
from ..data.pixels import WHITE
from ..data.word_lists import words_for
from ..errors import InputError
from ..evaluation.heads import Head
from ..evaluation.memory import Memory
from ..evaluation.score_names import without_memory
from ..evaluation.scores import ScoreOptions, find_score
from ..method.image_weight import rate_weight
from ..method.mask import MaskOptions
from ..method.name_checks import check_negatives
from ..method.prompts import Wordings, encode_prompts, neutral_prompts
from ..method.prototypes import blend
from ..types import ClassTexts, Features, Texts, WordTexts
from .name_notes import describe_codes
from .negatives import Negatives, mine_negatives, negatives_name, restore_negatives
from .notes import ONE_CLASS, describe_choice, describe_mined, describe_quality, describe_shots
from .shots import Shots

MEMORY = ("memory_features", "memory_regions", "memory_labels", "memory_patches")  # buffers


class ClassFeatures(LightningModule):
    """The frozen features of the classes, and of the few-shot images that scores compare with.

    Attributes:
        backbone: the frozen CLIP.
        class_names: C names.
        wordings: names and templates of each class.
        score: name of the detector's score.
        scores: names of the scores in the report.
        mask: which patches are ID-relevant.
        scoring: constants of the scores.
        scale: s of the model.
        plain_text: features of the zero-shot prompts, "unknown" last, (C + 1, D).
        image_text: mean feature of each class's few-shot images, (C, D); zeros if the images have no weight.
        image_weight: weight of ``image_text`` in the class features, in [0, 1].
        memory_features: global features of the few-shot images, (M, D); empty unless ``keeps_memory``.
        memory_regions: features of their ID-relevant regions, (M, D).
        memory_labels: their classes, (M,).
        memory_patches: patch features of images of a single class, (K, D); empty with several classes.
        negative_texts: features of words that are none of the classes, (N, D); empty until they are mined.
        notes: messages to print after training.
        background: colour behind the transparent pixels of the few-shot images.
    """

    backbone: FrozenClip
    class_names: list[str]
    wordings: Wordings
    score: str
    scores: list[str]
    mask: MaskOptions
    scoring: ScoreOptions
    scale: float
    background: str = WHITE
    plain_text: Tensor
    image_text: Tensor
    image_weight: float
    memory_features: Tensor
    memory_regions: Tensor
    memory_labels: Tensor
    memory_patches: Tensor
    negative_texts: Tensor
    notes: list[str]

    def fp32(self) -> torch.autocast:
        """A context that disables mixed precision: only the two encoders run in the precision of the Trainer."""
        return torch.autocast(self.device.type, enabled=False)

    def encoder_precision(self) -> AbstractContextManager[Any]:
        """A context with the precision of the Trainer, for encoding outside its steps."""
        return nullcontext() if self._trainer is None else self.trainer.precision_plugin.forward_context()

    @property
    def single_class(self) -> bool:
        """Whether there is one class only: then nothing is learned, and its prompt stays the template's."""
        return len(self.class_names) == 1

    def register_class_features(
        self, unknown: str | list[str] | None, with_images: bool, negatives: Negatives | None, template: str | list[str]
    ) -> None:
        """Encode the zero-shot prompts, and make empty buffers for what comes from the few-shot images.

        Args:
            unknown: the prompts for "none of the classes", as :func:`~.prompts.neutral_prompts` takes them.
            with_images: whether the class features may contain the images' means, which the checkpoint then holds.
            negatives: words that are none of the classes; mined ones are encoded when they are first needed.
            template: of the prompts of a user's words, as for the classes.

        Raises:
            InputError: a user's word is that of a class, or no word to CLIP.
        """
        neutral = neutral_prompts(unknown, len(self.class_names))
        text = encode_prompts(self.backbone, [*self.wordings.prompts, neutral])
        self.register_buffer("plain_text", text, persistent=False)
        self.register_buffer("image_text", torch.zeros_like(text[:-1]), persistent=with_images)
        words = text[:0]
        if isinstance(negatives, list):
            check_negatives(
                self.backbone.tokenize, [name for names in self.wordings.names for name in names], negatives
            )
            words = encode_prompts(self.backbone, Wordings.of(negatives, None, template).prompts)
        self.register_buffer("negative_texts", words, persistent=False)
        for name in MEMORY:
            empty = torch.empty(0, dtype=torch.long) if name == "memory_labels" else torch.empty_like(text[:0])
            self.register_buffer(name, empty, persistent=False)

    # ---- negative words

    @property
    def negatives(self) -> WordTexts | None:
        """Features of words that are none of the classes, (N, D), mined where they are first needed; None: no words."""
        given = self.hparams["negatives"]
        with torch.inference_mode(False):  # they may be needed in training, too
            if isinstance(given, str):
                self.hparams["negatives"], self.negative_texts = mine_negatives(
                    self.backbone, self.wordings.names, given
                )
            elif isinstance(given, dict) and not len(self.negative_texts):
                self.negative_texts = restore_negatives(self.backbone, given)
        return None if given is None else self.negative_texts

    def take_negatives(self, recorded: Negatives | None) -> None:
        """Take the mined words of a checkpoint, if it has some, in place of those that would be mined here."""
        given = self.hparams["negatives"]
        if negatives_name(given) != negatives_name(recorded):
            raise InputError("the checkpoint was trained with other --model.negatives: give the same, or train again")
        if isinstance(recorded, dict) and recorded != given:
            self.hparams["negatives"], self.negative_texts = recorded, self.negative_texts[:0]

    def describe_negatives(self) -> list[str]:
        """A line about mined words; mines them if they are not yet."""
        given = self.hparams["negatives"] if self.negatives is not None else None
        return [describe_mined(given, len(words_for(self.backbone.name)))] if isinstance(given, dict) else []

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

    # ---- what comes from the few-shot images

    def encode_shots(self, data: FewShotOOD) -> None:
        """Set what the detector keeps of the few-shot images: background, ``image_text``, image weight and memory.

        Args:
            data: the DataModule.

        Raises:
            InputError: the few-shot images are missing.
        """
        self.background = data.decoding.background
        if not self.keeps_memory:
            return
        data.setup("fit")  # unlike the set-up of a test, it raises if few-shot images are missing
        shots = Shots(self.backbone, data)
        with self.encoder_precision():
            if self.hparams["image_weight"]:
                self.image_text.copy_(shots.means(len(self.class_names)))
            if self.hparams["image_weight"] == "auto":
                self.choose_image_weight(shots)
            with self.fp32():
                text = self.class_text
            head = Head("", text, text, self.scale, [], self.backbone.surgery, self.mask, self.scoring)
            for name, tensor in shots.memory(head).tensors.items():
                self.register_buffer(f"memory_{name}", tensor)

    def choose_image_weight(self, shots: Shots) -> None:
        """Choose the image weight on views of the few-shot images; 1 for a single class, which has no alternative."""
        if self.single_class:
            self.image_weight = 1.0
            return
        chosen = shots.image_weight(self.plain_text[:-1], self.scale)
        weight = chosen.weight
        self.image_weight = weight if self._trainer is None else self.trainer.strategy.broadcast(weight)
        self.notes += describe_choice(chosen, shots.image_labels)

    def note_shots(self, data: FewShotOOD, features: Features | None) -> None:
        """Add notes on what is learned from, and on what the class features before training are worth there.

        Args:
            data: the DataModule, with the few-shot images.
            features: global features of the few-shot images, (N, D); None: not at hand.
        """
        labels = data.shot_labels[: len(data.shot_positions)]
        codes = describe_codes(self.class_names, data.id_set.class_keys)
        self.notes[:0] = [describe_shots(self.wordings.prompts, labels), *codes, *self.describe_negatives()]
        if self.single_class:
            self.notes += ONE_CLASS
        elif self.hparams["image_weight"] != "auto" and features is not None:
            with self.fp32():
                given = (labels.to(features.device), self.plain_text[:-1], self.scale, self.image_weight)
                self.notes += describe_quality(rate_weight(features, *given), self.image_weight)

    def on_train_start(self) -> None:
        """With a single class there is nothing to contrast its prompt with: the prompts stay as they are."""
        if self.single_class:
            self.trainer.should_stop = True

    # ---- memory

    @property
    def keeps_memory(self) -> bool:
        """Whether the detector keeps the features of the few-shot images: with an image weight, or for a score."""
        return bool(self.hparams["image_weight"]) or any(find_score(name).memory for name in self.scores)

    @property
    def memory(self) -> Memory | None:
        """The features of the few-shot images; None if it keeps none."""
        if not len(self.memory_features):
            return None
        return Memory(self.memory_features, self.memory_regions, self.memory_labels, self.memory_patches)

    def shape_memory(self, state: Mapping[str, Any]) -> None:
        """Give the memory the size that it has in a checkpoint; without one, drop the scores that need it.

        Raises:
            InputError: the detector's score needs a memory, and the checkpoint has none.
        """
        for name in MEMORY:
            kept = state.get(name, getattr(self, name)[:0])
            self.register_buffer(name, torch.empty_like(kept, device=self.device), persistent=name in state)
        resumed = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING  # makes its memory again
        if MEMORY[0] not in state and not resumed:
            if find_score(self.score).memory:
                raise InputError(f"--model.score {self.score} needs the few-shot images' features: train again with it")
            self.scores = without_memory(self.scores)
