"""Detector: class, score and decision for new images, from a frozen backbone, a head and a threshold."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..clip.loading import load_backbone
from ..clip.surgery import SurgeryOptions
from ..data.class_prompts import Wording, as_wording
from ..data.decoding import Decoding
from ..data.pixels import WHITE
from ..data.transforms import to_model_size
from ..errors import InputError
from ..evaluation.heads import Head
from ..options.class_paths import refuse_imports
from ..training.record import DetectorRecord, check_identity, recorded_preprocessing
from ..types import ClassMaps, ImageFeatures, Images, PathName, concatenate
from .decisions import Decision, Prediction, unknown_label
from .extension import Prompting, extend_head, extend_wordings, new_rows
from .file import ATTRIBUTES, as_head, head_tensors, is_checkpoint, name_file, read_detector, write_detector
from .hub import DETECTOR_FILE, SHOTS_FILE, fetch_detector, is_on_hub, push_folder
from .image_inputs import ImageInput, as_list, is_single_input, open_images
from .model_card import model_card

if TYPE_CHECKING:
    from ..training.module import ClipOS

BATCH = 128  # images per forward pass


@dataclass(repr=False)
class Detector:
    """A detector for new images: call it with images to get a :class:`Decision` for each.

    Attributes:
        backbone: the frozen CLIP.
        head: class features, and the settings of mask and score; ``head.scores`` has the detector's score only.
        class_names: C names.
        threshold: images are accepted if their score is at least this; None: not calibrated, all are accepted.
        class_thresholds: a threshold for each predicted class in its place, (C); None: the same for all classes.
        temperature: T of the probabilities softmax(l / T).
        calibration: how threshold and temperature were set, as plain data; empty: not calibrated.
        pretrained: tag or file of the backbone's weights; None: the default of the backbone.
        class_wordings: names and templates of each class; None: one name each.
        prompting: what :meth:`add_class` needs; None: a file of version 0.1.0, which cannot be extended.
        background: colour behind transparent pixels, as in training.

    Example:
        >>> from clipos_lightning import ClipOS, ContextOptions, Detector
        >>> words = ContextOptions(words="a photo of a")
        >>> model = ClipOS(["red", "green"], backbone="MicroCLIP", score="energy", context=words)
        >>> detector = Detector.of(model)  # not trained; after training: Detector.load("detector.safetensors")
        >>> green, white = Image.new("RGB", (32, 32), "green"), Image.new("RGB", (32, 32), "white")
        >>> detector(green).label
        'green'
        >>> detector.threshold = 8.0
        >>> [decision.label for decision in detector([green, white])]
        ['green', 'unknown']
    """

    backbone: FrozenClip
    head: Head
    class_names: list[str]
    threshold: float | None = None
    class_thresholds: list[float] | None = None
    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    class_wordings: list[dict[str, list[str]]] | None = None
    prompting: Prompting | None = None
    background: str = WHITE

    def __post_init__(self) -> None:
        """Check that the head has what its score needs.

        Raises:
            InputError: the score compares with something that the head does not have.
        """
        self.head.check()

    # ---- from a module or a file, and to a file

    @classmethod
    def of(cls, module: "ClipOS") -> "Detector":
        """The detector of a module as it is now: with the learned prompts, or with zero-shot ones before training.

        Raises:
            InputError: its score compares with the few-shot images, and it is not trained.
        """
        record, options = module.record, module.hparams
        learned = module.prompts.context if module.learned else None
        context = None if learned is None else learned.detach()
        head, prompting = module.detector_head, None
        if head.extra.further is None and not options["context"]["class_specific"]:
            prompting = Prompting(module.image_weight, options["template"], options["unknown_word"], context)
        detector = cls(module.backbone, head, record.class_names, pretrained=record.pretrained)
        wordings, background = record.class_wordings, module.background
        return replace(detector, class_wordings=wordings, prompting=prompting, background=background)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", pretrained: str | None = None, trust: bool = False
    ) -> "Detector":
        """Load a detector from ``detector.safetensors``, or an uncalibrated one from the ``last.ckpt`` of a fit.

        Args:
            path: the file; a name that does not end in ``.safetensors`` is a checkpoint. Or ``hf:owner/name``, or
                ``hf:owner/name@revision``, for one on the Hugging Face hub.
            device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` (the GPU if there is one).
            pretrained: tag or file of the backbone's weights, if they were moved; they must be the same weights.
            trust: import a user-defined score or objective that the file names; this runs code.

        Raises:
            InputError: no such file, not a detector, weights that are missing or not those of training, no such device,
                or a user-defined score or objective without ``trust``.
        """
        path = fetch_detector(str(path)) if is_on_hub(path) else path
        with name_file(path):
            detector = (cls.from_checkpoint if is_checkpoint(path) else cls.from_file)(path, pretrained, trust)
        return detector.to(device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, pretrained: str | None = None, trust: bool = False) -> "Detector":
        """Load an uncalibrated detector from a checkpoint, on the CPU; arguments as for :meth:`load`."""
        from ..training.checkpoint import read_checkpoint  # imports Lightning, which a detector's file does not need
        from ..training.module import ClipOS

        checkpoint = read_checkpoint(str(path))
        options = checkpoint["hyper_parameters"]
        objective = options["objective"]
        name = objective.get("class_path") if isinstance(objective, dict) else objective
        if not trust:
            refuse_imports(path, [name, options["score"], *(options["scores"] or [])])
        module = ClipOS(**{**options, "pretrained": pretrained or options["pretrained"], "compile": False})
        module.backbone.preprocess_as(recorded_preprocessing(checkpoint["clipos"], module.backbone), str(path))
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)
        return cls.of(module)

    @classmethod
    def from_file(cls, path: str | Path, pretrained: str | None = None, trust: bool = False) -> "Detector":
        """Load a detector from its safetensors file, on the CPU; arguments as for :meth:`load`."""
        tensors, record = read_detector(path)
        if not trust:
            refuse_imports(path, [record["score"]])
        Decoding(record.get("background", WHITE)).check()
        weights, surgery = pretrained or record["pretrained"], SurgeryOptions(**record["surgery"])
        backbone = load_backbone(record["backbone"], weights, surgery, record["image_size"])
        backbone.preprocess_as(recorded_preprocessing(record, backbone), str(path))
        check_identity(str(path), record, {key: getattr(backbone, key) for key in ("fingerprint", "activation")})
        head = as_head(tensors, record, float(backbone.scale))
        attributes = {key: record[key] for key in ATTRIBUTES if key in record}
        prompting = Prompting.of(record.get("prompting"), tensors.get("context"))
        detector = cls(backbone, head, record["class_names"], **attributes, pretrained=weights)
        return replace(detector, class_wordings=record.get("class_wordings"), prompting=prompting)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the detector to a safetensors file; of the backbone only name and fingerprint are stored.

        Args:
            path: of the file, by convention ``detector.safetensors``.
            overwrite: replace an existing file.

        Raises:
            InputError: the file exists and ``overwrite`` is not set, or its folder does not exist.
        """
        attributes = {key: getattr(self, key) for key in ATTRIBUTES}
        record, tensors = asdict(self.record) | attributes, head_tensors(self.head)
        if self.prompting is not None:
            record["prompting"] = self.prompting.plain
            tensors |= {} if self.prompting.context is None else {"context": self.prompting.context}
        write_detector(path, tensors, record, overwrite)

    def push_to_hub(
        self,
        repo: str,
        shots: str | Path | None = None,
        private: bool = False,
        token: str | None = None,
        revision: str | None = None,
    ) -> str:
        """Upload the detector to the Hugging Face hub, with a model card; :meth:`load` reads it from there.

        A repository that does not exist is created; its card is written once, and stays as its owner changes it.

        Args:
            repo: ``owner/name``.
            shots: the run's ``shots.json``, to upload too: names of the few-shot images, not the images.
            private: whether a new repository is private.
            token: of the hub; None: that of ``hf auth login``, or ``$HF_TOKEN``.
            revision: an existing branch; None: the main one.

        Returns:
            ``hf:owner/name@commit``, the name of exactly this detector.

        Raises:
            InputError: a wrong name, no such file, the hub cannot be reached, or refuses.
        """
        if shots is not None and not Path(shots).is_file():
            raise InputError(f"no file {shots}: give the shots.json of the run, or leave it out")
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            self.save(folder / DETECTOR_FILE)
            if shots is not None:
                shutil.copyfile(shots, folder / SHOTS_FILE)
            card = model_card(read_detector(folder / DETECTOR_FILE)[1], repo)
            return push_folder(repo, folder, card, private, token, revision)

    def to(self, device: str | torch.device) -> "Detector":
        """Move this detector to a device, and return it; ``auto``: the GPU if there is one.

        Raises:
            InputError: no such device.
        """
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.backbone.to(auto if device == "auto" else device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}; take cpu or auto"
            ) from error
        self.head = self.head.to(self.backbone.device)
        return self

    @torch.inference_mode()
    def add_class(self, name: str | Wording, images: Iterable[ImageInput]) -> "Detector":
        """A new detector with one more class, without a threshold; the images of the other classes are not needed.

        The new class gets the learned context, the image weight and the memory of the others; the temperature stays.

        Args:
            name: of the class, or its ``names`` and ``templates``.
            images: of the class, as for calling the detector; at least one.

        Raises:
            InputError: the detector's file is of version 0.1.0, the class exists or has no name, or an image is missing
                or cannot be read.
        """
        files = as_list(images)
        if not files:
            raise InputError("a new class needs at least one image")
        if self.score in ("neg_label", "csp"):
            raise InputError("the negative words of this detector were chosen without the class: fit again with it")
        pixels = self.prepare(files).to(self.backbone.device)
        paths = self.head.memory_paths if self.head.memory is not None else frozenset[PathName]()
        features = concatenate([self.backbone.encode_image(batch, paths) for batch in pixels.split(BATCH)])
        wording = as_wording(name, "the new class")
        text, class_text = new_rows(
            self.backbone, self.prompting, [name for group in self.names for name in group], wording, features.cls
        )
        return replace(
            self,
            head=extend_head(self.head, text, class_text, features),
            class_names=[*self.class_names, wording["names"][0]],
            class_wordings=extend_wordings(self.class_names, self.class_wordings, wording),
            threshold=None,
            class_thresholds=None,
            calibration={key: value for key, value in self.calibration.items() if key == "temperature"},
        )

    # ---- prediction

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + (", …" if len(self.class_names) > 5 else "")
        threshold = "none, every image gets a class" if self.threshold is None else f"{self.threshold:.6g}"
        threshold = threshold if self.class_thresholds is None else "one for each class"
        lines = (
            f"backbone: {self.backbone.name}, {self.backbone.image_size} px, on {self.backbone.device}",
            f"{len(self.class_names)} classes: {names}",
            f"score: {self.score}; threshold: {threshold}; temperature: {self.temperature:.4g}",
        )
        return "\n  ".join(("Detector(", *lines)) + "\n)"

    @property
    def record(self) -> DetectorRecord:
        """Backbone, weights, classes and options of this detector."""
        options = (self.head.surgery, self.head.mask, self.head.scoring)
        given = (self.class_names, self.pretrained, self.class_wordings)
        return DetectorRecord.of(self.backbone, self.score, options, *given)

    @property
    def score(self) -> str:
        """Name of the detector's score."""
        return self.head.scores[0]

    @property
    def names(self) -> list[list[str]]:
        """All names of each class in the prompts; the first one is in ``class_names``."""
        wordings = self.class_wordings or [{"names": [name]} for name in self.class_names]
        return [wording["names"] for wording in wordings]

    @torch.inference_mode()
    def predict(self, images: Images) -> Prediction:
        """Classes, probabilities and scores of uint8 images of the model's size, (B, 3, S, S)."""
        return self.predict_features(self.backbone.encode_image(images.to(self.backbone.device), self.head.paths))

    def predict_features(self, features: ImageFeatures) -> Prediction:
        """Classes, probabilities and scores of features that have the paths ``head.paths``."""
        scores, cosine = self.head.score(features)
        probabilities = (self.head.scale * cosine / self.temperature).softmax(1)
        best = probabilities.max(1)
        return Prediction(best.indices, best.values, scores[self.score], probabilities)

    @torch.inference_mode()
    def maps(self, images: Images, label: int | None = None) -> tuple[Prediction, ClassMaps]:
        """As :meth:`predict`, and the maps S, S_clip and mask of a class, from the same forward pass.

        Args:
            images: uint8, of the model's size, (B, 3, S, S).
            label: index of the class of the maps; None: each image's predicted class.
        """
        features = self.backbone.encode_image(images.to(self.backbone.device), self.head.map_paths)
        prediction = self.predict_features(features)
        labels = prediction.predicted if label is None else torch.full_like(prediction.predicted, label)
        return prediction, self.head.maps(features, labels)

    def decide(self, prediction: Prediction) -> list[Decision]:
        """Convert the results of a batch to decisions."""
        columns = (prediction.predicted, prediction.probability, prediction.score)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [self.decision(label, probability, score) for label, probability, score in rows]

    def decision(self, predicted: int, probability: float, score: float) -> Decision:
        """Apply the threshold to the score of an image: the label is the class, or ``unknown`` below the threshold."""
        class_name, threshold = self.class_names[predicted], self.threshold_of(predicted)
        accepted = threshold is None or score >= threshold
        return Decision(
            class_name if accepted else unknown_label(self.class_names), class_name, probability, score, threshold
        )

    def threshold_of(self, predicted: int) -> float | None:
        """The threshold for images of a predicted class; None: not calibrated."""
        return self.threshold if self.class_thresholds is None else self.class_thresholds[predicted]

    def prepare(self, images: ImageInput | Iterable[ImageInput]) -> Images:
        """Resize and crop or pad images of any size to the model's size, uint8, (B, 3, S, S).

        Raises:
            InputError: an image cannot be read, or a tensor or array is not an image.
        """
        opened = (image for item in as_list(images) for image in open_images(item, Decoding(self.background)))
        return torch.stack([to_model_size(image, self.backbone.preprocessing) for image in opened])

    @overload
    def __call__(self, images: Image.Image | str | Path | NDArray[np.uint8]) -> Decision: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Iterable[ImageInput]) -> list[Decision]: ...
    @overload
    def __call__(self, images: Tensor) -> Decision | list[Decision]: ...
    def __call__(self, images: ImageInput | Iterable[ImageInput]) -> Decision | list[Decision]:
        """Decide for one or several images of any size.

        Args:
            images: a PIL image, a path, a uint8 RGB array (H, W, 3), a uint8 tensor (3, H, W) or (B, 3, H, W), or an
                iterable of these.

        Returns:
            A decision for a single image, else a list of decisions.

        Raises:
            InputError: an image cannot be read, or a tensor or array is not an image.
        """
        items = as_list(images)
        decisions: list[Decision] = []
        for start in range(0, len(items), BATCH):
            pixels = self.prepare(items[start : start + BATCH])
            for batch in pixels.split(BATCH):
                decisions += self.decide(self.predict(batch))
        single = is_single_input(images) and not (isinstance(images, Tensor) and images.ndim == 4)
        return decisions[0] if single else decisions
