"""The notebooks run from start to end on the embedded set, and their stored outputs are small."""

import os
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[2] / "docs" / "notebooks").glob("*.ipynb"))
MAX_BYTES = 100_000


def test_there_are_two_and_they_are_small() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["own_classes", "reproduce"]
    for path in NOTEBOOKS:
        assert path.stat().st_size < MAX_BYTES, path
        assert '"output_type": "error"' not in path.read_text(encoding="utf-8"), path


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(path, 4)
    client.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert all(output["output_type"] != "error" for cell in notebook.cells for output in cell.get("outputs", []))
