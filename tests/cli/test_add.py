"""clipos add: another class, from its images alone; the detector equals one that had the class from the start."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from running import clipos, done, inside, refused, save_scene

from clipos_lightning import ClipOS, ContextOptions, Detector, InputError

CLASSES = ("circle", "heart", "star")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    assert more.temperature == two.temperature and set(more.calibration) == {"temperature"} and two.threshold == -9
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


def test_several_classes_at_once_and_a_folder_by_its_own_name(
    at_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_scene(tmp_path / "more/big_star/0.png", "star", 0)
    save_scene(tmp_path / "more/key/0.png", "key", 0)
    run = clipos("add", "two.safetensors", tmp_path / "more", "--out", "e.safetensors")
    assert run.code == 0 and "added: big star (1 image)" in run.out and "classes: 4" in run.out, run.err
    assert "threshold: none (the former one" in run.out
    assert Detector.load("e.safetensors", "cpu").class_names == ["circle", "heart", "big star", "key"]
    monkeypatch.chdir(tmp_path / "more/key")
    run = clipos("add", at_home / "photos.ckpt", ".", "--out", "../e.safetensors")
    assert run.code == 0 and "added: key (1 image)" in run.out, run.err
    assert "threshold" not in run.out  # there was none


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


def images_of(detector: Detector) -> torch.Tensor:
    """The mean feature of the new class's images."""
    with torch.inference_mode():
        features = detector.backbone.encode_image(detector.prepare([f"new/star/{i}.png" for i in range(3)])).cls
    return torch.nn.functional.normalize(features.mean(0), dim=0)


def test_a_detector_can_be_extended_again(at_home: Path) -> None:
    """The wordings of all classes are kept, and no threshold of the former ones."""
    two = Detector.load("two.safetensors", "cpu")
    two.class_thresholds = [1.0, 2.0]
    three = two.add_class({"names": ["five-pointed star", "star"]}, ["new/star/0.png"])
    four = three.add_class("key", ["new/star/1.png"])
    assert four.class_names == ["circle", "heart", "five-pointed star", "key"]
    names = [["circle"], ["heart"], ["five-pointed star", "star"], ["key"]]
    assert four.class_wordings == [{"names": group} for group in names]
    assert (three.threshold, three.class_thresholds, two.class_thresholds) == (None, None, [1.0, 2.0])
    with pytest.raises(InputError, match="'star' is taken"):  # a second name of a class
        three.add_class("star", ["new/star/1.png"])
    assert four.head.memory is not None and four.head.memory.labels[6:].tolist() == [2, 3]
    four.save("e.safetensors")
    assert Detector.load("e.safetensors", "cpu").class_wordings == four.class_wordings


def test_the_new_class_follows_the_template_and_the_image_weight(
    at_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Detector.load("two.safetensors", "cpu")
    assert two.prompting is not None
    two.prompting = replace(two.prompting, image_weight=0.3, template="a drawing of a {}.")
    paths = [f"new/star/{i}.png" for i in range(3)]
    text = two.backbone.encode_text(["a drawing of a star."])[0]
    expected = torch.nn.functional.normalize(0.7 * text + 0.3 * images_of(two), dim=0)
    whole = two.add_class("star", paths)
    torch.testing.assert_close(whole.head.class_text[2], expected)
    monkeypatch.setattr("clipos_lightning.detector.detector.BATCH", 2)  # in two batches
    parts = two.add_class("star", paths)
    torch.testing.assert_close(parts.head.class_text, whole.head.class_text)
    assert parts.head.memory is not None and whole.head.memory is not None
    torch.testing.assert_close(parts.head.memory.regions, whole.head.memory.regions)


def test_a_single_class_gets_another_and_its_patches_are_dropped(at_home: Path) -> None:
    """Before, a map shows where an image differs from the class; with two classes there is no such map."""
    model = ClipOS(["circle"], backbone="MicroCLIP", score="energy", context=ContextOptions(words="a photo of a"))
    one = Detector.of(model)
    with torch.inference_mode():
        pixels = one.prepare("photos/circle/0.png")
        memory = one.head.remember(one.backbone.encode_image(pixels, one.head.memory_paths))
    one.head = replace(one.head, memory=memory)
    assert len(memory.patches) and one.maps(pixels)[1].difference is not None
    two = one.add_class("star", ["new/star/0.png"])
    assert two.head.memory is not None and two.head.memory.labels.tolist() == [0, 1]
    assert len(two.head.memory.patches) == 0 and two.maps(pixels)[1].difference is None
    prompts = ["a photo of a circle.", "a photo of a star."]  # nothing was learned
    torch.testing.assert_close(two.head.text[:2], two.backbone.encode_text(prompts))


def test_a_detector_without_a_memory_gets_a_class_by_its_name(at_home: Path) -> None:
    words: dict[str, Any] = {
        "backbone": "MicroCLIP",
        "score": "energy",
        "context": ContextOptions(length=4),
    }  # random, not trained
    three = Detector.of(ClipOS(["circle", "heart"], **words)).add_class("star", ["new/star/0.png"])
    other = Detector.of(ClipOS(["circle", "heart", "star"], **words))
    assert three.head.memory is None
    torch.testing.assert_close(three.head.text, other.head.text)
    torch.testing.assert_close(three.head.class_text, other.head.class_text)


def test_the_unknown_word_is_no_class(at_home: Path) -> None:
    words = {"backbone": "MicroCLIP", "score": "energy", "context": ContextOptions(length=4)}
    detector = Detector.of(ClipOS(["circle", "heart"], unknown_word="stranger", **words))
    detector.save("e.safetensors", overwrite=True)
    for name in ("Stranger", "unknown"):
        with pytest.raises(InputError, match=f"'{name}' is taken"):
            Detector.load("e.safetensors", "cpu").add_class(name, ["new/star/0.png"])


def test_what_cannot_be_added(at_home: Path, tmp_path: Path) -> None:
    refused(clipos("add", "two.safetensors", "photos/heart"), "'heart' is taken", "--class_names")
    refused(clipos("add", "two.safetensors", "nowhere"), "add: no folder nowhere")
    refused(clipos("add", "two.safetensors", tmp_path), f"add: no image below {tmp_path}")
    Path("names.yaml").write_text("moon: half-moon\n")
    words = ("add", "two.safetensors", "new/star", "--class_names", "names.yaml")
    refused(clipos(*words), "add: --class_names: names.yaml names 'moon'")
    refused(clipos("add", "nothing.ckpt", "new"), "add: no file nothing.ckpt")
    refused(clipos("add", "two.safetensors", "new", "--out", "two.safetensors"), "two.safetensors exists")
    refused(clipos("add", "two.safetensors", "new", "--out", "x.ckpt"), "must end in .safetensors")
    detector = Detector.load("two.safetensors", "cpu")
    with pytest.raises(InputError, match="at least one image"):
        detector.add_class("star", [])
    with pytest.raises(InputError, match="the new class must be a name"):
        detector.add_class({"names": []}, ["new/star/0.png"])
    with pytest.raises(InputError, match="'Unknown' is taken"):
        detector.add_class("Unknown", ["new/star/0.png"])
    with pytest.raises(InputError, match="'Heart' is taken"):  # also by its second name
        detector.add_class({"names": ["love", "Heart"]}, ["new/star/0.png"])
    detector.prompting = None
    with pytest.raises(InputError, match="fit again"):
        detector.add_class("star", ["new/star/0.png"])
