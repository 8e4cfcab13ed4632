"""Detector: decides for one's own images. A frozen backbone, a head, a threshold; loaded from one small file."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
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
from ..types import ClassMaps, ImageFeatures, Images
from .file import read_artefact, write_artefact

if TYPE_CHECKING:
    from ..training.module import ClipOS

UNKNOWN = "unknown"  # the decision below the threshold
BATCH = 128

ImageInput = Image.Image | str | Path | Tensor


@dataclass(frozen=True)
class Decision:
    """What a detector says of one image.

    Attributes:
        label: the class, or ``unknown`` where the score lies below the threshold; the class where there is none.
        class_name: the most probable class, whatever the score.
        probability: of that class over the C classes, softmax(l / T), T the calibrated temperature.
        score: the detector's; higher = more in-distribution.
        threshold: None: not calibrated.
    """

    label: str
    class_name: str
    probability: float
    score: float
    threshold: float | None


@dataclass
class Prediction:
    """What a detector says of a batch: ``predicted`` class indices, their ``probability``, ``score``; each (B,).

    ``shares`` are all classes' probabilities, (B, C).
    """

    predicted: Tensor
    probability: Tensor
    score: Tensor
    shares: Tensor


@dataclass
class Detector:
    """A frozen backbone, a head with one score, the class names, and what calibration found.

    Attributes:
        backbone: the frozen CLIP.
        head: prompts, and the constants of mask and score; ``head.scores`` holds the detector's score alone.
        class_names: C names.
        threshold: an image is one of the classes where its score is at least this; None: not calibrated.
        temperature: T of the probabilities.
        calibration: how threshold and temperature were found, as plain data; empty: not calibrated.
        pretrained: the backbone's weights, a tag or a file; None: its own.
        class_wordings: names and templates of each class where they were given; None: one name each.

    Example:
        >>> from clipos_lightning import ClipOS, ContextOptions
        >>> from clipos_lightning.data.scenes import ID_SHAPES, render
        >>> words = ContextOptions(words="a photo of a")
        >>> model = ClipOS(list(ID_SHAPES), backbone="MicroCLIP", score="energy", context=words)
        >>> detector = Detector.of(model)  # untrained; a trained one: Detector.load("detector.safetensors")
        >>> star, noise = (Image.fromarray(render(kind, "tune", 0, 3).image) for kind in ("id", "noise"))
        >>> detector(star).label, [found.label for found in detector([star, noise])]  # without a threshold
        ('star', ['star', 'key'])
        >>> detector.threshold = 14.0
        >>> [found.label for found in detector([star, noise])]
        ['star', 'unknown']
    """

    backbone: FrozenClip
    head: Head
    class_names: list[str]
    threshold: float | None = None
    temperature: float = 1.0
    calibration: dict[str, Any] = field(default_factory=dict)
    pretrained: str | None = None
    class_wordings: list[dict[str, list[str]]] | None = None

    # ---- from and to files

    @classmethod
    def of(cls, module: "ClipOS") -> "Detector":
        """The detector that a module is at this moment: the learned prompts, or the zero-shot ones before training."""
        record = module.record
        head, names = module.detector_head, record.class_names
        return cls(module.backbone, head, names, pretrained=record.pretrained, class_wordings=record.class_wordings)

    @classmethod
    def load(
        cls, path: str | Path, device: str = "auto", pretrained: str | None = None, trust: bool = False
    ) -> "Detector":
        """A detector from ``detector.safetensors``, or uncalibrated from the ``last.ckpt`` of a fit.

        Args:
            path: the file.
            device: ``cpu``, ``cuda``, ``cuda:1``, or ``auto``.
            pretrained: the backbone's weights, where they are not where they were (the same: the fingerprint counts).
            trust: import the score or objective that the file names by its dotted path.

        Raises:
            InputError: no such file, not a detector, other weights than it was made with, no such device, or code to
                import without ``trust``.
        """
        read = cls.from_checkpoint if is_checkpoint(path) else cls.from_artefact
        return read(path, pretrained, trust).to(device)

    @classmethod
    def from_checkpoint(cls, path: str | Path, pretrained: str | None = None, trust: bool = False) -> "Detector":
        """As :meth:`load`, from a checkpoint, on the CPU."""
        from ..training.module import ClipOS  # imports Lightning, which a detector's file does not need

        checkpoint = read_checkpoint(str(path))
        options = checkpoint["hyper_parameters"]
        objective = options["objective"]
        named = objective.get("class_path") if isinstance(objective, dict) else objective
        if not trust:
            refuse_imports(path, [named, options["score"], *(options["scores"] or [])])
        with known_options(path):
            module = ClipOS(**{**options, "pretrained": pretrained or options["pretrained"], "compile": False})
        module.on_load_checkpoint(checkpoint)
        module.load_state_dict(checkpoint["state_dict"], strict=False)
        return cls.of(module)

    @classmethod
    def from_artefact(cls, path: str | Path, pretrained: str | None = None, trust: bool = False) -> "Detector":
        """As :meth:`load`, from a safetensors file, on the CPU."""
        tensors, record = read_artefact(path)
        if not trust:
            refuse_imports(path, [record["score"]])
        with known_options(path):
            surgery, mask = SurgeryOptions(**record["surgery"]), MaskOptions(**record["mask"])
            scoring = ScoreOptions(**record["scoring"])
            find_score(record["score"])
        weights = pretrained or record["pretrained"]
        backbone = load_backbone(record["backbone"], weights, surgery, record["image_size"])
        check_identity(str(path), record, {key: getattr(backbone, key) for key in ("fingerprint", "activation")})
        head = Head("", **tensors, scale=float(backbone.scale), scores=[record["score"]], surgery=surgery,
                    mask=mask, scoring=scoring)  # fmt: skip
        calibrated = {key: record[key] for key in ("threshold", "temperature", "calibration")}
        names, wordings = record["class_names"], record.get("class_wordings")
        return cls(backbone, head, names, **calibrated, pretrained=weights, class_wordings=wordings)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write ``detector.safetensors``: prompts, options, calibration; the backbone by name and fingerprint.

        Raises:
            InputError: the file exists and ``overwrite`` is not set, or its folder does not exist.
        """
        calibrated = {"threshold": self.threshold, "temperature": self.temperature, "calibration": self.calibration}
        tensors = {"text": self.head.text, "class_text": self.head.class_text}
        write_artefact(path, tensors, asdict(self.record) | calibrated, overwrite)

    def to(self, device: str | torch.device) -> "Detector":
        """This detector, moved to a device; ``auto``: the GPU where there is one.

        Raises:
            InputError: no such device.
        """
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.backbone.to(auto if device == "auto" else device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error
        self.head.text = self.head.text.to(self.backbone.device)
        self.head.class_text = self.head.class_text.to(self.backbone.device)
        return self

    # ---- deciding

    @property
    def record(self) -> DetectorRecord:
        """Which backbone, weights, classes and options it belongs to."""
        return DetectorRecord.of(self.backbone, self.head, self.class_names, self.pretrained, self.class_wordings)

    @property
    def score(self) -> str:
        """The name of the score that it decides by."""
        return self.head.scores[0]

    @torch.inference_mode()
    def predict(self, images: Images) -> Prediction:
        """Class, probability and score of uint8 images at the model's size, (B, 3, S, S)."""
        return self.predict_features(self.backbone.encode_image(images.to(self.backbone.device), self.head.paths))

    def predict_features(self, features: ImageFeatures) -> Prediction:
        """Class, probability and score of features that hold the paths of ``head.paths``."""
        scores, cosine = self.head.score(features)
        shares = (self.head.scale * cosine / self.temperature).softmax(1)
        best = shares.max(1)
        return Prediction(best.indices, best.values, scores[self.score], shares)

    @torch.inference_mode()
    def maps(self, images: Images, label: int | None = None) -> tuple[Prediction, ClassMaps]:
        """As :meth:`predict`, and S, S_clip and the mask for the predicted or a given class, by one forward."""
        features = self.backbone.encode_image(images.to(self.backbone.device), self.head.map_paths)
        found = self.predict_features(features)
        labels = found.predicted if label is None else torch.full_like(found.predicted, label)
        return found, self.head.maps(features, labels)

    def decide(self, seen: Prediction) -> list[Decision]:
        """A judgement in words."""
        rows = zip(seen.predicted.tolist(), seen.probability.tolist(), seen.score.tolist(), strict=True)
        return [self.decision(self.class_names[c], probability, score) for c, probability, score in rows]

    def decision(self, class_name: str, probability: float, score: float) -> Decision:
        """The class, or ``unknown`` below the threshold."""
        inside = self.threshold is None or score >= self.threshold
        return Decision(class_name if inside else UNKNOWN, class_name, probability, score, self.threshold)

    def prepare(self, images: ImageInput | Iterable[ImageInput]) -> Images:
        """Pictures of any size as uint8 at the model's size, (B, 3, S, S).

        Raises:
            InputError: an image that cannot be read, or a tensor that is no picture.
        """
        size = self.backbone.image_size
        return torch.stack([to_model_size(picture, size) for one in as_list(images) for picture in open_pictures(one)])

    @overload
    def __call__(self, images: Image.Image | str | Path) -> Decision: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, images: Iterable[ImageInput]) -> list[Decision]: ...
    @overload
    def __call__(self, images: Tensor) -> Decision | list[Decision]: ...
    def __call__(self, images: ImageInput | Iterable[ImageInput]) -> Decision | list[Decision]:
        """Decide.

        Args:
            images: a PIL image, a path, a uint8 tensor (3, H, W) or (B, 3, H, W) of any size; or several of these.

        Returns:
            A decision for one image, else a list of them.

        Raises:
            InputError: an image that cannot be read, or a tensor that is no picture.
        """
        items = as_list(images)
        found: list[Decision] = []
        for start in range(0, len(items), BATCH):
            pixels = self.prepare(items[start : start + BATCH])
            for batch in pixels.split(BATCH):
                found += self.decide(self.predict(batch))
        one = isinstance(images, Image.Image | str | Path) or (isinstance(images, Tensor) and images.ndim == 3)
        return found[0] if one else found


