"""Evaluate MicroCLIP weights and print a Markdown table with one column per file.

    python scripts/evaluate_microclip.py                                            # the shipped weights
    python scripts/evaluate_microclip.py --cifar10 "$CLIPOS_DATA/cifar10-images/test"
    python scripts/evaluate_microclip.py --weights shipped microclip.safetensors    # compare files

Prompts are "a photo of a {}.", the scenes are from the report stream. A patch is inside the object if the object covers
at least half of it, and outside if the object does not touch it. It is classified as the object if the object's shape
has the highest similarity of the twenty.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.data.scenes import ID_SHAPES, SEEN_SHAPES, render
from clipos_lightning.data.styles import KNOWN_STYLES, PHOTO, STYLE_WORDS, STYLES
from clipos_lightning.method.mask import similarity_map
from clipos_lightning.types import ImageFeatures, Images, Labels, PatchMap, PatchMask, PathName, concatenate

SHAPES = ID_SHAPES + SEEN_SHAPES
SHIPPED = "shipped"
Row = tuple[str, str]


def read_folder(folder: Path, size: int) -> tuple[Images, Labels, list[str]]:
    """Read a folder of class folders: images (N, 3, size, size) uint8, labels (N,) and class names."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    paths = [(path, label) for label, name in enumerate(names) for path in sorted((folder / name).iterdir())]
    images = [np.asarray(Image.open(path).convert("RGB").resize((size, size))) for path, _ in paths]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2), torch.tensor([label for _, label in paths]), names


