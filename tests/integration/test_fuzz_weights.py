"""Files of weights changed at random: a backbone with finite weights, or one line; never another error."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from fuzzing import changed, damaged, fewer, mostly
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save
from weight_files import GELU, QUICK, register_tiny, save_archive

from clipos_lightning import InputError
from clipos_lightning.clip.loading import load_backbone

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
