"""Prompt templates by one prompt, by several and by name; what is none of these is refused."""

import pytest
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from clipos_lightning.clip import backbone as backbone_module
from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.prompt_templates import as_templates
from clipos_lightning.errors import InputError


@pytest.mark.parametrize(
    ("name", "fills"), [("imagenet7", SIMPLE_IMAGENET_TEMPLATES), ("imagenet80", OPENAI_IMAGENET_TEMPLATES)]
)
def test_a_name_is_open_clips_list(name: str, fills: tuple) -> None:
    templates = as_templates(name)
    assert [text.replace("{}", "red fox") for text in templates] == [fill("red fox") for fill in fills]
    templates.clear()
    assert len(as_templates(name)) == len(fills) == int(name.removeprefix("imagenet"))  # not the caller's list


def test_prompts_are_taken_as_they_are() -> None:
    assert as_templates("{}") == ["{}"]
    assert as_templates(["a {}.", "imagenet7 {}"]) == ["a {}.", "imagenet7 {}"]


@pytest.mark.parametrize(
    "given",
    ["plain", "imagenet9", "", "{} or {}", [], ["a {}.", "plain"], ["imagenet7"], ["{} {}"], "[a {}.]", "[a {}., {}]"],
)
def test_what_is_no_template_is_refused(given: str | list[str]) -> None:
    with pytest.raises(InputError, match=r"^--model\.template.*imagenet7 or imagenet80$"):
        as_templates(given)


def test_many_prompts_are_encoded_in_parts(microclip: FrozenClip, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [text.replace("{}", name) for name in ("cat", "fire truck") for text in as_templates("imagenet7")]
    whole = microclip.encode_text(texts)
    monkeypatch.setattr(backbone_module, "TEXT_BATCH", 4)
    torch.testing.assert_close(microclip.encode_text(texts), whole, atol=1e-6, rtol=0)
    with pytest.raises(InputError, match=r"'one two.* reads 16: shorten the name, or the prompt \(--model.template\)"):
        microclip.encode_text(["a cat.", "one two three four five six seven eight nine ten eleven twelve and so on"])
