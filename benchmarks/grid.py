"""What a grid of detectors costs beside one: the same images through the backbone once, judged by one head or by all.

Random weights are right for speed and meaningless for accuracy.

    python benchmarks/grid.py --images 32 --detectors 24
"""

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from speed import timed, vit_b_16

from clipos_lightning.backbone import FrozenClip, load_backbone
from clipos_lightning.heads import Head, all_paths, all_surgeries, judge_all
from clipos_lightning.scores import SCORES, ScoreOptions
from clipos_lightning.surgery import MaskOptions, SurgeryOptions


def make_heads(backbone: FrozenClip, count: int, classes: int, surgeries: int) -> list[Head]:
    """Detectors with different prompts, some with surgery options of their own; all scores."""
    generator = torch.Generator().manual_seed(0)
    width = backbone.clip.text_projection.shape[1]
    text = torch.nn.functional.normalize(torch.randn(count, classes + 1, width, generator=generator), dim=-1)
    options = [SurgeryOptions(beta=i / max(1, surgeries)) for i in range(surgeries)]
    return [
        Head(f"{i}/", text[i], text[0, :-1], 100.0, list(SCORES), options[i % surgeries], MaskOptions(), ScoreOptions())
        for i in range(count)
    ]


@torch.inference_mode()
def judge(backbone: FrozenClip, images: torch.Tensor, heads: list[Head]) -> torch.Tensor:
    """What these detectors say of the images, from one forward."""
    return judge_all(heads, backbone.encode_surgeries(images, all_paths(heads), all_surgeries(heads)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--detectors", type=int, default=24)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    print(f"| backbone | surgery options | {given.detectors} detectors, s | one detector, s | ratio |")
    print("|---|---:|---:|---:|---:|")
    for name, build in (("MicroCLIP", load_backbone), ("ViT-B/16, random weights", vit_b_16)):
        backbone = build().to(given.device)
        count = given.images * (8 if name == "MicroCLIP" else 1)
        size = backbone.image_size
        images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=given.device)
        for surgeries in (1, 4):
            heads = [h.to(backbone.device) for h in make_heads(backbone, given.detectors, given.classes, surgeries)]

            every, one = (
                timed(partial(judge, backbone, images, j), given.device, given.repeats) for j in (heads, heads[:1])
            )
            print(f"| {name} | {surgeries} | {every:.3f} | {one:.3f} | {every / one:.2f} |", flush=True)


if __name__ == "__main__":
    main()
