"""``clipos export``: a detector as ONNX, backbone included; checked against PyTorch before the file is there."""

import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
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
from ..evaluation.scores import SCORES
from ..method.mask import mask_threshold, relevance_map, relevant_patches
from ..options.messages import TRUST, CommandParser
from ..types import Images, PathName
from ..utils.files import atomic_write, check_parent
from ..utils.progress import silence_libraries

OUTPUTS = ("logits", "score", "mask")
BATCHES = (1, 2, 5)  # sizes that the file is checked with
TOLERANCE = 1e-4  # of logits and score
MASK_MARGIN = 1e-3  # patches whose relevance lies closer to the threshold may fall on either side
OPSET = 18
MAX_FILE_BYTES = 2**31 - 2**20  # bytes that one ONNX file can hold
NEEDED = ("onnx", "onnxruntime", "onnxscript")
PREPROCESSING = (
    "RGB, shorter side to {size} pixels (bicubic, antialiased), centre crop {size} x {size}, uint8, channels first; "
    "scaling to 0-1 and normalisation are inside the graph"
)


class Deployed(nn.Module):
    """A detector as one module: pixels in, what it says of them out.

    Args:
        detector: on the CPU.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.head = detector.backbone, detector.head
        asked: frozenset[PathName] = self.head.paths | self.head.mask.paths
        self.paths = asked or frozenset({"vv"})  # a mask of kind "none" takes every patch, so some must be there
        if self.head.mask.kind == "none":
            self.paths |= {"vv"}

    def forward(
        self, images: Images
    ) -> tuple[Float[Tensor, "batch classes"], Float[Tensor, " batch"], Bool[Tensor, "batch rows columns"]]:
        """Logits of the C classes, the detector's score, and the mask of the predicted class on the patch grid."""
        features = self.backbone.encode_image(images, self.paths)
        scores, cosine = self.head.score(features)
        mask = relevant_patches(features, self.head.class_text, cosine.argmax(-1), self.head.mask)
        return self.head.scale * cosine, scores[self.head.scores[0]], mask.unflatten(1, self.backbone.grid)


def export_onnx(detector: Detector, path: Path) -> "Agreement":
    """Write a detector as ONNX, whole and checked, or not at all.

    Args:
        detector: on the CPU.
        path: must not exist.

    Raises:
        InputError: the extra is not installed, the file exists, or it does not say what PyTorch says.
    """
    check_can_write(path)
    module = Deployed(detector)
    with atomic_write(path) as partial:
        write_onnx(module, partial, metadata(detector))
        return compare_with_pytorch(module, partial, check_images(detector))


def check_can_write(path: Path) -> None:
    """The extra is there, the file is not."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise InputError(f"export: {', '.join(missing)} not installed: pip install 'clipos-lightning[export]'")
    if path.exists():
        raise InputError(f"export: {path} exists; give another --out, or remove it")
    check_parent(path)


def metadata(detector: Detector) -> dict[str, str]:
    """What the file says of itself: texts, class names as a JSON list, numbers as JSON (null: not calibrated)."""
    backbone = detector.backbone
    found: dict[str, Any] = {"class_names": detector.class_names, "threshold": detector.threshold}
    found |= {"temperature": detector.temperature, "image_size": backbone.image_size, "grid": list(backbone.grid)}
    texts = {"score": detector.score, "backbone": backbone.name, "fingerprint": backbone.fingerprint}
    texts |= {"preprocessing": PREPROCESSING.format(size=backbone.image_size), "clipos_version": __version__}
    return texts | {key: json.dumps(value, ensure_ascii=False) for key, value in found.items()}


@torch.no_grad()
def write_onnx(module: Deployed, path: Path, texts: dict[str, str]) -> None:
    """The module's graph and weights in one file, the batch's size left open."""
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    if size > MAX_FILE_BYTES:
        raise InputError(f"export: {module.backbone.name} takes {size / 2**30:.1f} GB; one ONNX file holds 2 GB")
    sample = torch.zeros(2, 3, module.backbone.image_size, module.backbone.image_size, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1)
    try:
        with silent():
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
        if score in SCORES:
            raise
        raise InputError(
            f"export: torch cannot export the score {score}: write it without control flow on values"
        ) from error
    assert program is not None
    for node in program.model.graph:  # where in the source it comes from, with paths of this machine
        node.metadata_props.clear()
    program.model.metadata_props.update(texts)
    program.save(str(path), external_data=False)


@contextmanager
def silent() -> Iterator[None]:
    """The exporter's remarks are for its developers; when it fails it prints whole graphs."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@dataclass
