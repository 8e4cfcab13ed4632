"""Heads share one pass; own scores and objectives by path; class features from images; images of another size."""

import sys

import pytest
import torch
import torch.nn.functional as F
from running import CPU, clipos, done, refused

from clipos_lightning.clip.loading import load_backbone, shared_weights
from clipos_lightning.clip.surgery import SurgeryOptions
from clipos_lightning.errors import InputError
from clipos_lightning.evaluation.heads import Head, all_paths, all_surgeries, score_all
from clipos_lightning.evaluation.results import map_values
from clipos_lightning.evaluation.score_names import defined_scores
from clipos_lightning.evaluation.scores import ScoreOptions, compute_scores, find_score
from clipos_lightning.method.mask import MAP_PATHS, MaskOptions, relevant_patches, surgery_map
from clipos_lightning.method.objective_names import make_objective
from clipos_lightning.method.prototypes import blend, class_means
from clipos_lightning.utils.imports import load_object

SURGERIES = [
    SurgeryOptions(),
    SurgeryOptions(beta=0.9, kernel_size=5, kernel="gaussian"),
    SurgeryOptions(attention="qk", depth=1),
    SurgeryOptions(context_on="embeddings", depth=3),
    SurgeryOptions(depth=0),
]
OWN = """
import torch

from clipos_lightning import Objective
from clipos_lightning import Score


def margin(evidence):
    first, second = evidence.logits.topk(2, dim=-1).values.unbind(-1)
    return first - second


def shapeless(evidence):
    return evidence.logits


def broken(evidence):
    return evidence.logit


region_margin = Score(margin, on="region")
number = 3


class Smooth(Objective):
    outliers = "synthesis"

    def __init__(self, power=2.0):
        self.power = power

    def outlier_loss(self, logits):
        return logits.abs().mean(1) ** self.power
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's own in the working directory; returns the directory."""
    (tmp_path / "own_parts.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    find_score.cache_clear()
    yield tmp_path
    sys.modules.pop("own_parts", None)
    while str(tmp_path) in sys.path:
        sys.path.remove(str(tmp_path))


def test_several_surgeries_in_one_forward_equal_a_forward_each(tiny_clip, images):
    pixels, paths = images(3, 16), frozenset({"clip", "vv", "local"})
    together = tiny_clip("plain").encode_surgeries(pixels, paths, SURGERIES)
    assert list(together) == SURGERIES
    for options, features in together.items():
        alone = tiny_clip("plain", **vars(options)).encode_image(pixels, paths)
        for name in ("cls", "patches", "patches_vv", "patches_local"):
            assert torch.equal(getattr(features, name), getattr(alone, name)), (options, name)
    assert len({features.patches_vv.sum().item() for features in together.values()}) == len(SURGERIES)


def test_many_heads_on_shared_features_equal_each_alone(tiny_clip, images, unit):
    backbone, pixels = tiny_clip("plain"), images(4, 16)
    heads = [
        Head(f"{i}/", unit(4 + i % 2, 20, seed=i), unit(4, 20), 30.0, scores, options, MaskOptions(), ScoreOptions())
        for i, (options, scores) in enumerate(
            [
                (SURGERIES[0], ["msp", "energy_region"]),
                (SURGERIES[1], ["unknown", "mcm_region"]),
                (SURGERIES[2], ["msp"]),
            ]
        )
    ]
    assert all_paths(heads) == {"clip", "vv"}
    assert all_surgeries(heads) == SURGERIES[:2]  # the third looks at no patches
    assert all_surgeries(heads[2:]) == SURGERIES[2:3]
    values = score_all(heads, backbone.encode_surgeries(pixels, all_paths(heads), all_surgeries(heads)))
    column = 0
    for head in heads:
        features = tiny_clip("plain", **vars(head.surgery)).encode_image(pixels, head.paths)
        arguments = (head.scores, features, head.text, head.class_text, 30.0, head.mask, head.scoring)
        scores, cosine = compute_scores(*arguments)
        for expected in (cosine.argmax(1).float(), *scores.values()):
            torch.testing.assert_close(values[:, column], expected, atol=1e-5, rtol=1e-5)
            column += 1
    assert column == values.shape[1]


@pytest.mark.parametrize("feature_surgery", [False, True])
def test_maps_and_their_columns_are_those_of_the_mask_s_options(tiny_clip, images, unit, feature_surgery):
    """So are heat maps, the figures of explain, and the statistics of masks in a report."""
    options, text, labels = MaskOptions(feature_surgery=feature_surgery), unit(4, 20), torch.tensor([3, 0, 1])
    head = Head("", text, text, 30.0, [], SurgeryOptions(), options, ScoreOptions())
    features = tiny_clip("plain").encode_image(images(3, 16), MAP_PATHS)
    maps = head.maps(features, labels)
    s = surgery_map(features, text, labels, options)
    assert torch.equal(maps.surgery, s)
    assert not torch.equal(s, surgery_map(features, text, labels, MaskOptions(feature_surgery=not feature_surgery)))
    assert torch.equal(maps.mask, relevant_patches(features, text, labels, options))
    assert torch.equal(maps.mask, maps.surgery > maps.clip)
    values = map_values(features, head, labels, torch.zeros(3, 16, 16), (4, 4))
    assert torch.equal(values, torch.cat([maps.clip, maps.surgery, torch.zeros(3, 16)], 1))


def test_class_means_and_their_blend_with_text(unit):
    features, labels = unit(7, 6), torch.tensor([0, 2, 1, 0, 2, 2, 1])
    means = class_means(features, labels, 3)
    for c in range(3):
        mean = torch.stack([f for f, label in zip(features, labels, strict=True) if label == c]).mean(0)
        torch.testing.assert_close(means[c], mean / mean.norm())
    text = unit(4, 6, seed=1)
    assert blend(text, means, 0.0) is text
    mixed = blend(text, means, 0.25)
    assert torch.equal(mixed[3], text[3])  # "unknown"
    torch.testing.assert_close(mixed[:3], F.normalize(0.75 * text[:3] + 0.25 * means, dim=1))
    torch.testing.assert_close(blend(text, means, 1.0)[:3], means)


def test_weights_are_shared_only_inside(microclip):
    with shared_weights():
        first, second = load_backbone(), load_backbone(surgery=SurgeryOptions(beta=0.1))
        assert first.clip is second.clip and first.fingerprint == second.fingerprint == microclip.fingerprint
        with shared_weights():
            assert load_backbone().clip is first.clip
    assert load_backbone().clip is not first.clip


@pytest.mark.parametrize("size", [48, 64])
def test_another_image_size_interpolates_the_positions(microclip, images, size):
    backbone = load_backbone(image_size=size)
    assert (backbone.image_size, backbone.grid) == (size, (size // 4, size // 4))
    own, larger = (b.clip.visual.positional_embedding[1:].T.reshape(1, -1, *b.grid) for b in (microclip, backbone))
    expected = F.interpolate(own, (size // 4, size // 4), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(larger, expected)
    assert torch.equal(backbone.clip.visual.conv1.weight, microclip.clip.visual.conv1.weight)
    assert backbone.encode_image(images(2, size), frozenset({"vv"})).patches_vv.shape[1] == (size // 4) ** 2


def test_a_size_that_is_no_multiple_of_the_patch():
    message = r"--model\.image_size is 34: MicroCLIP takes a multiple of its patch, 4 pixels"
    with pytest.raises(InputError, match=message):
        load_backbone(image_size=34)


def test_own_parts_are_found_by_path(own):
    assert find_score("own_parts.region_margin").on == "region"
    assert find_score("own_parts.margin").on == "cls"
    assert make_objective({"class_path": "own_parts.Smooth", "init_args": {"power": 3.0}}).power == 3.0
    assert make_objective("own_parts.Smooth").power == 2.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: load_object("own_partz.x", "--o"), "--o own_partz.x: no module 'own_partz'"),
        (lambda: load_object("own_parts.x", "--o"), "--o own_parts.x: own_parts has no 'x'"),
        (lambda: find_score("own_parts.number"), "own_parts.number: neither"),
        (lambda: find_score("own_parts.shapeless"), r"shapeless gives a tensor of shape \(2, 3\) for items of"),
        (
            lambda: find_score("own_parts.broken"),
            r"broken fails on a small example: AttributeError.*own_parts.py, line",
        ),
        (lambda: make_objective({"class_path": "own_parts.Smooth", "args": {}}), "class_path and init_args, not"),
        (lambda: make_objective("unknown", (1.0, 2.0)), "energy_margins belong to"),
        (lambda: make_objective("own_parts.margin"), "not a subclass of clipos_lightning.Objective"),
        (lambda: make_objective("sharp"), "--model.objective 'sharp': take one of unknown, focal"),
        (lambda: make_objective({"class_path": 3}), "--model.objective 3: take one of unknown, focal"),
        (
            lambda: make_objective({"class_path": "own_parts.Smooth", "init_args": {"depth": 1}}),
            "own_parts.Smooth: .*unexpected keyword argument 'depth'",
        ),
    ],
)
def test_own_parts_that_cannot_be(own, make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_own_objective_and_score_through_the_command_line(own):
    (own / "own.yaml").write_text(
        "model:\n  objective:\n    class_path: own_parts.Smooth\n    init_args:\n      power: 1.5\n"
        "  score: own_parts.margin\n  scores: [energy, own_parts.region_margin]\n"
    )
    fit = done("fit", "--config", "demo.yaml", "--config", "own.yaml", "--trainer.max_steps", 2)
    limit = ("--data.limit_per_set", 40, "--data.ood_sets", "[noise]")
    report = done("test", "--ckpt_path", fit.checkpoint, *limit).report
    assert report["headline"] == "own_parts.margin"
    assert set(report["average"]) == {"energy", "own_parts.region_margin", "own_parts.margin"}
    zero_shot = done("test", "--config", "demo.yaml", "--model.score", "own_parts.margin", *limit).report
    assert set(zero_shot["average"]) == {*defined_scores(has_unknown=True), "own_parts.margin"}
    plain = done("fit", "--config", "demo.yaml", "--config", "own.yaml", "--trainer.max_steps", 2, *SMOOTHER)
    assert not torch.equal(plain.context, fit.context)
    refused(clipos("fit", "--config", "demo.yaml", "--model.objective", "own_parts.Rough", *CPU), "has no 'Rough'")


SMOOTHER = ("--model.objective", "own_parts.Smooth")


def test_images_share_in_the_class_features(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ("--config", "demo.yaml", "--model.image_weight", 0.5, "--trainer.max_steps", 2)
    fit = done("fit", *options)
    state = torch.load(fit.checkpoint, weights_only=True)["state_dict"]
    assert set(state) == {
        "prompts.context",
        "prompts.unknown_context",
        "image_text",
        "memory_features",
        "memory_regions",
        "memory_labels",
        "memory_patches",
    }
    torch.testing.assert_close(state["image_text"].norm(dim=1), torch.ones(10))
    limit = ("--data.limit_per_set", 60, "--data.ood_sets", "[noise]")
    test = done("test", "--ckpt_path", fit.checkpoint, *limit)
    scores = test.scores
    assert not (scores["id/energy"] == scores["text/id/energy"]).all()
    assert not (scores["images/id/energy"] == scores["text/id/energy"]).all()
    plain = done("test", "--config", "demo.yaml", *limit).scores  # beside it, zero-shot is text alone
    assert (scores["zero_shot/id/energy"] == plain["id/energy"]).all()
    untrained = done("test", "--config", "demo.yaml", "--model.image_weight", 1, *limit)
    assert (untrained.scores["text/id/energy"] == plain["id/energy"]).all()
    assert (untrained.scores["images/id/energy"] == untrained.scores["id/energy"]).all()
    refused(clipos("fit", "--config", "demo.yaml", "--model.image_weight", 1.5, *CPU), "in [0, 1], or auto")
