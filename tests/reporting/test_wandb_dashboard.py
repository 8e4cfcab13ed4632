"""The dashboard's specification: as its golden file has it, and the same whenever it is built."""

import json
import random
from importlib.metadata import version
from pathlib import Path

import pytest

pytest.importorskip("wandb_workspaces")

from clipos_lightning.reporting.wandb_dashboard import dashboard_parts, make_report, make_workspace, specification

GOLDEN = Path(__file__).parents[1] / "files/wandb_dashboard.json"
SCORES = ("energy_region", "mcm")


def build() -> dict:
    parts = (make("clipos", "me", SCORES) for make in (make_workspace, make_report))
    return specification(*parts)


def test_the_specification_is_the_golden_one() -> None:
    """After a wanted change: python tests/reporting/test_wandb_dashboard.py."""
    golden = json.loads(GOLDEN.read_text())
    if golden["wandb-workspaces"] != version("wandb-workspaces"):
        pytest.skip(f"the golden file is of wandb-workspaces {golden['wandb-workspaces']}")
    assert build() == golden["specification"]


def test_the_specification_does_not_vary() -> None:
    first = json.dumps(build())
    random.seed(5)
    assert json.dumps(build()) == first


def test_every_part_is_a_section_and_a_chapter() -> None:
    plain, names = build(), [part.name for part in dashboard_parts(SCORES)]
    sections = plain["workspace"]["spec"]["section"]["panelBankConfig"]["sections"]
    blocks = plain["report"]["spec"]["blocks"]
    assert [section["name"] for section in sections] == names
    assert [block["children"][0]["text"] for block in blocks if block["type"] == "heading"] == names
    grids = [block["metadata"]["panelBankSectionConfig"]["panels"] for block in blocks if block["type"] == "panel-grid"]
    for section, panels in zip(sections, grids, strict=True):
        assert [p["viewType"] for p in section["panels"]] == [p["viewType"] for p in panels]
        places = [(p["layout"]["x"], p["layout"]["y"]) for p in panels]
        assert len(set(places)) == len(places)  # no panel covers another


if __name__ == "__main__":
    content = {"wandb-workspaces": version("wandb-workspaces"), "specification": build()}
    GOLDEN.write_text(json.dumps(content, indent=1) + "\n")
