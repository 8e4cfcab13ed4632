"""Shared fixtures. While the tests run, calls into the rooms with arrays are checked against types and shapes."""

import copy
import functools
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import no_type_check

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # as the command line does, before torch is there

import fuzzing  # noqa: F401 (registers Hypothesis's profiles)
import jaxtyping
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings
from PIL import Image

WITH_ARRAYS = ("clip", "data", "detector", "evaluation", "method", "training")
jaxtyping.install_import_hook([f"clipos_lightning.{room}" for room in WITH_ARRAYS], "runtime_types.checked")
torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it, and all its processes
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
settings.load_profile("quick")
pytest_plugins = ["badinput_table"]

from clipos_lightning.clip import loading  # noqa: E402 (after the hook)
from clipos_lightning.data import image_sets, splits  # noqa: E402

for called_for_every_image in (splits.digest, image_sets.ImageSet.shot_key):
    no_type_check(called_for_every_image)

LOAD_CLIP = functools.cache(loading.load_clip)
EMBEDDED = loading.choose_weights(loading.EMBEDDED_BACKBONE, {}, None)


@functools.wraps(loading.load_clip)
def load_clip(name: str, weights: str, image_size: int | None) -> loading.LoadedClip:
    """The package's; of the embedded weights a copy, since reading them is half of a short run's time."""
    if weights != EMBEDDED or loading._shared.get() is not None:
        return LOAD_CLIP.__wrapped__(name, weights, image_size)
    loaded = LOAD_CLIP(name, weights, image_size)
    return replace(loaded, clip=copy.deepcopy(loaded.clip))


loading.load_clip = load_clip

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
VISION = {"image_size": 16, "patch_size": 4, "width": 32, "layers": 4, "head_width": 8}
KINDS = {
    "plain": {},
    "layer_scale": {"vision_cfg": {"ls_init_value": 0.1}, "text_cfg": {"ls_init_value": 0.1}},
    "quick_gelu": {"quick_gelu": True},
}
SHAPES = {"circle": 0, "star": 3, "heart": 4}  # places in the cycle of embedded scenes


@pytest.fixture(autouse=True)
def own_wandb_service():
    """W&B's service keeps the settings and working directory of its start, so it is stopped after each test."""
    yield
    if "wandb" in sys.modules and sys.modules["wandb"].sdk.wandb_setup._singleton is not None:
        sys.modules["wandb"].teardown()


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable run-time checks, for tests that pass values which the annotations exclude."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(scope="session")
def build_clip():
    """kind, more of the towers' options -> a new open_clip.CLIP with random weights, different in each layer."""

    def build(kind: str = "plain", vision: dict | None = None, text: dict | None = None) -> open_clip.CLIP:
        given = KINDS[kind]
        vision_cfg = VISION | given.get("vision_cfg", {}) | (vision or {})
        text_cfg = TEXT | given.get("text_cfg", {}) | (text or {})
        with torch.random.fork_rng():
            torch.manual_seed(0)
            clip = open_clip.CLIP(20, vision_cfg, text_cfg, quick_gelu=given.get("quick_gelu", False))
            for name, weight in clip.named_parameters():
                if name != "logit_scale":
                    weight.data += 0.1 * torch.randn_like(weight)
        return clip.eval()

    return build


@pytest.fixture(scope="session")
def tokenizer():
    return open_clip.SimpleTokenizer(context_length=TEXT["context_length"])


@pytest.fixture(scope="session")
def tiny_clip(build_clip, tokenizer):
    """kind, surgery options -> a FrozenClip around a tiny random CLIP: 4 x 4 patches, 4 blocks of 4 heads."""
    from clipos_lightning.clip.backbone import FrozenClip
    from clipos_lightning.clip.surgery import SurgeryOptions

    clips = {kind: build_clip(kind) for kind in KINDS}

    def make(kind: str = "plain", **surgery: object) -> FrozenClip:
        activation = "quick_gelu" if kind == "quick_gelu" else "gelu"
        return FrozenClip(clips[kind], tokenizer, f"tiny-{kind}", activation, SurgeryOptions(**surgery))

    return make


@pytest.fixture(scope="session")
def microclip():
    """The embedded backbone with its weights; tests must not change it."""
    from clipos_lightning.clip.loading import load_backbone

    return load_backbone()


@pytest.fixture(scope="session")
def images():
    """batch, side -> uint8 images, random but smooth, so that patches differ."""

    def make(batch: int, side: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(batch * side)
        coarse = torch.rand(batch, 3, 5, 5, generator=generator)
        return (255 * F.interpolate(coarse, (side, side), mode="bilinear")).to(torch.uint8)

    return make


@pytest.fixture(scope="session")
def unit():
    """shape, seed -> random features of length 1 along the last axis, all of one half space as CLIP's are."""

    def make(*shape: int, seed: int = 0) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return F.normalize(torch.randn(*shape, generator=generator) + 0.3, dim=-1)

    return make


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder data set: photos/{train,test}/{circle,star,heart}/N.png, 4 and 5 a class; other/N.png, 7 of noise."""
    from clipos_lightning.data.scenes import ID_SHAPES, render

    root = tmp_path_factory.mktemp("data")

    def save(path: Path, kind: str, stream: str, index: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(kind, stream, 0, index).image).save(path)

    for split, stream, count in (("train", "train", 4), ("test", "report", 5)):
        for shape, place in SHAPES.items():
            for n in range(count):
                save(root / "photos" / split / shape / f"{n}.png", "id", stream, place + n * len(ID_SHAPES))
    for n in range(7):
        save(root / "other" / f"{n}.png", "noise", "report", n)
    return root