def as_list(images: ImageInput | Iterable[ImageInput]) -> list[ImageInput]:
    """One picture, or a tensor of several, as a list of one; a column of paths, say, as a list."""
    return [images] if isinstance(images, Image.Image | str | Path | Tensor) else list(images)


def open_pictures(image: ImageInput) -> Iterator[Image.Image]:
    """The picture behind a path or a tensor; those of a batch, one by one."""
    if isinstance(image, str | Path):
        yield open_image(Path(image))
    elif isinstance(image, Image.Image):
        yield image
    elif not isinstance(image, Tensor):
        raise InputError(f"an image is a PIL image, a path or a uint8 tensor, not a {type(image).__name__}")
    elif image.dtype != torch.uint8 or image.ndim not in (3, 4) or image.shape[-3] != 3 or 0 in image.shape[-2:]:
        form = f"{image.dtype} of shape {tuple(image.shape)}"
        raise InputError(f"an image as a tensor is uint8, (3, H, W) or (B, 3, H, W), not {form}")
    else:
        for one in image[None] if image.ndim == 3 else image:
            yield Image.fromarray(one.permute(1, 2, 0).cpu().numpy())


def is_checkpoint(path: str | Path) -> bool:
    """Whether the file is a checkpoint rather than a safetensors file: by its name."""
    return Path(path).suffix != ".safetensors"
