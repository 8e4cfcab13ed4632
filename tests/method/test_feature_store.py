"""The feature store: kept and re-encoded features are equal; the number of calls of the encoder."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from clipos_lightning.method.feature_store import ENCODE_BATCH, FeatureStore, ShotFeatures
from clipos_lightning.method.synthesis import SynthesisOptions
from clipos_lightning.training.module import ClipOS
from clipos_lightning.types import ImageFeatures, concatenate

COUNT = 2 * ENCODE_BATCH + 88


class Encoder:
    """Stub encoder with different features for each of N images; records the requested images."""

    def __init__(self, names: tuple[str, ...] = ("cls", "region", "patches", "mask")) -> None:
        generator = torch.Generator().manual_seed(0)
        every = {
            "cls": torch.randn(COUNT, 4, generator=generator),
            "region": torch.randn(COUNT, 4, generator=generator),
            "patches": torch.randn(COUNT, 3, 4, generator=generator),
            "mask": torch.rand(COUNT, 3, generator=generator) > 0.5,
        }
        self.all = ShotFeatures(**{name: every[name] for name in names})
        self.bytes_per_image = sum(t[0].nbytes for name, t in every.items() if name in names)
        self.asked: list[list[int]] = []

    def __call__(self, index: torch.Tensor) -> ShotFeatures:
        self.asked.append(index.tolist())
        return self.all[index]


def assert_same(one: ShotFeatures, other: ShotFeatures) -> None:
    for name, expected in vars(other).items():
        given = getattr(one, name)
        assert given is None if expected is None else torch.equal(given, expected), name


def stores(encoder: Encoder, **more: object) -> tuple[FeatureStore, FeatureStore]:
    """Two stores: features that just fit the budget, and features that just do not."""
    budget = encoder.bytes_per_image * COUNT
    return FeatureStore(encoder, COUNT, budget, **more), FeatureStore(encoder, COUNT, budget - 1, **more)


@pytest.mark.parametrize("names", [("cls",), ("cls", "region"), ("cls", "patches", "mask")])
def test_kept_and_encoded_anew_are_the_same(names):
    encoder = Encoder(names)
    kept, anew = stores(encoder)
    assert kept.kept is not None
    assert anew.kept is None
    for index in ([3], [5, 0, COUNT - 1, 5, 5], list(range(COUNT))[::-1], [0] * 300):
        wanted = torch.tensor(index)
        for store in (kept, anew):
            assert_same(store[wanted], encoder.all[wanted])


def test_kept_features_are_encoded_once_in_chunks():
    encoder = Encoder()
    store = FeatureStore(encoder, COUNT, 2**30)
    assert [len(asked) for asked in encoder.asked] == [ENCODE_BATCH, ENCODE_BATCH, 88]
    assert sum(encoder.asked, []) == list(range(COUNT))  # noqa: RUF017
    store[torch.tensor([1, 2])]
    assert len(encoder.asked) == 3
    assert store.kept.nbytes == encoder.bytes_per_image * COUNT


def test_over_the_budget_each_step_encodes_its_images_once():
    encoder = Encoder()
    store = FeatureStore(encoder, COUNT, 0)
    assert [len(asked) for asked in encoder.asked] == [ENCODE_BATCH]  # enough to know how large they are
    encoder.asked.clear()
    store[torch.tensor([9, 4, 9, 7])]
    assert encoder.asked == [[4, 7, 9]]
    encoder.asked.clear()
    store[torch.arange(COUNT)]
    assert [len(asked) for asked in encoder.asked] == [ENCODE_BATCH, ENCODE_BATCH, 88]


def test_an_empty_share_has_features_too():
    encoder = Encoder()
    for store in stores(encoder):
        none = store[torch.empty(0, dtype=torch.long)]
        assert none.cls.shape == (0, 4)
        assert none.patches.shape == (0, 3, 4)
    assert all(encoder.asked)  # CLIP's own refuses an empty batch


def test_progress_is_shown_for_the_chunks_that_are_kept():
    seen: list[list[torch.Tensor]] = []

    def progress(chunks: list[torch.Tensor]):
        seen.append(chunks)
        return iter(chunks)

    stores(Encoder(), progress=progress)
    assert [[len(chunk) for chunk in chunks] for chunks in seen] == [[ENCODE_BATCH, 88]]


def test_image_features_are_sliced_and_joined_with_the_paths_they_have(unit):
    features = ImageFeatures(unit(5, 4), patches_vv=unit(5, 3, 4))
    joined = concatenate([features[:2], features[torch.tensor([2, 3, 4])]])
    assert torch.equal(joined.cls, features.cls)
    assert torch.equal(joined.path("vv"), features.patches_vv)
    assert joined.patches is None
    for path in ("clip", "local"):
        with pytest.raises(ValueError, match=f"path '{path}' were not computed"):
            joined.path(path)


def test_over_budget_a_prepared_step_is_encoded_once():
    encoder = Encoder()
    _, store = stores(encoder)
    encoder.asked.clear()
    store.encode_step(torch.tensor([7, 3, 7, 500]))
    for index in ([3, 7], [500], [7, 7, 3]):
        assert_same(store[torch.tensor(index)], encoder.all[torch.tensor(index)])
    assert encoder.asked == [[3, 7, 500]]
    assert_same(store[torch.tensor([1])], encoder.all[torch.tensor([1])])  # not prepared: encoded all the same


@pytest.mark.parametrize("level", ["region", "patch"])
def test_zero_shot_logits_stay_within_the_budget(level: str) -> None:
    encoder = Encoder(("cls", "region") if level == "region" else ("cls", "patches", "mask"))
    found = []
    for store in stores(encoder):
        encoder.asked.clear()
        data = SimpleNamespace(shot_labels=torch.arange(COUNT) % 3)
        module = SimpleNamespace(trainer=SimpleNamespace(datamodule=data), store=store, single_class=False, seed=1)
        module.synthesis, module.class_text = SynthesisOptions(level=level), torch.eye(3, 4)
        module.scale, module.objective = 10.0, SimpleNamespace(outliers="synthesis")
        for name in ("mix_pairs", "synthesise"):
            setattr(module, name, partial(getattr(ClipOS, name), module))
        found.append(ClipOS.zero_shot_logits(module))
        assert max(map(len, encoder.asked), default=0) <= ENCODE_BATCH
    assert found[0][0].shape == (COUNT, 3) and len(found[0][1]) == 1000
    for kept, anew in zip(*found, strict=True):
        assert torch.equal(kept, anew)
