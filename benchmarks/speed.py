"""Ratios within one run: our way against the plain way, on MicroCLIP and on a ViT-B/16 with random weights.

Random weights are right for speed and meaningless for accuracy.

    python benchmarks/speed.py --images 64 --device cpu
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import open_clip
import torch

from clipos_lightning.backbone import FrozenClip, load_backbone
from clipos_lightning.prompts import ContextOptions, PromptLearner
from clipos_lightning.surgery import SurgeryOptions

PATHS = frozenset({"clip", "vv", "local"})


def vit_b_16() -> FrozenClip:
    """ViT-B/16 as OpenAI's, randomly initialised."""
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None, load_weights=False)
    tokenizer = open_clip.get_tokenizer("ViT-B-16-quickgelu")
    return FrozenClip(clip, tokenizer, "ViT-B-16-quickgelu", "quick_gelu", SurgeryOptions())


def timed(function: Callable[[], object], device: str, repeats: int) -> float:
    """Median seconds of a call, after one to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def rows(backbone: FrozenClip, count: int, device: str, repeats: int) -> list[tuple[str, float, float]]:
    """(what, seconds our way, seconds the plain way)."""
    size = backbone.image_size
    images = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, device=device)
    plain = ((images.float() / 255 - backbone.mean) / backbone.std).to(torch.float32)

    @torch.no_grad()
    def separately() -> None:
        """Each of the three kinds of patches by a forward of its own, and the global feature by open_clip's."""
        backbone.clip.encode_image(plain)
        for path in PATHS:
            backbone.encode_image(images, frozenset({path}))

    names = [f"class {i}" for i in range(100)]
    context = ContextOptions(words="a photo of a")
    learner = PromptLearner(backbone, names, "unknown", context).to(device)
    tokens = backbone.tokenizer([f"a photo of a {n}." for n in [*names, "unknown"]]).to(device)

    def full_length() -> None:
        """Every position of the context is computed, gradients to the embeddings."""
        clip = backbone.clip
        x = clip.token_embedding(tokens).requires_grad_() + clip.positional_embedding
        x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask))
        (x[torch.arange(len(x)), tokens.argmax(-1)] @ clip.text_projection).sum().backward()

    def encode_global() -> object:
        return backbone.encode_image(images)

    @torch.no_grad()
    def open_clips_own() -> object:
        return backbone.clip.encode_image(plain)

    found = []
    for what, ours, theirs in (
        ("global feature: our blocks / open_clip's", encode_global, open_clips_own),
        ("all paths: one forward / a forward each", lambda: backbone.encode_image(images, PATHS), separately),
        (
            "101 prompts and their gradient: cut at the last end / full length",
            lambda: learner().sum().backward(),
            full_length,
        ),
    ):
        found.append((what, timed(ours, device, repeats), timed(theirs, device, repeats)))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    print("| backbone | what: ours / plain | ours, s | plain, s | ratio |\n|---|---|---:|---:|---:|")
    for name, build in (("MicroCLIP", load_backbone), ("ViT-B/16, random weights", vit_b_16)):
        count = given.images if name != "MicroCLIP" else 8 * given.images
        for what, ours, plain in rows(build().to(given.device), count, given.device, given.repeats):
            print(f"| {name} | {what} | {ours:.3f} | {plain:.3f} | {ours / plain:.2f} |", flush=True)


if __name__ == "__main__":
    main()
