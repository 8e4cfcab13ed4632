"""Tags of weights and their caches, without a network, and the activation that weights were trained with."""

import json
import re
from types import SimpleNamespace

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from weight_files import GELU, QUICK, REPO, URL, in_hub_cache, register_tiny, same, save_archive

from clipos_lightning.clip import pretrained
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore::torch.jit.TracerWarning")


@pytest.fixture(scope="module")
def tiny(build_clip, tmp_path_factory):
    """A small CLIP with random weights, known to open_clip under two names."""
    register_tiny(tmp_path_factory.mktemp("models"))
    return build_clip()


@pytest.fixture
def tag(monkeypatch, tmp_path):
    """A pretrained tag of both models, empty caches, and a hub that cannot be reached."""

    def offline(*_, **__):
        raise OSError("no\nroute to host")

    config = {"hf_hub": f"{REPO}/", "url": URL, "quick_gelu": True, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    for name in (GELU, QUICK):
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"mine": config})
    monkeypatch.setattr(pretrained.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "CLIP_CACHE", tmp_path / "clip")
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", offline)
    return "mine"


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_tag_is_found_in_the_hubs_cache_without_a_network(file, tiny, tag, tmp_path):
    path = in_hub_cache(tmp_path, file)
    (save_file if path.suffix == ".safetensors" else torch.save)(tiny.state_dict(), path)
    backbone = load_backbone(QUICK, tag)
    assert same(backbone.clip.state_dict(), tiny.state_dict())
    assert backbone.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(InputError, match=f"activation mismatch.*'mine'.*--model.backbone {QUICK}"):
        load_backbone(GELU, tag)
    assert load_backbone(QUICK, str(path)).note == ""  # the same file by its path
    with pytest.raises(InputError, match="activation mismatch"):
        load_backbone(GELU, str(path))


def test_a_tag_is_found_in_the_cache_of_openais_package(tiny, tag, tmp_path):
    (tmp_path / "clip").mkdir()
    save_archive(tiny, tmp_path / "clip/tiny.pt")
    assert load_backbone(QUICK, tag).activation == "quick_gelu"


def test_a_tag_in_no_cache_and_no_network(tiny, tag, tmp_path):
    with pytest.raises(InputError, match=r"cannot be downloaded \(no route to host\)") as caught:
        load_backbone(QUICK, tag)
    text = str(caught.value)
    for piece in (
        f"weights 'mine' of {QUICK} are not on this machine",
        f"`hf download {REPO} open_clip_model.safetensors`",
        f"to {tmp_path / 'hub' / 'models--someone--tiny-clip'}",
        f"`curl -LO {URL}`",
        f"tiny.pt to {tmp_path / 'clip'}",
        "or give the file with --model.pretrained FILE",
    ):
        assert piece in text
    assert "\n" not in text


def test_the_hub_is_asked_for_each_name_of_the_file(tiny, tag, tmp_path, monkeypatch, capsys):
    asked = []

    def only_bin(url, timeout):
        asked.append((url.rsplit("/", 1)[1], timeout))
        if not url.endswith(".bin"):
            raise pretrained.EntryNotFoundError.__new__(pretrained.EntryNotFoundError)
        return SimpleNamespace(size=598_517_012)

    def fetched(repo, file, revision):
        assert revision is None
        torch.save(tiny.state_dict(), tmp_path / file)
        return str(tmp_path / file)

    monkeypatch.setattr(pretrained, "get_hf_file_metadata", only_bin)
    monkeypatch.setattr(pretrained, "hf_hub_download", fetched)
    assert load_backbone(QUICK, tag).name == QUICK
    assert asked == [("open_clip_model.safetensors", 3), ("open_clip_pytorch_model.bin", 3)]
    printed = capsys.readouterr().err
    assert re.match(r"downloading open_clip_pytorch_model\.bin of \S+ once, 599 MB, to \S+/hub\n", printed), printed


def test_a_damaged_file_in_a_cache_is_named(tiny, tag, tmp_path):
    path = in_hub_cache(tmp_path, "open_clip_model.safetensors")
    save_file(tiny.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=f"cannot read the weights in {path}: it is damaged"):
        load_backbone(QUICK, tag)


def test_paths_that_are_no_files(tiny, tmp_path):
    with pytest.raises(InputError, match=rf"no file of weights {tmp_path}/gone.pt: give --model.pretrained FILE"):
        load_backbone(GELU, str(tmp_path / "gone.pt"))
    with pytest.raises(InputError, match=r"is a folder: give the file in it, such as open_clip_model\.safetensors"):
        load_backbone(GELU, str(tmp_path))


@pytest.mark.badinput
def test_an_activation_that_a_file_does_not_tell_is_noted(tiny, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / "mine.pt")
    for name, used, other in ((GELU, "GELU", QUICK), (QUICK, "QuickGELU", GELU)):
        note = load_backbone(name, str(tmp_path / "mine.pt")).note
        assert f"{name} uses {used};" in note and f"--model.backbone {other}" in note and "mine.pt" in note


def test_no_note_where_there_is_one_activation_only(microclip):
    assert microclip.note == ""


def test_the_config_beside_a_file_tells_its_activation_and_pixels(tiny, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    config = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5, 0.5, 0.5]}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    backbone = load_backbone(QUICK, str(tmp_path / "open_clip_pytorch_model.bin"))
    assert backbone.note == "" and backbone.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    with pytest.raises(InputError, match=f"activation mismatch.*use --model.backbone {QUICK}"):
        load_backbone(GELU, str(tmp_path / "open_clip_pytorch_model.bin"))
    (tmp_path / "open_clip_config.json").write_text("[]")
    assert load_backbone(GELU, str(tmp_path / "open_clip_pytorch_model.bin")).note


@pytest.mark.parametrize("file", ["vit_b_32-quickgelu-laion400m_e32-46683a32.pt", "b32_400m.pt"])
def test_a_file_named_as_open_clip_names_it_tells_its_activation(file, tiny, tmp_path):
    torch.save(tiny.state_dict(), tmp_path / file)
    assert load_backbone(QUICK, str(tmp_path / file)).note == ""
    with pytest.raises(InputError, match="activation mismatch"):
        load_backbone(GELU, str(tmp_path / file))
