"""Imports among the package's modules go only upward in this list; only the backbone knows open_clip."""

import ast
from pathlib import Path

import pytest

import clipos_lightning

PACKAGE = Path(clipos_lightning.__file__).parent
ORDER = """
    errors plugins data.fetch data.sources files parsing commands packaged completion checkpoint artefact types parts
    surgery blocks text_tower compiled data.transforms backbone
    data.shapes data.scenes data.splits data.classnames data.wordings data.walking data.sets data.boxes
    data.resolution data.arrays data.cache data.id_sets data.ood_sets data.benchmarks data.datamodule
    features synthesis prototypes prompts losses scores metrics thresholds calibration heads tables schedule progress
    shots validation report figures charts page dashboard module detector gallery callbacks cli
    experiments.places experiments.grid experiments.bootstrap experiments.outcome experiments.tables experiments.figures
    experiments.dashboard experiments.plan experiments.engine experiments.masks experiments.mask_command
    experiments.command
    inputs rows heatmaps predict calibrate explain export datasets_command main __main__
""".split()
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, at its top or inside functions."""
    base = ["clipos_lightning", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = base[: len(base) + 1 - node.level] if node.level else []
            whole = ".".join([*parts, *([node.module] if node.module else [])])
            found |= {whole} | {f"{whole}.{alias.name}" for alias in node.names}
    return found


def test_every_module_has_its_place() -> None:
    assert set(MODULES) <= set(ORDER)


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_only_upward(name: str) -> None:
    inside = {full.removeprefix("clipos_lightning.") for full in imports(MODULES[name])} & set(ORDER)
    late = sorted(other for other in inside if ORDER.index(other) >= ORDER.index(name))
    assert not late, f"{name} imports {late}, which stand below it"


def test_only_the_backbone_imports_open_clip() -> None:
    users = {name for name, path in MODULES.items() if any(i.split(".")[0] == "open_clip" for i in imports(path))}
    assert users == {"backbone"}


@pytest.mark.parametrize(
    "name", ["__init__", "__main__", "main", "errors", "commands", "packaged", "files", "completion"]
)
def test_the_front_door_is_light(name: str) -> None:
    top = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8")).body
    heads = [n for n in top if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {a.name for n in heads if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in heads if isinstance(n, ast.ImportFrom) and n.module and not n.level}
    assert not names & {"torch", "lightning", "numpy", "open_clip", "jsonargparse"}
