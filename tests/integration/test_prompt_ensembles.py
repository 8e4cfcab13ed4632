"""Several prompts per class (`--model.template`): the mean of their features, from fit to add."""

import csv
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES
from running import CPU, clipos, done, make_photos, refused, save_scene

from clipos_lightning import ClipOS, ContextOptions, Detector
from clipos_lightning.clip.backbone import FrozenClip

CLASSES = ["circle", "heart", "star"]
SEVERAL = ["a photo of a {}.", "a drawing of the {}.", "{} in the snow"]
FILLS: dict[str, Any] = {
    "imagenet7": SIMPLE_IMAGENET_TEMPLATES,
    "imagenet80": OPENAI_IMAGENET_TEMPLATES,
    "several": [lambda name, text=text: text.replace("{}", name) for text in SEVERAL],
}
GIVEN: dict[str, str | list[str]] = {"imagenet7": "imagenet7", "imagenet80": "imagenet80", "several": SEVERAL}
SHOTS = ("--data.root", ".", "--data.id", "folder:photos", "--data.shots", 2)


def ensemble(backbone: FrozenClip, prompts: list[str]) -> torch.Tensor:
    """The mean of the normalised features of the prompts, normalised: one prompt after the other, by open_clip."""
    tokenize = open_clip.get_tokenizer("ViT-B-32")
    total = torch.zeros(128)
    for prompt in prompts:
        tokens = tokenize([prompt], context_length=backbone.clip.context_length)
        feature = backbone.clip.encode_text(tokens)[0]
        total += feature / feature.norm()
    mean = total / len(prompts)
    return mean / mean.norm()


def expected_rows(backbone: FrozenClip, kind: str, names: list[str] = CLASSES) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([ensemble(backbone, [fill(name) for fill in FILLS[kind]]) for name in names])


def model_of(template: str | list[str], **changes: Any) -> ClipOS:
    options = {"backbone": "MicroCLIP", "score": "energy", "context": ContextOptions(words="a photo of a")}
    return ClipOS(CLASSES, template=template, **options | changes)


@pytest.mark.parametrize("kind", FILLS)
def test_a_class_is_the_mean_of_its_prompts(kind: str) -> None:
    model = model_of(GIVEN[kind])
    expected = expected_rows(model.backbone, kind)
    torch.testing.assert_close(model.class_text, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.zero_shot_text[:-1], expected, atol=1e-5, rtol=0)
    one = model_of("a photo of a {}.")
    assert (one.class_text - expected).abs().max() > 0.01
    unknown = (model.zero_shot_text[-1], one.zero_shot_text[-1])  # its prompt is another option
    torch.testing.assert_close(*unknown, atol=1e-6, rtol=0)
    assert torch.equal(model.prompts(), one.prompts())  # a learned context starts from its words
    frozen = model_of(GIVEN[kind], context=ContextOptions(words="a photo of a", learn="unknown_only"), score=None)
    torch.testing.assert_close(frozen.prompts()[:-1], expected, atol=1e-5, rtol=0)


def test_templates_of_a_class_win() -> None:
    wordings = [{"names": ["circle"], "templates": ["the {}."]}, {"names": ["heart"]}, {"names": ["star", "sun"]}]
    model = model_of(SEVERAL, class_wordings=wordings)
    pairs = [[text.replace("{}", name) for name in ("star", "sun") for text in SEVERAL]]
    prompts = [["the circle."], [text.replace("{}", "heart") for text in SEVERAL], *pairs]
    expected = [ensemble(model.backbone, group) for group in prompts]
    torch.testing.assert_close(model.class_text, torch.stack(expected), atol=1e-5, rtol=0)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_photos(tmp_path)
    save_scene(tmp_path / "new/key/0.png", "key", 0)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "flag"),
    [
        ("several", str(SEVERAL).replace("'", '"')),
        pytest.param("imagenet7", "imagenet7", marks=pytest.mark.slow),
    ],
)
def test_from_fit_to_add(kind: str, flag: str, home: Path) -> None:
    options = ("--config", "demo.yaml", *SHOTS, "--model.template", flag, "--data.ood_sets", "[folder:other]")
    fit = done("fit", *options, "--trainer.max_steps", 1)
    first = FILLS[kind][0]("circle")
    assert f'"{first}" (first of {len(FILLS[kind])})' in fit.out
    checkpoint = torch.load(fit.checkpoint, weights_only=True)
    assert checkpoint["hyper_parameters"]["template"] == GIVEN[kind]

    test = done("test", "--ckpt_path", fit.checkpoint)
    assert test.report["run"]["config"]["model"]["template"] == GIVEN[kind]
    same = done("test", "--ckpt_path", fit.checkpoint, "--model.template", flag)
    assert same.report["average"] == test.report["average"]
    refused(clipos("test", "--ckpt_path", fit.checkpoint, "--model.template", "a {}.", *CPU), "--model.template")
    zero_shot = done("test", *options)
    assert zero_shot.report["average"]["energy"] == pytest.approx(test.report["zero_shot"]["average"]["energy"])

    calibrated = clipos("calibrate", fit.checkpoint, "photos/train", "--views", 1, "--recall", 0.5)
    assert calibrated.code == 0, calibrated.err
    detector = Detector.load("detector.safetensors", "cpu")
    assert detector.prompting is not None and detector.prompting.template == GIVEN[kind]
    expected = expected_rows(detector.backbone, kind)
    torch.testing.assert_close(detector.head.class_text, expected, atol=1e-5, rtol=0)
    added = clipos("add", "detector.safetensors", "new/key")
    assert added.code == 0, added.err
    extended = Detector.load("extended.safetensors", "cpu")
    torch.testing.assert_close(
        extended.head.class_text[3], expected_rows(detector.backbone, kind, ["key"])[0], atol=1e-5, rtol=0
    )
    predicted = clipos("predict", "extended.safetensors", "photos/test")
    rows = list(csv.DictReader(predicted.out.splitlines()))
    assert predicted.code == 0 and rows and {row["class"] for row in rows} <= {*CLASSES, "key", "unknown"}


def test_a_list_in_a_config(home: Path) -> None:
    Path("mine.yaml").write_text('model:\n  template:\n    - "a photo of a {}."\n    - the {}\n')
    words = ("--config", "demo.yaml", "--config", "mine.yaml", *SHOTS, "--trainer.max_steps", 1)
    fit = done("fit", *words)
    checkpoint = torch.load(fit.checkpoint, weights_only=True)
    assert checkpoint["hyper_parameters"]["template"] == ["a photo of a {}.", "the {}"]
    Path("mine.yaml").write_text("model:\n  template: []\n")
    refused(clipos("fit", *words, *CPU), "--model.template is an empty list", "imagenet80")
