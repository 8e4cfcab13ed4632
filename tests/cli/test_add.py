"""clipos add: a class more, from its images alone; the detector equals one that had the class from the start."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from running import clipos, done, inside, refused, save_scene

from clipos_lightning import Detector, InputError

pytestmark = pytest.mark.usefixtures("one_clip")
CLASSES = ("circle", "heart", "star")


@pytest.fixture(scope="module")
def home(one_clip: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ of two classes, new/star/ of a third, all/ of the three; a detector of the two, and of all."""
    root = tmp_path_factory.mktemp("home")
    for shape in CLASSES:
        for i in range(3):
            save_scene(root / "all" / shape / f"{i}.png", shape, i)
            save_scene(root / ("new" if shape == "star" else "photos") / shape / f"{i}.png", shape, i)
    with inside(root):
        for name in ("photos", "all"):
            words = ("--data.id", f"folder:{name}", "--model.image_weight", 0.5, "--trainer.max_steps", 1)
            fit = done("fit", "--config", "own_micro.yaml", *words)
            Path(f"{name}.ckpt").write_bytes(Path(fit.checkpoint).read_bytes())
        two = clipos("calibrate", "photos.ckpt", "photos", "--threshold", -9, "--out", "two.safetensors", "--views", 1)
        assert two.code == 0, two.err
    return root


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(home)
    yield home
    for path in home.glob("e*.safetensors"):
        path.unlink()


@pytest.mark.parametrize("learned", [True, False])
def test_the_new_detector_is_that_of_all_classes(learned: bool, at_home: Path) -> None:
    """With the context of the two-class detector, each row equals the row of a detector that was made of all three."""
    two, three = Detector.load("two.safetensors", "cpu"), Detector.load("all.ckpt", "cpu")
    run = clipos("add", "two.safetensors", "new/star")
    assert run.code == 0, run.err
    more = Detector.load("extended.safetensors", "cpu")
    assert more.class_names == ["circle", "heart", "star"] and more.threshold is None
    assert more.temperature == 1 and more.calibration == {} and two.threshold == -9
    torch.testing.assert_close(more.head.class_text, three.head.class_text)  # frozen: the same
    torch.testing.assert_close(more.head.text[:2], two.head.text[:2], rtol=0, atol=0)
    torch.testing.assert_close(more.head.text[3], two.head.text[2], rtol=0, atol=0)  # "unknown" stays last
    assert more.head.memory is not None and three.head.memory is not None
    mine, theirs = (memory.features[:, 0].argsort() for memory in (more.head.memory, three.head.memory))
    for name in ("features", "regions", "labels"):  # the order of images within a class is another
        torch.testing.assert_close(more.head.memory.tensors[name][mine], three.head.memory.tensors[name][theirs])
    assert two.prompting is not None and more.prompting is not None and two.prompting.context is not None
    assert torch.equal(two.prompting.context, more.prompting.context)
    if learned:  # the learned prompt, blended with the images, by hand
        prompt = f"{' '.join(['a'] * len(two.prompting.context))} star."  # placeholders, replaced by the context
        embeddings, ends = more.backbone.embed_prompts([prompt.split()[-1]], len(two.prompting.context))
        prefix = torch.cat([embeddings[0, :1], two.prompting.context])
        n = len(prefix)
        text = more.backbone.encode_embeddings(embeddings[:, n:], ends - n, prefix)
        images = torch.stack([more.head.memory.features[6:].mean(0)])
        images = torch.nn.functional.normalize(images, dim=1)
        expected = torch.nn.functional.normalize(0.5 * text + 0.5 * images, dim=1)
        torch.testing.assert_close(more.head.text[2:3], expected)


def test_images_of_the_new_class_are_recognised(at_home: Path) -> None:
    assert clipos("add", "photos.ckpt", "folder:new", "--out", "e.safetensors").code == 0  # a folder of class folders
    detector = Detector.load("e.safetensors", "cpu")
    assert [detector(f"new/star/{i}.png").class_name for i in range(3)] == ["star"] * 3


def test_a_class_can_have_several_names(at_home: Path) -> None:
    Path("names.yaml").write_text("star: {names: [five-pointed star, star], templates: ['a drawing of a {}.']}\n")
    run = clipos("add", "two.safetensors", "new/star", "--class_names", "names.yaml", "--out", "e.safetensors")
    assert run.code == 0 and "added: five-pointed star (3 images)" in run.out
    detector, plain = Detector.load("e.safetensors", "cpu"), Detector.load("two.safetensors", "cpu")
    assert detector.class_names[2] == "five-pointed star"
    assert detector.class_wordings is not None and detector.class_wordings[0] == {"names": ["circle"]}
    prompts = [f"a drawing of a {name}." for name in ("five-pointed star", "star")]
    text = torch.nn.functional.normalize(plain.backbone.encode_text(prompts).mean(0), dim=0)
    images = plain.backbone.encode_image(plain.prepare([f"new/star/{i}.png" for i in range(3)])).cls.mean(0)
    images = torch.nn.functional.normalize(images, dim=0)
    expected = torch.nn.functional.normalize(0.5 * text + 0.5 * images, dim=0)
    torch.testing.assert_close(detector.head.class_text[2], expected)


def test_what_cannot_be_added(at_home: Path, tmp_path: Path) -> None:
    refused(clipos("add", "two.safetensors", "photos/heart"), "two classes are named 'heart'", "--class_names")
    refused(clipos("add", "two.safetensors", "nowhere"), "add: no folder nowhere")
    refused(clipos("add", "two.safetensors", tmp_path), "add")
    refused(clipos("add", "nothing.ckpt", "new"), "add: no file nothing.ckpt")
    refused(clipos("add", "two.safetensors", "new", "--out", "two.safetensors"), "two.safetensors exists")
    refused(clipos("add", "two.safetensors", "new", "--out", "x.ckpt"), "must end in .safetensors")
    detector = Detector.load("two.safetensors", "cpu")
    with pytest.raises(InputError, match="at least one image"):
        detector.add_class("star", [])
    detector.prompting = None
    with pytest.raises(InputError, match="fit again"):
        detector.add_class("star", ["new/star/0.png"])
