"""Imports between folders go only downward, no cycle exists inside one, and only ``clip/`` imports open_clip."""

import ast
from pathlib import Path

import pytest

import clipos_lightning

PACKAGE = Path(clipos_lightning.__file__).parent
FOLDERS = {  # each folder to the folders right below it; it may import those and all that they may
    "__main__": "cli",
    "cli": "experiments",
    "adapters": "detector",
    "experiments": "reporting detector",
    "reporting": "training",
    "detector": "training",
    "training": "evaluation",
    "evaluation": "method",
    "method": "clip",
    "clip": "data",
    "data": "options",
    "options": "utils",
    "utils": "types errors",
    "types": "errors",
    "errors": "",
}
LIGHT = (
    "cli.main",
    "cli.commands",
    "cli.completion",
    "cli.signals",
    "options.command_line",
    "options.configs",
    "options.messages",
    "utils.files",
    "utils.stop_signals",
    "utils.worker_signals",
    "errors",
)
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in PACKAGE.rglob("*.py")
    if path.name != "__init__.py"
}


def below(folder: str) -> set[str]:
    """The folders that a folder may import, without itself."""
    direct = FOLDERS[folder].split()
    return set(direct).union(*(below(other) for other in direct))


def imported(module: str, path: Path) -> set[str]:
    """Full names of a module's imports: at its top, inside functions, and for type checking only."""
    package = ["clipos_lightning", *module.split(".")[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
    return found


def imported_modules(module: str) -> set[str]:
    """The modules of the package that a module imports."""
    return {full.removeprefix("clipos_lightning.") for full in imported(module, MODULES[module])} & set(MODULES)


def upward(module: str, others: set[str]) -> list[str]:
    """The imported modules in folders that the module may not import."""
    folder = module.partition(".")[0]
    return sorted(m for m in others if m.partition(".")[0] not in below(folder) | {folder})


def test_every_module_is_in_a_folder() -> None:
    assert {name.partition(".")[0] for name in MODULES} == set(FOLDERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_only_downward(module: str) -> None:
    assert upward(module, imported_modules(module)) == []


def test_an_upward_import_is_found(tmp_path: Path) -> None:
    path = tmp_path / "surgery.py"
    path.write_text("def f():\n    from ..training import module\n")
    names = {full.removeprefix("clipos_lightning.") for full in imported("clip.surgery", path)} & set(MODULES)
    assert upward("clip.surgery", names) == ["training.module"]


def test_there_is_no_import_cycle_inside_a_folder() -> None:
    graph = {m: {o for o in imported_modules(m) if o.partition(".")[0] == m.partition(".")[0]} - {m} for m in MODULES}
    while leaves := [module for module, others in graph.items() if not others]:
        graph = {module: others - set(leaves) for module, others in graph.items() if module not in leaves}
    assert graph == {}


def test_only_clip_imports_open_clip() -> None:
    users = {m for m, path in MODULES.items() if any(i.split(".")[0] == "open_clip" for i in imported(m, path))}
    assert {module.partition(".")[0] for module in users} == {"clip"}


@pytest.mark.parametrize("module", LIGHT)
def test_the_entry_point_is_light(module: str) -> None:
    top = ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    imports = [node for node in top if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    assert not names & {"torch", "lightning", "numpy", "open_clip", "jsonargparse"}
