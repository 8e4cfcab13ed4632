"""A test pass with scores compared with bare ``encode_image``; many detectors in one pass compared with one pass each.

    python benchmarks/passes.py [--images 16] [--classes 100] [--detectors 24] [--device cpu]

ViT-B/16 with random weights; both sides use the same batch and are timed in alternation.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from common import Row, check, in_turns, random_images, show, vit_b_16
from plain import encode_image, encode_local

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.evaluation.heads import Head, all_paths, all_surgeries, score_all
from clipos_lightning.evaluation.scores import SCORES, ScoreOptions
from clipos_lightning.method.mask import MaskOptions

KINDS = {
    "global scores": (("cls",), 0.97),
    "global and region scores (dual path)": (("cls", "region"), 0.9),
    "all scores (dual path, local patches)": (("cls", "region", "local"), 0.83),
}


def make_heads(backbone: FrozenClip, count: int, classes: int, scores: Sequence[str], surgeries: int = 1) -> list[Head]:
    """``count`` detectors with different random prompts, and with ``surgeries`` different surgery options."""
    generator = torch.Generator().manual_seed(0)
    width = backbone.clip.text_projection.shape[1]
    text = torch.nn.functional.normalize(torch.randn(count, classes + 1, width, generator=generator), dim=-1)
    options = [SurgeryOptions(beta=0.5 + i / (2 * surgeries)) for i in range(surgeries)]
    heads = [
        Head(f"{i}/", text[i], text[0, :-1], 100.0, [*scores], options[i % surgeries], MaskOptions(), ScoreOptions())
        for i in range(count)
    ]
    return [head.to(backbone.device) for head in heads]


@torch.inference_mode()
def score_images(backbone: FrozenClip, images: torch.Tensor, heads: list[Head]) -> torch.Tensor:
    """The columns of all detectors for the images, from one forward pass."""
    return score_all(heads, backbone.encode_surgeries(images, all_paths(heads), all_surgeries(heads)))


def rows(images: int, classes: int, detectors: int, device: str, repeats: int) -> Iterator[Row]:
    """Measure each kind of scores with one detector, then all scores with many detectors."""
    backbone = vit_b_16().to(device)
    pixels = random_images(images, backbone.image_size).to(device)
    found = backbone.encode_image(pixels, frozenset({"local"}))
    for ours, plain in zip((found.cls, found.patches_local), encode_local(backbone, pixels), strict=True):
        assert ours is not None
        check(ours, plain, "features")
    check(found.cls, encode_image(backbone, pixels), "global features")
    works: dict[str, Callable[[], object]] = {"bare": partial(encode_image, backbone, pixels)}
    for name, (on, _) in KINDS.items():
        scores = [score for score, entry in SCORES.items() if entry.on in on]
        works[name] = partial(score_images, backbone, pixels, make_heads(backbone, 1, classes, scores))
    took = in_turns(works, repeats)
    for name, (_, goal) in KINDS.items():
        yield Row(f"test pass, {classes} classes: {name} / bare encode_image", took[name], took["bare"], goal)
    heads = make_heads(backbone, detectors, classes, list(SCORES))
    took = in_turns({"one": works[list(KINDS)[-1]], "all": partial(score_images, backbone, pixels, heads)}, repeats)
    took["one"].seconds *= detectors
    yield Row(
        f"{detectors} detectors, all scores: one pass / one pass each ({detectors} × one)", took["all"], took["one"]
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--detectors", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_known_args()[0]
    show(rows(given.images, given.classes, given.detectors, given.device, given.repeats))


if __name__ == "__main__":
    main()
