"""``make reproduce``: refused without a GPU; its report; the whole script on miniatures of the data sets."""

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from miniatures import make_set

from clipos_lightning.data.benchmarks import CLIPOS_OOD

script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "reproduce.py"))


def row(name: str, *seeds: float) -> dict[str, Any]:
    """A row whose AUROC rises by one from set to set; the last set is none of the paper's."""
    names = [*CLIPOS_OOD, "svhn"]
    found = [{"ood": {ood: {"auroc": start + i} for i, ood in enumerate(names)}} for start in seeds]
    return {"row": name, "name": name, "score": "msp", "grid_point": {"data.shots": 1}, "seeds": found}


def test_the_report_has_the_papers_average_and_figure() -> None:
    point = {"tests": {"limit_per_set": None}, "rows": [row("CoOp", 60, 61, 65), row("CLIP-OS", 70, 72, 74)]}
    text = script["report"]({"cifar100": {"title": "Methods", "grid_points": [point]}})
    assert f"| CLIP-OS | `msp` | {np.mean([72, 74, 76]):.2f} ± {np.std([72, 74, 76], ddof=1):.2f} |" in text
    assert text.index("| CLIP-OS |") < text.index("| CoOp |") and "### shots 1" in text
    assert "78.24 for CLIP-OS; ours 74.00 (-4.2)." in text


def test_a_trial_is_not_compared_with_the_paper() -> None:
    rows = [row("CLIP-OS", 70)]
    limited = {"title": "Methods", "grid_points": [{"tests": {"limit_per_set": 200}, "rows": rows}]}
    assert "78.24" not in script["report"]({"cifar100": limited})
    rows[0]["seeds"][0]["ood"] = {"svhn": {"auroc": 50.0}}
    text = script["report"]({"cifar100": {"title": "Methods", "grid_points": [{**limited["grid_points"][0]}]}})
    assert "None of the paper's OOD sets was tested." in text and "nan" not in text


def test_no_gpu_is_one_line(capsys, monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script["main"]([]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and "no GPU" in captured.err


@pytest.mark.slow
def test_the_table_on_miniatures(tmp_path: Path, capfd) -> None:
    for name in script["sources_of"]("cifar10"):
        make_set(name, tmp_path / "data")
    tiny = {"backbone": "MicroCLIP", "pretrained": "null", "context.length": "null", "context.words": "a photo of a"}
    words = [f"--model.{name}={value}" for name, value in tiny.items()]
    words += ["--trainer.accelerator=cpu", "--trainer.max_epochs=1", "--data.ood_sets=[textures,isun]", "--seeds", "1"]
    folders = ["--root", str(tmp_path / "data"), "--out", str(tmp_path / "out")]
    assert script["main"](["--sets", "cifar10", "imagenet100", *folders, *words]) == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "## CIFAR-10" in text and "CLIP-OS" in text and "ImageNet-100 is left out" in capfd.readouterr().out
