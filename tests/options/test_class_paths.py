"""No option and no file calls a function that it names: optimizers and schedulers are checked first."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import CPU, Run, clipos, done, refused

from clipos_lightning import InputError
from clipos_lightning.options.class_paths import check_class_paths, check_recipe
from clipos_lightning.utils.imports import load_object

pytestmark = pytest.mark.usefixtures("one_clip")
DEMO = ("--config", "demo.yaml", "--trainer.max_steps", 1)


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears if a command is run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bait"


def evil(bait: Path) -> dict[str, Any]:
    return {"class_path": "os.system", "init_args": {"command": f"touch {bait}"}}


@pytest.fixture
def fitted(bait: Path) -> Run:
    return done("fit", *DEMO)


@pytest.mark.parametrize("option", ["optimizer", "lr_scheduler"])
def test_a_checkpoint_runs_no_command(option: str, bait: Path, fitted: Run) -> None:
    checkpoint = torch.load(fitted.checkpoint, weights_only=True)
    checkpoint["clipos"]["recipe"][option] = evil(bait)
    torch.save(checkpoint, "evil.ckpt")
    small = ("--data.limit_per_set", 6, "--data.ood_sets", "[noise]", *CPU)
    for command in ("test", "validate"):  # they need neither
        assert clipos(command, "--ckpt_path", "evil.ckpt", *small).code == 0
    refused(clipos("fit", "--ckpt_path", "evil.ckpt", "--trainer.max_steps", 2, *CPU), "os.system", "may run code")
    assert clipos("predict", "evil.ckpt", ".", "--num_workers", 0).code == 2  # no images; the file is not asked
    assert not bait.exists()


@pytest.mark.parametrize("option", ["optimizer", "lr_scheduler"])
@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_a_config_runs_no_command(command: str, option: str, bait: Path) -> None:
    Path("evil.yaml").write_text(yaml.safe_dump({"model": {option: evil(bait)}}))
    refused(clipos(command, *DEMO[:2], "--config", "evil.yaml", *CPU), "os.system")
    assert not bait.exists()


def test_a_grid_runs_no_command(bait: Path) -> None:
    Path("evil.yaml").write_text(yaml.safe_dump({"model": {"optimizer": evil(bait)}}))
    grid = {"configs": ["demo.yaml", "evil.yaml"], "seeds": [1], "rows": {"one": {"train": True}}}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    refused(clipos("benchmark", "grid.yaml", "--out", "out"), "os.system")
    assert not bait.exists()


def test_optimizers_of_other_packages_are_for_the_command_line(
    bait: Path, fitted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine_parts.py").write_text("import torch\n\nclass Slow(torch.optim.SGD):\n    pass\n")
    monkeypatch.syspath_prepend(str(bait.parent))
    Path("mine.yaml").write_text("model:\n  optimizer:\n    class_path: mine_parts.Slow\n    init_args: {lr: 0.1}\n")
    mine = done("fit", *DEMO, "--config", "mine.yaml")
    assert done("test", "--ckpt_path", mine.checkpoint, "--data.limit_per_set", 6, "--data.ood_sets", "[noise]").report
    refused(clipos("fit", "--ckpt_path", mine.checkpoint, "--trainer.max_steps", 2, *CPU), "mine_parts.Slow")
    again = done("fit", "--ckpt_path", fitted.checkpoint, "--trainer.max_steps", 2)
    assert torch.load(again.checkpoint, weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(
    ("model", "piece"),
    [
        ({"optimizer": {"class_path": "os.system"}}, "not a subclass of torch.optim.Optimizer"),
        ({"optimizer": {"class_path": "pathlib.Path"}}, "not a subclass of torch.optim.Optimizer"),
        ({"lr_scheduler": {"class_path": "torch.optim.SGD"}}, "not a subclass of torch.optim.lr_scheduler"),
        ({"lr_scheduler": {"class_path": "torch.optim.nothing"}}, "--model.lr_scheduler torch.optim.nothing"),
    ],
)
def test_what_is_no_class_of_torch(model: dict[str, Any], piece: str) -> None:
    with pytest.raises(InputError, match=piece):
        check_class_paths({"model": model})
    good = {
        "optimizer": {"class_path": "torch.optim.Adam"},
        "lr_scheduler": {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau"},
    }
    check_class_paths({"subcommand": "fit", "fit": {"model": good}})


@pytest.mark.parametrize(
    "recipe",
    [
        {"optimizer": "os.system"},
        {"optimizer": {"class_path": 3}},
        {"callbacks": {"class_path": "torch.optim.SGD"}},
        {"optimizer": []},
    ],
)
def test_recipes_that_are_none(recipe: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="may run code"):
        check_recipe(recipe, "last.ckpt")


def test_a_module_that_ends_the_program(bait: Path) -> None:
    Path("leaving_parts.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(InputError, match="importing it failed: SystemExit"):
        load_object("leaving_parts.score", "--model.score")
