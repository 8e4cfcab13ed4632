"""Time and memory per image and per class at growing sizes, as two Markdown tables.

    python benchmarks/scale.py [--images 100 1000 10000] [--classes 10 100 1000]

Images: MicroCLIP with dual path and local patches, all scores with 10 classes, batches of 128 as in a test. Classes:
ViT-B/16 with random weights, the text encoding with its gradient, and all scores of the features of 16 images.
"""

import argparse
from collections.abc import Iterable, Iterator

import torch
from common import class_names, random_images, timed, vit_b_16
from passes import make_heads, score_images

from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.evaluation.heads import score_all
from clipos_lightning.evaluation.metrics import ood_metrics
from clipos_lightning.evaluation.scores import SCORES
from clipos_lightning.method.prompts import ContextOptions, PromptLearner
from clipos_lightning.types import ImageFeatures

BATCH = 128


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """Print a table, each row as soon as it is measured."""
    names = list(head)
    print(f"| {' | '.join(names)} |\n|{'---:|' * len(names)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
    print()


def by_images(counts: list[int]) -> Iterator[list[str]]:
    """Rows of the image table: features and scores of images; metrics of random scores, half ID and half OOD."""
    backbone = load_backbone()
    heads = make_heads(backbone, 1, 10, list(SCORES))
    batch = random_images(BATCH, backbone.image_size)
    for count in counts:

        def scores(count: int = count) -> torch.Tensor:
            sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
            return torch.cat([score_images(backbone, batch[:size], heads) for size in sizes])

        took = timed(scores, 1)
        values = torch.randn(2, count // 2, generator=torch.manual_seed(0)).double().numpy()
        metrics = timed(lambda values=values: ood_metrics(*values), 3)
        per_image = 1000 * took.seconds / count
        yield [
            f"{count:,}",
            f"{took.seconds:.2f}",
            f"{per_image:.2f}",
            f"{took.peak:,.0f}",
            f"{1000 * metrics.seconds:.2f}",
        ]


def by_classes(counts: list[int]) -> Iterator[list[str]]:
    """Rows of the class table: the prompts with their gradient, and all scores of given features."""
    backbone = vit_b_16()
    unit = torch.nn.functional.normalize
    patches = [unit(torch.randn(16, 196, 512), dim=-1) for _ in range(3)]
    features = ImageFeatures(unit(torch.randn(16, 512), dim=-1), *patches)
    for count in counts:
        learner = PromptLearner(backbone, class_names(count), "unknown", ContextOptions())
        tokens = int((learner.class_ends + 1).sum())
        text = timed(lambda learner=learner: learner().sum().backward(), 2)
        heads = make_heads(backbone, 1, count, list(SCORES))
        scored = timed(lambda heads=heads: score_all(heads, {heads[0].surgery: features}), 3)
        yield [
            f"{count:,}",
            f"{tokens:,}",
            f"{text.seconds:.3f}",
            f"{1000 * text.seconds / count:.2f}",
            f"{text.peak:,.0f}",
            f"{1000 * scored.seconds / 16:.2f}",
            f"{scored.peak:,.0f}",
        ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    given = parser.parse_args()
    table(["images", "all scores, s", "ms per image", "peak MB", "metrics, ms"], by_images(given.images))
    names = ["classes", "suffix tokens", "text and gradient, s", "ms per class", "peak MB"]
    table([*names, "all scores, ms per image", "peak MB of scores"], by_classes(given.classes))


if __name__ == "__main__":
    main()