def draw_scenes(
    count: int, size: int, grid: tuple[int, int], stream: str = "report", style: str = PHOTO
) -> tuple[Images, Labels, PatchMap]:
    """Render scenes of the twenty shapes in equal numbers: images, labels (N,), object cover of each patch (N, P)."""
    kinds = [("id", i) for i in range(count // 2)] + [("seen_shapes", i) for i in range(count // 2)]
    scenes = [render(kind, stream, 0, index, size=size, style=style) for kind, index in kinds]
    images = torch.from_numpy(np.stack([scene.image for scene in scenes])).permute(0, 3, 1, 2)
    masks = torch.from_numpy(np.stack([scene.mask for scene in scenes]))[:, None]
    cover = torch.nn.functional.adaptive_avg_pool2d(masks, grid).flatten(1)
    return images, torch.tensor([SHAPES.index(scene.shape) for scene in scenes]), cover


def encode(backbone: FrozenClip, images: Images, patches: bool) -> ImageFeatures:
    """Features of all images, with the patches of both paths if ``patches``."""
    paths: frozenset[PathName] = frozenset({"clip", "vv"} if patches else set())
    return concatenate([backbone.encode_image(batch, paths) for batch in images.split(250)])


def accuracy(backbone: FrozenClip, images: Images, labels: Labels, names: Sequence[str]) -> float:
    """Zero-shot accuracy in percent."""
    text = backbone.encode_text([f"a photo of a {name}." for name in names])
    return percent((encode(backbone, images, patches=False).cls @ text.T).argmax(1) == labels)


def scene_rows(backbone: FrozenClip, count: int) -> Iterator[Row]:
    """Rows about the scenes. Images whose object does not cover half of any patch are left out of those about masks."""
    images, labels, cover = draw_scenes(count, backbone.image_size, backbone.grid)
    yield "20 shapes, zero-shot", f"{accuracy(backbone, images, labels, SHAPES):.1f} %"
    seen = (cover >= 0.5).any(1)
    images, labels, cover = images[seen], labels[seen], cover[seen]
    truth = cover >= 0.5
    features = encode(backbone, images, patches=True)
    text = backbone.encode_text([f"a photo of a {shape}." for shape in SHAPES])
    for title, patches in (("surgery path", features.path("vv")), ("plain CLIP", features.path("clip"))):
        correct = (patches @ text.T).argmax(2) == labels[:, None]
        inside, outside = percent(correct[truth]), percent(correct[cover == 0])
        yield f"patches classified as the object, inside / outside it: {title}", f"{inside:.0f} % / {outside:.0f} %"
    surgery, plain = (similarity_map(features.path(path), text[labels]) for path in ("vv", "clip"))
    ious = [iou(surgery - plain > 0, truth), iou(surgery > 0.5, truth), iou(plain > 0.5, truth)]
    yield "IoU with the object: Δ > 0 / S > 0.5 / S_clip > 0.5", " / ".join(f"{value:.2f}" for value in ious)
    pointing = [hits(surgery - plain, truth), hits(surgery, truth), hits(plain, truth)]
    yield "the map's best patch is in the object: Δ / S / S_clip", " / ".join(f"{value:.0f} %" for value in pointing)


def style_rows(backbone: FrozenClip, count: int) -> Iterator[Row]:
    """Rows about the styles, on images of the training stream: accuracy by the prompt's words, and retrieval of words.

    Retrieval: of the five prompts "a photo of a {}.", "a sketch of a {}.", … with the true shape, the one that is most
    similar to the image; new styles have no word.
    """
    known = (PHOTO, *KNOWN_STYLES)
    prompts = torch.stack([backbone.encode_text([f"a {STYLE_WORDS[s]} of a {n}." for n in SHAPES]) for s in known])
    for style in (PHOTO, *STYLES):
        images, labels, _ = draw_scenes(count, backbone.image_size, backbone.grid, "train", style)
        features = encode(backbone, images, patches=False).cls
        worded = (
            prompts[known.index(style)]
            if style in known
            else backbone.encode_text([f"a {STYLE_WORDS[style]} of a {name}." for name in SHAPES])
        )
        plain, right = (percent((features @ text.T).argmax(1) == labels) for text in (prompts[0], worded))
        found = torch.einsum("nd,snd->ns", features, prompts[:, labels]).argmax(1)
        named = f"{percent(found == known.index(style)):.0f} %" if style in known else "–"
        own = f"a {STYLE_WORDS[style]} of a {{}}."
        title = f'{style}: 20 shapes by "a photo of a {{}}." / "{own}" / words of style retrieved'
        yield title, f"{plain:.1f} % / {right:.1f} % / {named}"


def iou(mask: PatchMask, truth: PatchMask) -> float:
    """Mean intersection over union of images."""
    return float(((mask & truth).sum(1) / (mask | truth).sum(1)).mean())


def hits(scores: PatchMap, truth: PatchMask) -> float:
    """Pointing game: how often the highest patch is inside the object, in percent."""
    return percent(truth.gather(1, scores.argmax(1, keepdim=True)))


def percent(correct: Tensor) -> float:
    """Percentage of true entries."""
    return 100 * float(correct.float().mean())


def seconds_per_thousand(backbone: FrozenClip) -> float:
    """Seconds for the global features of 1,000 images, after a first batch to warm up."""
    images = torch.zeros(1000, 3, backbone.image_size, backbone.image_size, dtype=torch.uint8)
    encode(backbone, images[:250], patches=False)
    start = time.perf_counter()
    encode(backbone, images, patches=False)
    return time.perf_counter() - start


def rows(backbone: FrozenClip, path: Path, options: argparse.Namespace) -> Iterator[Row]:
    """All rows for one weights file."""
    if options.cifar10:
        images, labels, names = read_folder(options.cifar10, backbone.image_size)
        yield f"CIFAR-10, zero-shot, {len(images)} images", f"{accuracy(backbone, images, labels, names):.1f} %"
    yield from scene_rows(backbone, options.scenes)
    yield from style_rows(backbone, options.scenes)
    yield "size of the file", f"{path.stat().st_size / 1e6:.1f} MB"
    yield f"1,000 images forward, {torch.get_num_threads()} threads", f"{seconds_per_thousand(backbone):.1f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate all files and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    text = "weights files; `shipped` (the default): the embedded weights"
    parser.add_argument("--weights", nargs="+", default=[SHIPPED], metavar="FILE", help=text)
    parser.add_argument(
        "--cifar10", type=Path, help="folder with the ten class folders, such as CIFAR-10's test images"
    )
    parser.add_argument("--scenes", type=int, default=2000, help="number of scenes (default 2000)")
    parser.add_argument("--beta", type=float, default=0.5, help="weight of patch-context")
    parser.add_argument("--depth", type=int, default=3, help="blocks of the surgery path")
    options = parser.parse_args(arguments)
    if options.scenes < 20:
        parser.error("--scenes must be at least 20")
    if options.cifar10 and not options.cifar10.is_dir():
        parser.error(f"--cifar10 {options.cifar10} is not a folder")
    surgery = SurgeryOptions(beta=options.beta, depth=options.depth)
    columns = []
    for name in options.weights:
        path = files("clipos_lightning") / "assets" / "MicroCLIP.safetensors" if name == SHIPPED else Path(name)
        columns.append(list(rows(load_backbone(pretrained=str(path), surgery=surgery), Path(str(path)), options)))
    print(f"| what (β = {options.beta:g}, surgery depth {options.depth}) | {' | '.join(options.weights)} |")
    print("|---|" + "---:|" * len(columns))
    for row in zip(*columns, strict=True):
        print(f"| {row[0][0]} | {' | '.join(figure for _, figure in row)} |")


if __name__ == "__main__":
    main()
