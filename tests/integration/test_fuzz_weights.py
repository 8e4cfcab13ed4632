"""Files of weights changed at random: a backbone with finite weights, or one line; never another error."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import REFUSED, changed, damaged, fewer, json_files, mostly, outcome
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from weight_files import GELU, QUICK, register_tiny, save_archive

from clipos_lightning import InputError
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.clip.pretrained import known_config
from clipos_lightning.clip.weight_checks import check_activation
from clipos_lightning.data.preprocessing import Preprocessing

pytestmark = pytest.mark.badinput


@pytest.fixture(scope="module")
def tiny(build_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small CLIP that open_clip knows under two names."""
    register_tiny(tmp_path_factory.mktemp("models"))
    return build_clip()


@pytest.fixture(scope="module")
def archive(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The small CLIP in an archive as OpenAI's."""
    path = tmp_path_factory.mktemp("archive") / "weights.pt"
    save_archive(tiny, path)
    return path.read_bytes()


def as_file(form: str, state: Any) -> bytes:
    """A state dict as a file; safetensors holds dense tensors only."""
    if form == "torch":
        file = io.BytesIO()
        torch.save(state, file)
        return file.getvalue()
    found = state.items() if isinstance(state, Mapping) else ()
    kept = {str(k): t for k, t in found if isinstance(t, torch.Tensor) and not t.is_sparse}
    return save({k.encode("utf-8", "replace").decode(): t.detach().contiguous().clone() for k, t in kept.items()})


@pytest.mark.parametrize("form", ["torch", "safetensors", "archive"])
@fewer(2)
@given(data=st.data())
def test_weights(form: str, data: st.DataObject, tiny: Any, archive: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    if form == "archive":
        files = damaged(archive)
    else:
        state = dict(tiny.state_dict())
        files = mostly(changed(state, tensors=True).map(lambda one: as_file(form, one)), damaged(as_file(form, state)))
    data.draw(files.map(path.write_bytes))
    try:
        backbone = load_backbone(QUICK if form == "archive" else GELU, str(path))
    except InputError as error:
        assert str(error).isprintable() and "weights.pt" in str(error)
    else:
        assert all(parameter.isfinite().all() for parameter in backbone.parameters())


MODEL = {"embed_dim": 20, "quick_gelu": False, "vision_cfg": {"width": 32}}
PIXELS = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2],
    "resize_mode": "squash",
    "interpolation": "bilinear",
    "fill_color": 7,
    "size": [32, 32],
}


@given(content=json_files({"model_cfg": MODEL, "preprocess_cfg": PIXELS}))
def test_open_clip_configs(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_bytes(content)
    found = known_config(tmp_path / "weights.pt")
    pixels = outcome(lambda: Preprocessing.declared(32, found, "weights.pt"))
    if pixels is not REFUSED:
        assert all(torch.tensor(values).isfinite().all() for values in (pixels.mean, pixels.std))
        assert min(pixels.std) > 0 and pixels.text
    note = outcome(
        lambda: check_activation("weights.pt", GELU, False, bool(found.get("quick_gelu")) if found else None)
    )
    assert note is REFUSED or isinstance(note, str)
