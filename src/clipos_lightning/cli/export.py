"""``clipos export``: write a detector with its backbone as ONNX, after comparing the outputs with PyTorch."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from .. import __version__
from ..data.scenes import KINDS, render
from ..detector.detector import Detector
from ..errors import InputError
from ..evaluation.scores import known_scores
from ..method.mask import mask_threshold, relevance_map, relevant_patches
from ..options.messages import DETECTOR_HELP, PRETRAINED_HELP, TRUST_HELP, CommandParser
from ..types import Images, PathName
from ..utils.files import atomic_write, check_parent
from ..utils.progress import silence_libraries
from ..utils.quiet import quiet

OUTPUTS = ("logits", "score", "mask")
BATCHES = (1, 2, 5)  # batch sizes of the comparison with PyTorch
TOLERANCE = 1e-4  # largest allowed difference of logits and score
MASK_MARGIN = 1e-3  # patches whose relevance is closer to the threshold may differ
OPSET = 18
MAX_FILE_BYTES = 2**31 - 2**20  # limit of a single ONNX file
REQUIRED_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
PREPROCESSING = "RGB, {}, uint8, channels first; scaling to 0-1 and normalisation are inside the graph"


class Deployed(nn.Module):
    """A detector as one module: images in; class logits, score and mask out.

    Args:
        detector: the detector, on the CPU.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head
        for reference in self.head.references or ():
            _ = reference.gaussians  # computed here, not in the graph
        self.paths: frozenset[PathName] = self.head.paths | self.head.mask.paths
        if self.head.mask.kind == "none":
            self.paths |= {"vv"}  # the mask holds all patches and needs their features for its shape

    def forward(
        self, images: Images
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, " batch"], Bool[Tensor, "batch rows columns"]]:
        """Logits of the C classes, the detector's score, and the mask of the predicted class on the patch grid."""
        features = self.backbone.encode_image(images, self.paths)
        scores, cosine = self.head.score(features)
        mask = relevant_patches(features, self.head.class_text, cosine.argmax(-1), self.head.mask)
        return self.head.scale * cosine, scores[self.head.scores[0]], mask.unflatten(1, self.backbone.grid)


def export_onnx(detector: Detector, path: Path) -> "Agreement":
    """Write a detector as an ONNX file; the file appears only if its outputs agree with PyTorch's.

    Args:
        detector: the detector, on the CPU.
        path: the file to write; must not exist.

    Raises:
        InputError: the ``export`` extra is not installed, the file exists, or onnxruntime and PyTorch disagree.
    """
    check_can_write(path)
    module = Deployed(detector)
    with atomic_write(path) as partial:
        write_onnx(module, partial, metadata(detector))
        return compare_with_pytorch(module, partial, check_images(detector))


def check_can_write(path: Path) -> None:
    """Check that the packages of the ``export`` extra are installed and that the file can be written.

    Raises:
        InputError: they are not, or it cannot.
    """
    missing = [name for name in REQUIRED_PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"export: {', '.join(missing)} not installed: run pip install 'clipos-lightning[export]'")
    if path.exists():
        raise InputError(f"export: --out {path} exists: give another name, or remove it")
    check_parent(path)


def metadata(detector: Detector) -> dict[str, str]:
    """Metadata of the ONNX file: strings, and class names and numbers as JSON (null: not calibrated)."""
    backbone = detector.backbone
    found: dict[str, Any] = {"class_names": detector.class_names, "threshold": detector.threshold}
    if detector.class_thresholds is not None:
        found["class_thresholds"] = detector.class_thresholds
    found |= {"temperature": detector.temperature, "image_size": backbone.image_size, "grid": list(backbone.grid)}
    texts = {"score": detector.score, "backbone": backbone.name, "fingerprint": backbone.fingerprint}
    texts |= {"preprocessing": PREPROCESSING.format(backbone.preprocessing.text), "clipos_version": __version__}
    return texts | {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}