class Agreement:
    """How far the file and PyTorch lie apart.

    Attributes:
        images: how many were compared.
        logits: the largest difference.
        score: the largest difference, over images whose masks agree in every patch.
        patches: the share of patches that agree.
    """

    images: int
    logits: float
    score: float
    patches: float


def check_images(detector: Detector) -> Images:
    """Embedded scenes of every kind at the model's size."""
    count = sum(BATCHES)
    pictures = [render(KINDS[i % len(KINDS)], "tune", 0, i).image for i in range(count)]
    return detector.prepare([Image.fromarray(picture) for picture in pictures])


@torch.no_grad()
def compare_with_pytorch(module: Deployed, path: Path, images: Images) -> Agreement:
    """Run the file in onnxruntime with batches of several sizes, and compare it with PyTorch.

    A patch counts where its relevance is farther than MASK_MARGIN from the threshold; the masks of an image whose two
    best classes lie closer than TOLERANCE are those of different classes, and do not count.

    Raises:
        InputError: they do not say the same.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [session.run(OUTPUTS, {"images": batch.numpy()}) for batch in images.split(list(BATCHES))]
    theirs = [np.concatenate(column) for column in zip(*parts, strict=True)]
    logits, score, mask = (tensor.numpy() for tensor in module(images))
    best = np.sort(logits, 1)[:, -2:]
    decided = (best[:, -1] - best[:, 0] > TOLERANCE) | (logits.shape[1] == 1)
    same = theirs[2] == mask
    agree = decided & same.all((1, 2))
    found = Agreement(
        len(images),
        float(np.abs(theirs[0] - logits).max()),
        float(np.abs(theirs[1] - score)[agree].max(initial=0)),
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
    """Patches whose relevance is not at the threshold, (B, g, g)."""
    head, backbone = module.head, module.backbone
    if head.mask.kind == "none":
        return np.ones((len(images), *backbone.grid), dtype=bool)
    features = backbone.encode_image(images, module.paths)
    predicted = (features.cls @ head.text[: len(head.class_text)].T).argmax(1)
    relevance = relevance_map(features, head.class_text, predicted, head.mask)
    margin = 1 if head.mask.kind == "top_k" else MASK_MARGIN  # a rank moves by whole steps
    away = (relevance - mask_threshold(head.mask, len(head.class_text))).abs() > margin
    return away.unflatten(1, backbone.grid).numpy()


def export_parser() -> CommandParser:
    """The options of ``clipos export``."""
    parser = CommandParser(prog="clipos export", description=__doc__)
    parser.add_argument("file", help="a detector: detector.safetensors, or the last.ckpt of a `clipos fit` run")
    parser.add_argument("--out", default="detector.onnx", help="file to write (must not exist); default: detector.onnx")
    parser.add_argument("--pretrained", help="the backbone's weights, where they are not where they were in training")
    parser.add_argument("--trust", action="store_true", help=TRUST)
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
        f"onnxruntime against PyTorch on {found.images} images in batches of {', '.join(map(str, BATCHES))}: logits "
        f"within {found.logits:.0e}, score within {found.score:.0e}, masks equal in {100 * found.patches:.1f} % of "
        "patches"
    )
    return 0
