"""User-defined modules that fail: the error's type, message and line, not a missing name."""

import re
from pathlib import Path

import pytest

from clipos_lightning import InputError
from clipos_lightning.method.objective_names import make_objective
from clipos_lightning.utils.imports import load_object

pytestmark = pytest.mark.badinput


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        (
            "attribute",
            "import math\nx = math.rot",
            "AttributeError: module 'math' has no attribute 'rot' ({file}, line 2)",
        ),
        ("key", "\nx = {}['a']", "KeyError: 'a' ({file}, line 2)"),
        ("typed", "x = 1 + 'a'", "TypeError: unsupported operand type(s)"),
        ("cut", "x = (", "SyntaxError: '(' was never closed (cut_module.py, line 1)"),
        ("ended", "raise SystemExit(3)", "SystemExit: 3 ({file}, line 1)"),
    ],
)
def test_a_module_that_fails(name: str, code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / f"{name}_module.py"
    file.write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    expected = f"--o {name}_module.x: importing it failed: {says.format(file=file)}"
    with pytest.raises(InputError, match=f"^{re.escape(expected)}"):
        load_object(f"{name}_module.x", "--o")


def test_an_objective_that_fails_when_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from clipos_lightning import Objective\n\n\nclass Own(Objective):\n    def __init__(self):\n        {}['a']\n"
    )
    (tmp_path / "own_objective.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"^--model\.objective own_objective\.Own: KeyError: 'a' \(.*, line 6\)$"):
        make_objective("own_objective.Own")


def test_the_place_where_a_module_ends_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library may have replaced sys.exit; the line that calls it counts."""
    hooks, mine = tmp_path / "site-packages/exit_hooks_of_a_library.py", tmp_path / "leaving_by_a_hook.py"
    hooks.parent.mkdir()
    hooks.write_text("def leave(code):\n    raise SystemExit(code)\n")
    mine.write_text("from exit_hooks_of_a_library import leave\n\nleave(0)\n")
    for folder in (tmp_path, hooks.parent):
        monkeypatch.syspath_prepend(folder)
    with pytest.raises(InputError, match=rf"SystemExit: 0 \({re.escape(str(mine))}, line 3\)$"):
        load_object("leaving_by_a_hook.x", "--o")