@torch.no_grad()
def write_onnx(module: Deployed, path: Path, texts: dict[str, str]) -> None:
    """Write the module's graph and weights into one file with a dynamic batch size.

    Raises:
        InputError: the file would be too large, or torch cannot export a user-defined score.
    """
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > MAX_FILE_BYTES:
        raise InputError(f"export: {module.backbone.name} takes {size / 2**30:.1f} GB; one ONNX file holds 2 GB")
    sample = torch.zeros(2, 3, module.backbone.image_size, module.backbone.image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    try:
        with quiet(streams=True):  # the exporter prints whole graphs when it fails
            program = torch.onnx.export(
                module.eval(),
                (sample,),
                dynamo=True,
                input_names=["images"],
                output_names=list(OUTPUTS),
                dynamic_shapes={"images": {0: batch}},
                opset_version=OPSET,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        score = module.head.scores[0]
        if score in known_scores():
            raise
        raise InputError(
            f"export: torch cannot export the score {score}: write it without control flow that depends on values"
        ) from error
    assert program is not None
    for node in program.model.graph:  # source locations, with paths on this machine
        node.metadata_props.clear()
    program.model.metadata_props.update(texts)
    program.save(str(path), external_data=False)


@dataclass
class Agreement:
    """Differences between the outputs of onnxruntime and PyTorch.

    Attributes:
        images: number of images that were compared.
        logits: largest difference of a logit.
        score: largest difference of the score, over images with equal masks.
        patches: fraction of patches with equal mask values.
    """

    images: int
    logits: float
    score: float
    patches: float


def check_images(detector: Detector) -> Images:
    """Test images for the comparison: generated scenes of every kind, at the model's size."""
    count = sum(BATCHES)
    pictures = [render(KINDS[i % len(KINDS)], "tune", 0, i).image for i in range(count)]
    return detector.prepare([Image.fromarray(picture) for picture in pictures])


@torch.no_grad()
def compare_with_pytorch(module: Deployed, path: Path, images: Images) -> Agreement:
    """Run the file in onnxruntime with several batch sizes and compare the outputs with PyTorch's.

    Masks are compared where rounding cannot change them: in patches whose relevance differs from the threshold by more
    than MASK_MARGIN, of images whose two highest logits differ by more than TOLERANCE.

    Raises:
        InputError: the outputs disagree.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [session.run(OUTPUTS, {"images": batch.numpy()}) for batch in images.split(list(BATCHES))]
    onnx_logits, onnx_score, onnx_mask = (np.concatenate(column) for column in zip(*parts, strict=True))
    logits, score, mask = (tensor.numpy() for tensor in module(images))
    best = np.sort(logits, 1)[:, -2:]
    decided = (best[:, -1] - best[:, 0] > TOLERANCE) | (logits.shape[1] == 1)
    same = onnx_mask == mask
    same_masks = decided & same.all((1, 2))
    found = Agreement(
        len(images),
        float(np.abs(onnx_logits - logits).max()),
        float(np.abs(onnx_score - score)[same_masks].max(initial=0)),
        float(same[decided].mean()) if decided.any() else 1.0,
    )
    wrong = (~same & sure_patches(module, images))[decided].any()
    if not (found.logits <= TOLERANCE and found.score <= TOLERANCE) or wrong:
        raise InputError(
            f"export: onnxruntime and PyTorch disagree (logits by {found.logits:.1e}, score by {found.score:.1e}, "
            f"masks in {100 * (1 - found.patches):.1f} % of patches): nothing was written. Try other versions of torch "
            "and onnx"
        )
    return found


def sure_patches(module: Deployed, images: Images) -> NDArray[np.bool_]:
    """Patches whose mask value is not affected by rounding, (B, g, g)."""
    head, backbone = module.head, module.backbone
    if head.mask.kind == "none":
        return np.ones((len(images), *backbone.grid), dtype=bool)
    features = backbone.encode_image(images, module.paths)
    predicted = (features.cls @ head.text[: len(head.class_text)].T).argmax(1)
    relevance = relevance_map(features, head.class_text, predicted, head.mask)
    margin = 1 if head.mask.kind == "top_k" else MASK_MARGIN  # there, the relevance is a rank
    sure = (relevance - mask_threshold(head.mask, len(head.class_text))).abs() > margin
    return sure.unflatten(1, backbone.grid).numpy()


def export_parser() -> CommandParser:
    """The parser of ``clipos export``."""
    text = (
        "Write a detector and its backbone as one ONNX file: images in; class logits, score and mask out. The outputs "
        "are compared with PyTorch's before the file is written."
    )
    parser = CommandParser(prog="clipos export", description=text)
    parser.add_argument("file", metavar="FILE", help=DETECTOR_HELP)
    text = "ONNX file to write; must not exist (default: detector.onnx)"
    parser.add_argument("--out", default="detector.onnx", metavar="ONNX", help=text)
    parser.add_argument("--pretrained", metavar="WEIGHTS", help=PRETRAINED_HELP)
    parser.add_argument("--trust", action="store_true", help=TRUST_HELP)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos export``; returns the exit code."""
    silence_libraries()
    given = export_parser().parse_args(list(arguments))
    path = Path(given.out)
    check_can_write(path)
    detector = Detector.load(given.file, "cpu", given.pretrained, given.trust)
    found = export_onnx(detector, path)
    side = detector.backbone.image_size
    print(
        f"onnx: {path} ({path.stat().st_size / 1e6:.1f} MB): images uint8 (B, 3, {side}, {side}) -> logits, score, mask"
    )
    print(
        f"onnxruntime agrees with PyTorch on {found.images} images in batches of {', '.join(map(str, BATCHES))}: "
        f"logits within {found.logits:.0e}, score within {found.score:.0e}, masks equal in {100 * found.patches:.1f} % "
        "of patches"
    )
    return 0
