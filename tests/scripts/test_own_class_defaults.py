"""scripts/choose_own_class_defaults.py: its draws do not overlap, and its figures are those of a plain computation."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clipos_lightning.clip.backbone import FrozenClip
from clipos_lightning.evaluation.metrics import auroc


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    path = Path(__file__).parents[2] / "scripts/choose_own_class_defaults.py"
    spec = importlib.util.spec_from_file_location("choose_own_class_defaults", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "TASKS", (module.Task("two", "shapes", 2, ("texture",)),))
    monkeypatch.setattr(module, "SHOTS", (1, 2))
    monkeypatch.setattr(module, "HELD_BACK", 2)
    return module


@pytest.fixture
def pools(script: Any, microclip: FrozenClip) -> Any:
    with torch.no_grad():
        return {
            "shapes": script.encode_pool(microclip, script.shapes(("star", "heart", "key"), 6, 0)),
            "texture": script.encode_pool(microclip, script.without_class("texture", 6)),
        }


def test_draws(script: Any, pools: Any, microclip: FrozenClip) -> None:
    found = list(script.draws(microclip, pools, [11], (1, 2)))
    assert [(draw.named, draw.shots) for draw in found] == [("true", 1), ("true", 2), ("codes", 1), ("codes", 2)]
    labels = pools["shapes"].labels
    for draw in found:
        assert len(draw.shot) == 2 * draw.shots and not {*draw.shot} & {*draw.known}
        assert not {*labels[draw.near]} & {*labels[draw.shot]} and len(draw.known) == 8
        names = [labels[draw.shot[list(draw.shot_labels).index(c)]] for c in (0, 1)]
        assert [names[c] for c in draw.known_labels] == labels[draw.known].tolist()
    assert {*found[0].shot} < {*found[1].shot}  # nested


def test_figures(script: Any, pools: Any, microclip: FrozenClip) -> None:
    draw = next(script.draws(microclip, pools, [11], (2,)))
    scale = float(microclip.scale)
    worth = script.true_worth(draw, pools, scale)
    cls = pools["shapes"].features.cls
    logits = scale * cls[draw.known] @ draw.text.T
    assert worth[0, 0] == pytest.approx(100 * (logits.argmax(1).numpy() == draw.known_labels).mean())
    inside = logits.logsumexp(1).numpy()
    areas = [
        auroc(inside, (scale * other @ draw.text.T).logsumexp(1).numpy())
        for other in (cls[draw.near], pools["texture"].features.cls)
    ]
    assert worth[0, 1] == pytest.approx(np.mean(areas))
    found = script.score_aurocs(microclip, pools, draw)
    assert {"energy", "mahalanobis", "mahalanobis + memory", "knn_region + memory"} <= set(found)
    assert all(set(part) == {"near", "far"} for part in found.values())
    lines = list(script.score_table(microclip, pools, [11]))
    assert len(lines) == 4 + len(found) and lines[0].startswith("4 draws")
    table = list(script.weight_tables(microclip, pools, [11]))
    assert sum(line.startswith("| two |") for line in table) == 4
    assert sum(line.startswith(f"| {rule} |") for line in table for rule in script.RULES) == len(script.RULES)


def test_the_rules(script: Any) -> None:
    quality = torch.full((11, 4), 0.5)
    quality[-1] = torch.tensor([0.9, 0.5, 0.5, 0.5])  # better on average, by less than two standard errors
    chosen = {name: rule(quality) for name, rule in script.RULES.items()}
    assert chosen["better end"] == 1 and chosen["images only if better by 2 standard errors"] == 0
