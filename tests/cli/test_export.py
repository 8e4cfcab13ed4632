"""ONNX agrees with PyTorch for backbones, scores, masks and batch sizes; the file needs nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from running import clipos, refused

from clipos_lightning.cli import export
from clipos_lightning.cli.export import Deployed, check_images, compare_with_pytorch, export_onnx
from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.detector.detector import Detector
from clipos_lightning.errors import InputError
from clipos_lightning.evaluation.heads import Head
from clipos_lightning.evaluation.memory import Memory
from clipos_lightning.evaluation.scores import SCORES, ScoreOptions
from clipos_lightning.method.logits import NO_EXTRA, ExtraTexts
from clipos_lightning.method.mask import MaskOptions

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

FRESH = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
np.savez(sys.argv[3], *session.run(["logits", "score", "mask"], {"images": np.load(sys.argv[2])}))
assert "torch" not in sys.modules
"""


@pytest.fixture
def detector(build_clip, tokenizer, unit):
    """score, mask options, surgery options -> an uncalibrated detector of three classes on a tiny random CLIP."""

    def make(score: str, mask: MaskOptions = MaskOptions(), kind: str = "plain", **surgery: object) -> Detector:
        options = SurgeryOptions(**surgery), mask, ScoreOptions()
        clip = build_clip(kind, vision={"layers": 2})  # the exporter's time grows with the blocks
        backbone = FrozenClip(clip, tokenizer, "tiny", "gelu", options[0])
        labels = torch.tensor([0, 1, 2, 0, 1, 2, 2])
        memory = Memory(unit(7, 20), unit(7, 20, seed=1), labels, torch.empty(0, 20)) if SCORES[score].memory else None
        words = ExtraTexts(negatives=unit(5, 20, seed=2)) if SCORES[score].negatives else NO_EXTRA
        head = Head("", unit(4, 20), unit(3, 20), 30.0, [score], *options, memory, words)
        return Detector(backbone, head, ["one", "two", "drei"])

    return make


@pytest.mark.parametrize("score", [pytest.param("knn", marks=pytest.mark.slow), "mahalanobis_region"])
def test_scores_that_compare_with_images(score, detector, tmp_path):
    """The memory and its covariance become constants of the file; so do thresholds by class, in the metadata."""
    made = detector(score)
    made.threshold, made.class_thresholds = -3.0, [-3.0, -2.5, -2.0]
    found = export_onnx(made, tmp_path / "d.onnx")
    assert found.score < 1e-4
    about = onnxruntime.InferenceSession(tmp_path / "d.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["class_thresholds"]) == [-3.0, -2.5, -2.0] and json.loads(about["threshold"]) == -3.0


@pytest.mark.slow
def test_a_file_by_the_command_in_a_fresh_process(microclip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["circle", "star", "Häuser"]
    text = microclip.encode_text([f"a photo of a {name}." for name in names])
    head = Head(
        "", text, text, float(microclip.scale), ["energy_region"], microclip.surgery, MaskOptions(), ScoreOptions()
    )
    detector = Detector(microclip, head, names, threshold=17.5, temperature=2.0)
    detector.save("detector.safetensors")
    run = clipos("export", "detector.safetensors")
    assert run.code == 0, run.err
    assert run.lines[0].startswith("onnx: detector.onnx (") and "in batches of 1, 2, 5" in run.out
    images = check_images(detector)
    np.save("images.npy", images.numpy())
    subprocess.run([sys.executable, "-c", FRESH, "detector.onnx", "images.npy", "out.npz"], check=True)
    logits, score, mask = np.load("out.npz").values()
    seen, maps = detector.maps(images)
    np.testing.assert_allclose(score, seen.score.numpy(), atol=1e-4)
    probability = (
        torch.from_numpy(logits / 2.0).softmax(1).max(1)
    )  # the calibrated temperature is the reader's to apply
    torch.testing.assert_close(probability.values, seen.probability, atol=1e-4, rtol=0)
    assert (probability.indices == seen.predicted).all()
    assert mask.dtype == bool and mask.shape == (8, 8, 8)
    delta = (maps.surgery - maps.clip).abs().reshape(8, 8, 8).numpy()
    assert (mask == maps.mask.reshape(8, 8, 8).numpy())[delta > 1e-3].all()
    found = onnxruntime.InferenceSession("detector.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(found["class_names"]) == names
    assert [json.loads(found[key]) for key in ("threshold", "temperature", "grid")] == [17.5, 2.0, [8, 8]]
    assert found["backbone"] == "MicroCLIP" and found["fingerprint"] == microclip.fingerprint
    assert "shorter side to 32 pixels" in found["preprocessing"]
    assert str(Path(export.__file__).parent).encode() not in Path("detector.onnx").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "detector.onnx",
        "detector.safetensors",
        "images.npy",
        "out.npz",
    ]
    refused(clipos("export", "detector.safetensors"), "detector.onnx exists")


@pytest.mark.parametrize(
    ("score", "mask", "kind", "surgery"),
    [
        ("msp_unknown", MaskOptions(kind="top_k", top_k=0.4), "quick_gelu", {}),
        pytest.param(
            *("gl_mcm", MaskOptions(threshold=0.2), "layer_scale", {"context_on": "embeddings", "kernel": "gaussian"}),
            marks=pytest.mark.slow,
        ),
        pytest.param("neg_label", MaskOptions(), "plain", {}, marks=pytest.mark.slow),
        pytest.param("mcm_region", MaskOptions(feature_surgery=True), "plain", {}, marks=pytest.mark.slow),
        pytest.param(
            *("mcm_region_unknown", MaskOptions(kind="none"), "plain", {"attention": "qk", "depth": 1}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_scores_masks_and_surgeries(detector, tmp_path, images, score, mask, kind, surgery):
    made = detector(score, mask, kind, **surgery)
    found = export_onnx(made, tmp_path / "d.onnx")
    assert found.images == 8 and found.logits <= 1e-4 and found.score <= 1e-4 and found.patches > 0.95
    others = compare_with_pytorch(
        Deployed(made), tmp_path / "d.onnx", images(8, 16)
    )  # images that were not those of the export
    assert others.logits <= 1e-4 and others.score <= 1e-4


def test_a_file_that_says_something_else_is_not_written(detector, tmp_path, monkeypatch):
    made = detector("energy")

    def write_another(module, path, texts):
        path.write_bytes(b"")

    class Session:
        def __init__(self, *args, **kwargs):
            pass

        def run(self, names, inputs):
            with torch.no_grad():
                outputs = [t.numpy() for t in Deployed(made)(torch.from_numpy(inputs["images"]))]
            return [outputs[0] + 2e-4, *outputs[1:]]

    monkeypatch.setattr(export, "write_onnx", write_another)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    with pytest.raises(InputError, match=r"disagree \(logits by 2.0e-04.*nothing was written"):
        export_onnx(made, tmp_path / "d.onnx")
    assert not list(tmp_path.iterdir())


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    refused(clipos("export", "x.ckpt"), "onnxscript not installed: run pip install 'clipos-lightning[export]'")
    monkeypatch.undo()
    refused(clipos("export", "x.ckpt", "--out", tmp_path / "no/x.onnx"), "no folder")
    refused(clipos("export", tmp_path / "no.ckpt", "--out", tmp_path / "x.onnx"), "no.ckpt")
    refused(clipos("export"), "clipos export --help")
