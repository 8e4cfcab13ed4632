"""No few-shot or test image was used in pretraining, not even with another compression."""

import io
import os
import runpy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

SCRIPT = Path(__file__).parents[2] / "scripts" / "pretrain_microclip.py"
LIMIT = 4.0  # grey levels of 255, the mean over an image
IMAGES = Path(os.environ.get("CLIPOS_DATA", "nowhere")) / "cifar10-images"
PRETRAINED = Path(os.environ.get("CLIPOS_PRETRAIN", "nowhere"))

Close = tuple[int, int, float]


def squares(images: Tensor) -> Tensor:
    """Means of 8 x 8 pixels, (N, 48)."""
    return torch.cat([F.avg_pool2d(part.float(), 8).flatten(1) for part in images.split(5000)])


def close_pairs(images: Tensor, others: Tensor, limit: float) -> Iterator[Close]:
    """Every pair (i, j, d) whose mean absolute difference d is at most the limit, (N, 3, 32, 32) uint8 each.

    The difference of means over squares, or over the whole image, is a lower bound of it: most pairs are told by that.
    """
    ours, theirs = squares(images), squares(others)
    order = theirs.mean(1).argsort()
    theirs = theirs[order]
    levels = theirs.mean(1)
    for part in ours.mean(1).argsort().split(64):
        level = ours[part].mean(1)
        first = int(torch.searchsorted(levels, level.min() - limit))
        last = int(torch.searchsorted(levels, level.max() + limit, right=True))
        bound = torch.cdist(ours[part], theirs[first:last], p=1) / ours.shape[1]
        for row, column in (bound <= limit + 1e-3).nonzero().tolist():
            i, j = int(part[row]), int(order[first + column])
            difference = float((images[i].float() - others[j].float()).abs().mean())
            if difference <= limit:
                yield i, j, difference


def stack(images: list[Image.Image]) -> Tensor:
    """(N, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([np.asarray(image.convert("RGB")) for image in images])).permute(0, 3, 1, 2)


def recompressed(image: Tensor, quality: int) -> Tensor:
    """The image after another JPEG compression, (1, 3, H, W)."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return stack([Image.open(buffer)])


def test_close_pairs_are_those_of_the_plain_loop() -> None:
    torch.manual_seed(0)
    base = torch.randint(0, 256, (6, 3, 4, 4)).float()
    smooth = F.interpolate(base, size=(32, 32), mode="bilinear")
    images = smooth[torch.arange(40) % 6].clamp(0, 255)
    strength = torch.linspace(0, 16, 40).view(-1, 1, 1, 1)
    others = (images + strength * torch.randn_like(images)).clamp(0, 255).round().to(torch.uint8)
    images = images.round().to(torch.uint8)
    plain = {}
    for i in range(40):
        for j in range(40):
            difference = float((images[i].double() - others[j].double()).abs().mean())
            if difference <= LIMIT:
                plain[i, j] = difference
    found = {(i, j): difference for i, j, difference in close_pairs(images, others, LIMIT)}
    assert 10 < len(plain) < 1600 and found.keys() == plain.keys()
    assert all(abs(found[pair] - plain[pair]) < 1e-3 for pair in plain)


@pytest.mark.realdata
@pytest.mark.skipif(not IMAGES.is_dir(), reason="no cifar10-images below $CLIPOS_DATA")
@pytest.mark.skipif(not PRETRAINED.is_dir(), reason="no folder $CLIPOS_PRETRAIN")
def test_no_pool_or_test_image_was_pretrained_on() -> None:
    paths = sorted(path for path in IMAGES.rglob("*") if path.is_file())
    images = stack([Image.open(path) for path in paths])
    pretrained, _, _, _ = runpy.run_path(str(SCRIPT))["read_photos"](PRETRAINED)
    others = torch.from_numpy(pretrained).permute(0, 3, 1, 2)
    assert len(images) == 15_000 and len(others) == 125_000
    for i in (17, 99_000, 124_000):  # a copy would be found, also a recompressed one
        for quality in (75, 90):
            assert i in [j for _, j, _ in close_pairs(recompressed(others[i], quality), others, LIMIT)]
    assert [(paths[i], j) for i, j, _ in close_pairs(images, others, LIMIT)] == []
