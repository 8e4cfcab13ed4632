"""Detector: class, score and decision for new images, from a frozen backbone, a head and a threshold."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..clip.backbone import FrozenClip
from ..clip.loading import load_backbone
from ..clip.surgery import SurgeryOptions
from ..data.image_sets import open_image
from ..data.transforms import to_model_size
from ..errors import InputError
from ..evaluation.heads import Head
from ..evaluation.scores import ScoreOptions, find_score
from ..method.mask import MaskOptions
from ..training.checkpoint import known_options, read_checkpoint, refuse_imports
from ..training.record import DetectorRecord, check_identity
from ..types import ClassMaps, ImageFeatures, Images, Labels
from .file import CALIBRATION, read_detector, write_detector

if TYPE_CHECKING:
    from ..training.module import ClipOS

UNKNOWN = "unknown"  # label of an image whose score is below the threshold
BATCH = 128  # images per forward pass

ImageInput = Image.Image | str | Path | Tensor | NDArray[np.uint8]


@dataclass(frozen=True)
class Decision:
    """A detector's result for one image.

    Attributes:
        label: ``class_name``, or ``unknown`` if the score is below the threshold.
        class_name: the most probable of the C classes, independent of the threshold.
        probability: probability of that class over the C classes, softmax(l / T) with the calibrated temperature T.
        score: the detector's score; higher = more in-distribution.
        threshold: images are accepted if their score is at least this; None: not calibrated, all are accepted.

    Example:
        >>> from clipos_lightning import Decision
        >>> decision = Decision(label="unknown", class_name="cat", probability=0.62, score=11.5, threshold=14.0)
        >>> decision.score < decision.threshold
        True
    """

    label: str
    class_name: str
    probability: float
    score: float
    threshold: float | None


@dataclass
class Prediction:
    """A detector's results for a batch of images, as tensors.

    Attributes:
        predicted: index of the most probable class, (B,).
        probability: probability of that class, (B,).
        score: the detector's score, (B,).
        probabilities: softmax(l / T) over the C classes, (B, C).
    """

    predicted: Labels
    probability: Float[Tensor, " batch"]
    score: Float[Tensor, " batch"]
    probabilities: Float[Tensor, "batch classes"]


@dataclass(repr=False)
class Detector:
    """A detector for new images: call it with images to get a :class:`Decision` for each.

    Attributes:
        backbone: the frozen CLIP.
        head: class features, and the settings of mask and score; ``head.scores`` has the detector's score only.
        class_names: C names.
        threshold: images are accepted if their score is at least this; None: not calibrated, all are accepted.
        temperature: T of the probabilities softmax(l / T).
        calibration: how threshold and temperature were set, as plain data; empty: not calibrated.
        pretrained: tag or file of the backbone's weights; None: the default of the backbone.
        class_wordings: names and templates of each class; None: one name each.

    Example:
        >>> from clipos_lightning import ClipOS, ContextOptions, Detector
        >>> words = ContextOptions(words="a photo of a")
        >>> model = ClipOS(["red", "green"], backbone="MicroCLIP", score="energy", context=words)
        >>> detector = Detector.of(model)  # not trained; after training: Detector.load("detector.safetensors")
        >>> green, white = Image.new("RGB", (32, 32), "green"), Image.new("RGB", (32, 32), "white")
        >>> detector(green).label
        'green'
        >>> detector.threshold = 10.0
        >>> [decision.label for decision in detector([green, white])]
        ['green', 'unknown']
    """

    backbone: FrozenClip
    head: Head
    class_names: list[str]
    threshold: float | None = None
    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    class_wordings: list[dict[str, list[str]]] | None = None

    # ---- from a module or a file, and to a file

    @classmethod
    def of(cls, module: "ClipOS") -> "Detector":
        """The detector of a module as it is now: with the learned prompts, or with zero-shot ones before training."""
        record = module.record
        head, names = module.detector_head, record.class_names
        return cls(module.backbone, head, names, pretrained=record.pretrained, class_wordings=record.class_wordings)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", pretrained: str | None = None, trust: bool = False
    ) -> "Detector":
        """Load a detector from ``detector.safetensors``, or an uncalibrated one from the ``last.ckpt`` of a fit.

        Args:
            path: the file; a name that does not end in ``.safetensors`` is a checkpoint.
            device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto`` (the GPU if there is one).
            pretrained: tag or file of the backbone's weights, if they were moved; they must be the same weights.
            trust: import a user-defined score or objective that the file names; this runs code.

        Raises:
            InputError: no such file, not a detector, other weights than in training, no such device, or a user-defined
                score or objective without ``trust``.
        """
        read = cls.from_checkpoint if is_checkpoint(path) else cls.from_file
        return read(path, pretrained, trust).to(device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, pretrained: str | None = None, trust: bool = False) -> "Detector":
        """Load an uncalibrated detector from a checkpoint, on the CPU; arguments as for :meth:`load`."""
        from ..training.module import ClipOS  # imports Lightning, which a detector's file does not need

        checkpoint = read_checkpoint(str(path))
        options = checkpoint["hyper_parameters"]
        objective = options["objective"]
        name = objective.get("class_path") if isinstance(objective, dict) else objective
        if not trust:
            refuse_imports(path, [name, options["score"], *(options["scores"] or [])])
        with known_options(path):
            module = ClipOS(**{**options, "pretrained": pretrained or options["pretrained"], "compile": False})
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)
        return cls.of(module)

    @classmethod
    def from_file(cls, path: str | Path, pretrained: str | None = None, trust: bool = False) -> "Detector":
        """Load a detector from its safetensors file, on the CPU; arguments as for :meth:`load`."""
        tensors, record = read_detector(path)
        if not trust:
            refuse_imports(path, [record["score"]])
        with known_options(path):
            surgery, mask = SurgeryOptions(**record["surgery"]), MaskOptions(**record["mask"])
            scoring = ScoreOptions(**record["scoring"])
            find_score(record["score"])
        weights = pretrained or record["pretrained"]
        backbone = load_backbone(record["backbone"], weights, surgery, record["image_size"])
        check_identity(str(path), record, {key: getattr(backbone, key) for key in ("fingerprint", "activation")})
        scale, scores = float(backbone.scale), [record["score"]]
        head = Head("", **tensors, scale=scale, scores=scores, surgery=surgery, mask=mask, scoring=scoring)
        calibrated = {key: record[key] for key in CALIBRATION}
        names, wordings = record["class_names"], record.get("class_wordings")
        return cls(backbone, head, names, **calibrated, pretrained=weights, class_wordings=wordings)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the detector to a safetensors file; of the backbone only name and fingerprint are stored.

        Args:
            path: of the file, by convention ``detector.safetensors``.
            overwrite: replace an existing file.

        Raises:
            InputError: the file exists and ``overwrite`` is not set, or its folder does not exist.
        """
        calibrated = {key: getattr(self, key) for key in CALIBRATION}
        tensors = {"text": self.head.text, "class_text": self.head.class_text}
        write_detector(path, tensors, asdict(self.record) | calibrated, overwrite)

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

    # ---- prediction

    def __repr__(self) -> str:
        names = ", ".join(self.class_names[:5]) + (", …" if len(self.class_names) > 5 else "")
        threshold = "none, every image gets a class" if self.threshold is None else f"{self.threshold:.6g}"
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
        return [self.decision(self.class_names[c], probability, score) for c, probability, score in rows]

    def decision(self, class_name: str, probability: float, score: float) -> Decision:
        """Apply the threshold to a score: the label is the class, or ``unknown`` below the threshold."""
        accepted = self.threshold is None or score >= self.threshold
        return Decision(class_name if accepted else UNKNOWN, class_name, probability, score, self.threshold)

    def prepare(self, images: ImageInput | Iterable[ImageInput]) -> Images:
        """Resize and crop images of any size to the model's size, uint8, (B, 3, S, S).

        Raises:
            InputError: an image cannot be read, or a tensor or array is not an image.
        """
        size = self.backbone.image_size
        return torch.stack([to_model_size(image, size) for item in as_list(images) for image in open_images(item)])

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
        batch_of_images = isinstance(images, Tensor) and images.ndim == 4
        single = is_single_input(images) and not batch_of_images
        return decisions[0] if single else decisions


