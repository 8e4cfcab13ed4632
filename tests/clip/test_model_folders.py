"""``hf-hub:owner/name`` and ``local-dir:FOLDER``: found without a network, equal to the same weights, or refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pytest
import torch
from conftest import TEXT, VISION
from safetensors.torch import save_file
from weight_files import REPO, in_hub_cache, same

from clipos_lightning.clip import pretrained
from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.clip.support import unsupported_part
from clipos_lightning.errors import InputError

HUB = f"hf-hub:{REPO}"
MODEL = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": True}
PIXELS = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and a hub that cannot be reached."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no\nroute to host")

    monkeypatch.setattr(pretrained.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", refuse)
    monkeypatch.setattr(open_clip.factory, "download_pretrained_from_hf", refuse)


def write_model(
    folder: Path, clip: open_clip.CLIP, model: Any = MODEL, file: str = "open_clip_model.safetensors"
) -> Path:
    """A folder as open_clip writes it for the hub."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": PIXELS}))
    save = save_file if file.endswith(".safetensors") else torch.save
    save(clip.state_dict(), folder / file)
    return folder


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_a_model_of_the_hub_in_the_cache(file, build_clip, images, tmp_path):
    clip = build_clip("quick_gelu")
    folder = write_model(in_hub_cache(tmp_path, file).parent, clip, file=file)
    backbone, local = load_backbone(HUB), load_backbone(f"local-dir:{folder}")
    assert (backbone.name, backbone.activation, backbone.grid, backbone.note) == (HUB, "quick_gelu", (4, 4), "")
    assert same(backbone.clip.state_dict(), clip.state_dict())
    assert backbone.fingerprint == local.fingerprint
    assert backbone.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert backbone.tokenizer.context_length == TEXT["context_length"]
    pixels = images(2, 16)
    one, other = (b.encode_image(pixels, frozenset({"vv"})) for b in (backbone, local))
    assert torch.equal(one.patches_vv, other.patches_vv)
    with torch.no_grad():
        expected = clip.encode_image((pixels / 255 - 0.5) / 0.25, normalize=True)
    torch.testing.assert_close(one.cls, expected, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("offline")
def test_a_model_of_the_hub_in_no_cache(tmp_path):
    with pytest.raises(InputError, match=r"cannot be downloaded \(no route to host\)") as caught:
        load_backbone(HUB)
    for piece in (
        f"open_clip_config.json of {HUB} is not on this machine",
        f"`hf download {REPO} open_clip_config.json open_clip_model.safetensors`",
        str(tmp_path / "hub" / "models--someone--tiny-clip"),
        "--model.backbone local-dir:FOLDER",
    ):
        assert piece in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_a_model_of_the_hub_without_its_weights(build_clip, tmp_path):
    folder = write_model(in_hub_cache(tmp_path, "x").parent, build_clip("quick_gelu"))
    (folder / "open_clip_model.safetensors").rename(tmp_path / "mine.safetensors")
    with pytest.raises(InputError, match=f"open_clip_model.safetensors of {HUB} is not on this machine"):
        load_backbone(HUB)
    assert load_backbone(HUB, str(tmp_path / "mine.safetensors")).activation == "quick_gelu"
    with pytest.raises(
        InputError, match=f"'openai' is neither a file nor a tag of {HUB}.*own weights, --model.pretrained null"
    ):
        load_backbone(HUB, "openai")


def test_a_model_of_the_hub_is_downloaded_if_it_is_in_no_cache(build_clip, monkeypatch, tmp_path):
    source, asked = write_model(tmp_path / "source", build_clip("quick_gelu")), []

    def fetched(repo, file, revision):
        assert revision is None
        asked.append((repo, file))
        return str(source / file)

    monkeypatch.setattr(pretrained, "try_to_load_from_cache", lambda repo, file: None)
    monkeypatch.setattr(pretrained, "get_hf_file_metadata", lambda url, timeout: SimpleNamespace(size=None))
    monkeypatch.setattr(pretrained, "hf_hub_download", fetched)
    assert load_backbone(HUB).name == HUB
    assert set(asked) == {(REPO, "open_clip_config.json"), (REPO, "open_clip_model.safetensors")}


def test_the_weights_in_a_folder(build_clip, tmp_path):
    clip = build_clip("quick_gelu")
    folder = write_model(tmp_path / "model", clip, file="mine.safetensors")
    assert same(load_backbone(f"local-dir:{folder}").clip.state_dict(), clip.state_dict())
    torch.save(clip.state_dict(), folder / "other.pt")
    with pytest.raises(
        InputError, match=r"several files of weights \(mine.safetensors, other.pt\).*--model.pretrained"
    ):
        load_backbone(f"local-dir:{folder}")
    assert load_backbone(f"local-dir:{folder}", str(folder / "other.pt")).activation == "quick_gelu"
    for path in (folder / "mine.safetensors", folder / "other.pt"):
        path.unlink()
    with pytest.raises(InputError, match=r"no file of weights such as open_clip_model\.safetensors in"):
        load_backbone(f"local-dir:{folder}")
    with pytest.raises(InputError, match=r"no file .*open_clip_config\.json: give a folder"):
        load_backbone(f"local-dir:{tmp_path}")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        *((name, "give hf-hub:owner/name") for name in ("hf-hub:", "hf-hub:alone", "hf-hub:a/b/c", "hf-hub:a b/c")),
        ("hf-hub:owner/name@main", "give hf-hub:owner/name"),
        ("hf-hub:../..", "is not on this machine"),
        ("local-dir:", "no file open_clip_config.json"),
        ("s3:owner/name", "unknown backbone 's3:owner/name'"),
    ],
)
def test_names_of_another_form(name, says):
    with pytest.raises(InputError, match=says):
        load_backbone(name)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vision_cfg": VISION | {"layers": [1, 1, 1, 1]}}, "is a ResNet"),
        ({"vision_cfg": VISION | {"timm_model_name": "convnext_tiny"}}, "timm's convnext_tiny"),
        ({"vision_cfg": VISION | {"pool_type": "avg"}}, "does not pool by the class token"),
        ({"vision_cfg": VISION | {"attentional_pool": True}}, "does not pool by the class token"),
        ({"multimodal_cfg": {"layers": 1}, "custom_text": True}, "a CoCa"),
        ({"init_logit_bias": -10, "custom_text": True}, "trained with a sigmoid"),
        ({"text_cfg": {"hf_model_name": "roberta-base"}}, "Hugging Face's roberta-base"),
        ({"text_cfg": TEXT | {"hf_tokenizer_name": "bert-base"}}, "its tokenizer is Hugging Face's bert-base"),
        ({"text_cfg": TEXT | {"no_causal_mask": True}}, "not causal"),
        ({"text_cfg": TEXT | {"embed_cls": True}}, "not causal"),
        ({"text_cfg": TEXT | {"pool_type": "last"}}, "not causal"),
        ({"custom_text": True}, "a module of its own"),
    ],
)
def test_a_part_that_is_not_supported_is_named_before_weights_are_read(change, says, tmp_path):
    assert unsupported_part(MODEL) is None
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": MODEL | change}))
    name = f"local-dir:{tmp_path}"
    with pytest.raises(InputError, match=f"backbone {name} is not supported: .*{says}.*Choose an open_clip ViT"):
        load_backbone(name)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a configuration of open_clip"),
        ("{}", "model_cfg is missing"),
        (json.dumps({"model_cfg": {"embed_dim": 20, "vision_cfg": 3, "text_cfg": {}}}), "model_cfg.vision_cfg is 3"),
        (json.dumps({"model_cfg": MODEL | {"embed_dim": 0}}), "model_cfg.embed_dim is 0"),
        (json.dumps({"model_cfg": MODEL | {"vision_cfg": VISION | {"deep": 1}}}), "cannot build this model.*deep"),
        (json.dumps({"model_cfg": MODEL | {"colour": 1}}), "cannot build this model.*colour"),
        (json.dumps({"model_cfg": MODEL | {"text_cfg": TEXT | {"heads": 5}}}), "cannot build this model"),
        (json.dumps({"model_cfg": MODEL | {"embed_dim": 24}}), "are of another size than local-dir:"),
        (json.dumps({"model_cfg": MODEL | {"vision_cfg": VISION | {"qk_norm": True}}}), "not of local-dir:"),
    ],
)
@pytest.mark.badinput
def test_a_folder_with_another_configuration(config, says, build_clip, tmp_path):
    write_model(tmp_path, build_clip("quick_gelu"))
    (tmp_path / "open_clip_config.json").write_text(config)
    with pytest.raises(InputError, match=says) as caught:
        load_backbone(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)
