"""Backbones and weights that are loaded, and those that are refused before any download."""

import open_clip
import pytest
import torch
from conftest import TEXT, VISION
from safetensors.torch import save_file

from clipos_lightning.clip.loading import load_backbone
from clipos_lightning.clip.support import check_supported
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.errors import InputError


@pytest.fixture
def no_download(monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        pytest.fail("tried to build or download a model")

    monkeypatch.setattr(open_clip, "create_model", refuse)


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize(
    ("name", "pretrained", "says"),
    [
        (
            "RN50",
            None,
            "RN50 is not supported: its image tower is a ResNet.*Choose an open_clip ViT.*ViT-B-16-quickgelu",
        ),
        ("RN50-quickgelu", "openai", "ResNet"),
        ("ViT-B-16-SigLIP", None, "trained with a sigmoid for each class.*softmax over the classes"),
        ("nllb-clip-base-siglip", None, "trained with a sigmoid"),
        ("coca_ViT-B-32", None, "it is a CoCa"),
        ("EVA02-B-16", None, "its image tower is timm's eva02_base_patch16_clip_224"),
        ("convnext_base", None, "its image tower is timm's convnext_base"),
        ("ViTamin-B", None, "its image tower is timm's vitamin_base_224"),
        ("MobileCLIP-B", None, "its image tower is timm's vit_base_mci_224"),
        ("xlm-roberta-base-ViT-B-32", None, "its text tower is Hugging Face's xlm-roberta-base"),
        ("ViT-L-14-worldwide", None, "its tokenizer is Hugging Face's"),
        ("ViT-B-16", None, "activation mismatch.*--model.backbone ViT-B-16-quickgelu"),
        ("ViT-B-16", "openai", "activation mismatch.*--model.backbone ViT-B-16-quickgelu"),
        ("ViT-B-32-quickgelu", "laion2b_s34b_b79k", "neither a file nor a tag of ViT-B-32-quickgelu.*openai"),
        ("ViT-B-16-quickgelu", "openal", "'openal' is neither a file nor a tag of ViT-B-16-quickgelu.*openai"),
        ("MicroCLIP", "openai", "'openai' is neither a file nor a tag of MicroCLIP.*--model.pretrained null"),
        ("MicroCLIP", "nowhere/weights.safetensors", "no file of weights nowhere/weights.safetensors.*FILE"),
        ("ViT-L-14-CLIPA", None, "does not pool by the class token"),
        ("roberta-ViT-B-32", "laion2b_s12b_b32k", "its text tower is Hugging Face's roberta-base"),
        ("VIT-Z-99", None, "unknown backbone 'VIT-Z-99'"),
        ("", None, "unknown backbone ''.*e.g. ViT-B-16-quickgelu"),
        ("microclip", None, "did you mean MicroCLIP"),
        ("vit-b-16-QuickGELU", None, "did you mean ViT-B-16-quickgelu"),
    ],
)
def test_refused_before_any_download(name, pretrained, says):
    with pytest.raises(InputError, match=says):
        load_backbone(name, pretrained)


def test_embedded_weights_load_by_name_alone(microclip):
    assert (microclip.name, microclip.activation) == ("MicroCLIP", "gelu")
    assert (microclip.image_size, microclip.grid, microclip.depth(microclip.surgery)) == (32, (8, 8), 3)
    assert microclip.depth(SurgeryOptions(depth=1)) == 1


def test_weights_from_a_local_file(microclip, images, tmp_path):
    weights = {name: tensor.clone() for name, tensor in microclip.clip.state_dict().items()}
    save_file(weights, tmp_path / "same.safetensors")
    loaded = load_backbone("MicroCLIP", str(tmp_path / "same.safetensors"))
    assert loaded.fingerprint == microclip.fingerprint
    one, other = (b.encode_image(images(2, 32), frozenset({"vv"})) for b in (loaded, microclip))
    assert torch.equal(one.cls, other.cls)
    assert torch.equal(one.patches_vv, other.patches_vv)
    weights["visual.proj"] = -weights["visual.proj"]
    save_file(weights, tmp_path / "other.safetensors")
    flipped = load_backbone("MicroCLIP", str(tmp_path / "other.safetensors"))
    assert flipped.fingerprint != microclip.fingerprint
    assert torch.equal(flipped.encode_image(images(2, 32)).cls, -other.cls)


@pytest.mark.parametrize(
    ("vision", "text", "says"),
    [
        ({"pool_type": "avg"}, {}, "does not pool by the class token"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, {}, "does not pool by the class token"),
        *(({option: True}, {}, "attention") for option in ("scale_attn", "qk_norm", "scale_heads", "scale_attn_inner")),
        ({"image_size": (16, 32)}, {}, "not square"),
        ({"layers": (1, 1, 1, 1), "head_width": 8}, {}, "not a ViT with a class token"),
        ({}, {"no_causal_mask": True}, "not causal"),
        ({}, {"pool_type": "last"}, "not causal with the feature at the end token"),
    ],
)
def test_towers_that_the_method_cannot_read_are_refused(build_clip, tokenizer, vision, text, says):
    with pytest.raises(InputError, match=f"backbone mine is not supported.*{says}"):
        check_supported(build_clip(vision=vision, text=text), tokenizer, "mine")


def test_other_models_and_tokenizers_are_refused(build_clip, tokenizer):
    towers = {"vision_cfg": VISION, "text_cfg": TEXT | {"no_causal_mask": True}}
    with pytest.raises(InputError, match="a CustomTextCLIP, not a plain CLIP"):
        check_supported(open_clip.CustomTextCLIP(20, **towers), tokenizer, "mine")
    with pytest.raises(InputError, match="a Linear, not a plain CLIP"):
        check_supported(torch.nn.Linear(2, 2), tokenizer, "mine")
    with pytest.raises(InputError, match="tokenizer is a object"):
        check_supported(build_clip(), object(), "mine")
    check_supported(build_clip(), tokenizer, "mine")


@pytest.mark.parametrize("depth", [-1, 5])
def test_more_blocks_than_there_are(tiny_clip, depth):
    with pytest.raises(InputError, match=f"depth is {depth}: tiny-plain has 4 blocks, take 0 to 4"):
        tiny_clip("plain", depth=depth)
