"""Detector files that were changed: each part that does not fit is named, and nothing else is raised."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clipos_lightning import ClipOS, ContextOptions, Detector, ExtraTexts, InputError
from clipos_lightning.detector.file import read_detector
from clipos_lightning.evaluation.memory import Memory

WORDS: dict[str, Any] = {"backbone": "MicroCLIP", "context": ContextOptions(words="a photo of a")}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector of two classes with a memory of three images, a context and three negative words."""
    model = ClipOS(["cat", "dog"], score="energy", **WORDS)
    model.trained = True
    detector = Detector.of(model)
    features = torch.nn.functional.normalize(torch.randn(3, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    memory = Memory(features, features.flip(0), torch.tensor([0, 1, 1]), features[:0])
    detector.head = replace(detector.head, memory=memory, extra=ExtraTexts(negatives=features))
    path = tmp_path_factory.mktemp("file") / "detector.safetensors"
    detector.save(path)
    return path


def refuse(tensors: dict[str, torch.Tensor], record: dict[str, Any], part: str, folder: Path) -> None:
    """Loading the changed file is an InputError of one line that names the part."""
    save_file(tensors, folder / "changed.safetensors", {"clipos": json.dumps(record)})
    with pytest.raises(InputError, match=rf"^[^\n]*is broken: [^;\n]*\b{part}\b[^;\n]*; write the"):
        Detector.load(folder / "changed.safetensors", "cpu")


def test_the_file_as_it_was_written(path: Path) -> None:
    detector = Detector.load(path, "cpu")
    assert detector.head.memory is not None and detector.head.memory.labels.tolist() == [0, 1, 1]
    assert detector.prompting is not None and detector.prompting.context is not None


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("text", lambda t: t[0]),
        ("text", lambda t: torch.tensor(1.0)),
        ("text", lambda t: t[:1]),
        ("text", lambda t: t.half()),
        ("text", lambda t: t * torch.nan),
        ("class_text", lambda t: t[:, :7].contiguous()),
        ("class_text", None),
        ("context", lambda t: t[0]),
        ("negatives", lambda t: t[0]),
        ("negatives", lambda t: t[:0]),
        ("negatives", lambda t: t[:, :7].contiguous()),
        ("memory.labels", None),
        ("memory.labels", lambda t: t.float()),
        ("memory.labels", lambda t: t[:, None]),
        ("memory.labels", lambda t: torch.tensor(0)),
        ("memory.labels", lambda t: t + 1),
        ("memory.labels", lambda t: t - 1),
        ("memory.labels", lambda t: torch.tensor([0, 1, 2**40])),
        ("memory.labels", lambda t: t * 0),
        ("memory.features", None),
        ("memory.features", lambda t: t[:2].contiguous()),
        ("memory.features", lambda t: t.double()),
        ("memory.regions", lambda t: t / 0),
        ("memory.patches", lambda t: torch.tensor(0.0)),
        ("memory.patches", lambda t: torch.zeros(2, 7)),
    ],
)
def test_a_tensor_that_does_not_fit(name: str, change: Any, path: Path, tmp_path: Path) -> None:
    tensors, record = read_detector(path)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors[name])
    refuse(tensors, record, name.replace(".", r"\."), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_thresholds", [1.0]),
        ("class_thresholds", [1.0, "high"]),
        ("class_wordings", [{"names": ["cat"]}]),
        ("class_names", ["cat", 2]),
        ("temperature", 0),
        ("temperature", float("nan")),
        ("backbone", None),
        ("image_size", "32"),
        ("image_size", 0),
        ("class_names", []),
        ("class_wordings", [{"names": []}, {"names": ["dog"]}]),
        ("class_wordings", [{"names": ["cat"], "templates": ["a photo"]}, {"names": ["dog"]}]),
        ("score", "enrgy"),
        ("surgery", {}),
        ("mask", {"kind": "disc", "threshold": None, "top_k": 0.2}),
        ("scoring", {"temperature": "1", "local_weight": 1.0, "region_weight": 1.0}),
        ("threshold", "1.5"),
        ("threshold", True),
        ("threshold", float("inf")),
        ("threshold", 10**400),
        ("calibration", []),
        ("preprocessing", {"resize_mode": "squash"}),
        ("prompting", None),
        ("prompting", "a photo"),
        ("prompting", {"template": "a photo of a {}."}),
    ],
)
def test_a_value_that_does_not_fit(key: str, value: Any, path: Path, tmp_path: Path) -> None:
    tensors, record = read_detector(path)
    refuse(tensors, record | {key: value}, key, tmp_path)


def test_a_score_without_what_it_needs(path: Path, tmp_path: Path) -> None:
    tensors, record = read_detector(path)
    without = {name: tensor for name, tensor in tensors.items() if not name.startswith("memory.")}
    save_file(without, tmp_path / "a.safetensors", {"clipos": json.dumps(record | {"score": "knn"})})
    with pytest.raises(InputError, match="the score knn compares with images, and this detector keeps none"):
        Detector.load(tmp_path / "a.safetensors", "cpu")
    save_file(
        {**tensors, "text": tensors["text"][:2].clone()},
        tmp_path / "b.safetensors",
        {"clipos": json.dumps(record | {"score": "unknown"})},
    )
    with pytest.raises(InputError, match="the score unknown needs an unknown prompt"):
        Detector.load(tmp_path / "b.safetensors", "cpu")
    with pytest.raises(InputError, match="the score knn compares with images"):
        Detector.of(ClipOS(["cat", "dog"], score="knn", **WORDS))


def test_a_checkpoint_with_half_a_memory(path: Path) -> None:
    model = ClipOS(["cat", "dog"], score="energy", **WORDS)
    checkpoint: dict[str, Any] = {"state_dict": dict(model.state_dict())}
    model.on_save_checkpoint(checkpoint)
    features = torch.nn.functional.normalize(torch.ones(2, 128), dim=1)
    checkpoint["state_dict"] |= {"memory_features": features, "memory_labels": torch.tensor([0, 1])}
    with pytest.raises(InputError, match="the checkpoint is broken: memory_regions is missing or invalid"):
        model.on_load_checkpoint(checkpoint)