def as_list(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """A list of image inputs; a single input, which may be a batch as a tensor, becomes a list of one."""
    return [images] if is_single_input(images) else list(images)  # type: ignore[list-item, arg-type]


def is_single_input(images: ImageInput | Iterable[ImageInput]) -> bool:
    """Whether this is one input, not an iterable of inputs; an array of numbers is an image, one of paths is not."""
    if isinstance(images, np.ndarray):
        return images.dtype.kind not in "OSU"
    return isinstance(images, Image.Image | str | Path | Tensor)


def open_images(image: ImageInput) -> Iterator[Image.Image]:
    """Yield the image of a path, an array or a tensor, or each image of a batch.

    Raises:
        InputError: the image cannot be read, or the input is not an image.
    """
    if isinstance(image, str | Path):
        yield open_image(Path(image))
    elif isinstance(image, Image.Image):
        yield image
    elif isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            given = f"{image.dtype} of shape {image.shape}"
            raise InputError(f"an image as an array is uint8 RGB, (H, W, 3), not {given}; give several as a list")
        yield Image.fromarray(image)
    elif not isinstance(image, Tensor):
        raise InputError(
            f"an image is given as a PIL image, a path, a uint8 array or a uint8 tensor, not a {type(image).__name__}"
        )
    elif image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape[-2:]:
        given = f"{image.dtype} of shape {tuple(image.shape)}"
        raise InputError(f"an image as a tensor is uint8, (3, H, W) or (B, 3, H, W), not {given}")
    else:
        for pixels in image[None] if image.ndim == 3 else image:
            yield Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a checkpoint and not a detector's file, by the suffix of its name."""
    return Path(path).suffix != ".safetensors"
