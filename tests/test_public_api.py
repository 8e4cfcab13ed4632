"""The public names: typed for mypy, listed by dir(), each documented; one meaning for each name of the package."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import clipos_lightning

PACKAGE = Path(clipos_lightning.__file__).parent
USER_FILE = """
from pathlib import Path

import torch
from clipos_lightning import (
    ClipOS, ContextOptions, Crops, Decision, Detector, ExtraTexts, FewShotOOD, InputError, Logits, MaskOptions,
    Objective, OODMetrics, Score, ScoreOptions, Step, SurgeryOptions, SynthesisOptions, TestReport, WarmupCosine,
    load_backbone,
)

reveal_type(Detector.load("x"))
reveal_type(Detector.load("x")("photo.jpg"))
reveal_type(FewShotOOD(id="scenes").class_names)
reveal_type(load_backbone())
reveal_type(OODMetrics().compute())
model = ClipOS(
    ["cat"], score="energy", surgery=SurgeryOptions(beta=0.3), mask=MaskOptions(kind="none"),
    synthesis=SynthesisOptions(level="patch"), context=ContextOptions(words="a photo of a"), scoring=ScoreOptions(),
)
reveal_type(model)


class Mine(Objective):
    outliers, crops = "synthesis", Crops(8, 2, 2)

    def texts(self, text: torch.Tensor, class_text: torch.Tensor, own: object) -> tuple[torch.Tensor, ExtraTexts]:
        return text, ExtraTexts(further=class_text)

    def id_term(self, step: Step) -> torch.Tensor:
        return step.inside.mean((1, 2))

    def outlier_loss(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.mean(1)


def decide(decision: Decision) -> str:
    return decision.label


def largest(z: Logits) -> torch.Tensor:
    return z.logits.amax(-1)


score = Score(largest, on="cls")
report, rate, error = TestReport(Path("out")), WarmupCosine, InputError("no")
wrong: int = Detector.load("x")
"""
REVEALED = [
    "clipos_lightning.detector.detector.Detector",
    "clipos_lightning.detector.decisions.Decision",
    "list[str]",
    "clipos_lightning.clip.backbone.FrozenClip",
    "dict[str, float]",
    "clipos_lightning.training.module.ClipOS",
]
SETTINGS = """
[mypy]
disable_error_code = name-defined, syntax
[mypy-torch.*,torchvision.*,torchmetrics.*,lightning.*,open_clip.*,numpy.*,matplotlib.*,PIL.*,scipy.*,jsonargparse.*]
follow_imports = skip
ignore_missing_imports = True
"""
SHARED = {"main", "OBJECTIVE", "SCORES"}  # the entry points of each command, and of each method


@pytest.mark.slow
def test_a_users_file_is_typed(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(USER_FILE)
    (tmp_path / "mypy.ini").write_text(SETTINGS)
    run = subprocess.run(
        [sys.executable, "-m", "mypy", "mine.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    notes = [line.split('"')[1] for line in run.stdout.splitlines() if "Revealed type" in line]
    assert notes == REVEALED, run.stdout + run.stderr
    errors = [line for line in run.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1 and 'expression has type "Detector", variable has type "int"' in errors[0], run.stdout


def test_the_public_names_are_listed_documented_and_used_above() -> None:
    names = set(clipos_lightning.__all__)
    assert names <= set(dir(clipos_lightning))
    for name in names - {"__version__"}:
        assert getattr(clipos_lightning, name).__doc__, name
        assert name in USER_FILE
    assert (PACKAGE / "py.typed").is_file()


def test_a_detector_is_imported_without_lightning() -> None:
    code = "import sys; from clipos_lightning import Detector; print('lightning' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


def test_a_name_means_one_thing() -> None:
    homes = defaultdict(set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                homes[node.name].add(path.name)
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            for target in targets:
                if isinstance(target, ast.Name):
                    homes[target.id].add(path.name)
    twice = {name: places for name, places in homes.items() if len(places) > 1 and name not in SHARED}
    assert twice == {}


def test_file_names_are_unique() -> None:
    names = [path.name for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"]
    assert sorted(names) == sorted(set(names))
