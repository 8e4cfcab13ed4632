"""No option and no file calls a function that it names: optimizers and schedulers are checked first."""

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from running import CPU, Run, clipos, done, refused

from clipos_lightning import InputError
from clipos_lightning.options.class_paths import check_class_paths, check_recipe

DEMO = ("--config", "demo.yaml", "--trainer.max_steps", 1)


@pytest.fixture
def bait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that appears if a command is run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "bait"


def evil(bait: Path) -> dict[str, Any]:
    return {"class_path": "os.system", "init_args": {"command": f"touch {bait}"}}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one step."""
    return done("fit", *DEMO, "--trainer.default_root_dir", tmp_path_factory.mktemp("fitted"))


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


OF_TRAINER = ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator")


@pytest.mark.parametrize("option", [*OF_TRAINER, "objective", "score"])
def test_no_other_option_runs_a_command(option: str, bait: Path) -> None:
    """A class of another kind is refused before it is called; a score is a function, and gets numbers."""
    section, named = ("trainer" if option in OF_TRAINER else "model"), evil(bait)
    value: Any = {"score": "os.system", "callbacks": [named], "plugins": [named]}.get(option, named)
    Path("evil.yaml").write_text(yaml.safe_dump({section: {option: value}}))
    run = clipos("fit", *DEMO, "--config", "evil.yaml", "--trainer.default_root_dir", "runs", *CPU)
    refused(run, f"--{section}.{option}" if run.err.count("--") else option)
    words = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    assert clipos("fit", *DEMO, *CPU, f"--{section}.{option}", words).code == 2
    assert not bait.exists()


@pytest.mark.parametrize("option", ["model.objective", "model.lr_scheduler", "model.score", "trainer.callbacks"])
def test_no_row_of_a_grid_runs_a_command(option: str, bait: Path) -> None:
    value = "os.system" if option == "model.score" else [evil(bait)] if option == "trainer.callbacks" else evil(bait)
    grid = {"configs": ["demo.yaml"], "seeds": [1], "rows": {"one": {"options": {option: value}}}}
    Path("grid.yaml").write_text(yaml.safe_dump(grid))
    refused(clipos("benchmark", "grid.yaml", "--out", "out", "--data.limit_per_set", 6))
    assert not bait.exists()


@pytest.mark.parametrize("part", ["objective", "score", "scores"])
def test_what_a_checkpoint_names_is_not_imported_unless_trusted(part: str, bait: Path, fitted: Run) -> None:
    Path("bait_parts.py").write_text(f"import os\n\nos.system('touch {bait}')\n")
    checkpoint = torch.load(fitted.checkpoint, weights_only=True)
    named: dict[str, Any] = {"objective": {"class_path": "bait_parts.x", "init_args": {}}, "scores": ["bait_parts.x"]}
    checkpoint["hyper_parameters"][part] = named.get(part, "bait_parts.x")
    torch.save(checkpoint, "evil.ckpt")
    for words in (("predict", "evil.ckpt", "a.png"), ("calibrate", "evil.ckpt", "a.png"), ("export", "evil.ckpt")):
        Path("a.png").write_bytes(b"")
        refused(clipos(*words, *(("--num_workers", 0) if words[0] != "export" else ())), "bait_parts.x", "--trust")
    assert not bait.exists()


# ---- modules that end the program


LEAVING = {
    "import sys\nsys.exit(0)\n": "SystemExit: 0",
    "raise SystemExit('bye')\n": "SystemExit: bye",
    "1 / 0\n": "ZeroDivisionError: division by zero",
}
number = count()


@pytest.fixture
def leaving(bait: Path, request: pytest.FixtureRequest) -> str:
    """The path of a class in a module that cannot be imported; each module has a new name."""
    name = f"leaving_{next(number)}"
    Path(f"{name}.py").write_text(request.param)
    return f"{name}.Thing"


@pytest.mark.badinput
@pytest.mark.parametrize("leaving", LEAVING, indirect=True, ids=LEAVING.values())
@pytest.mark.parametrize("option", ["model.score", "model.scores", "model.objective", "model.optimizer"])
def test_modules_that_end_the_program(option: str, leaving: str, request: pytest.FixtureRequest) -> None:
    value = f"[{leaving}]" if option == "model.scores" else leaving
    run = clipos("fit", *DEMO, f"--{option}", value, *CPU)
    refused(run, f"--{option.replace('.score', '.scores') if option == 'model.score' else option} {leaving}: ")
    assert f"importing it failed: {LEAVING[request.node.callspec.params['leaving']]} (" in run.err


@pytest.mark.badinput
@pytest.mark.parametrize("leaving", ["import sys\nsys.exit(0)\n"], indirect=True, ids=["exit"])
@pytest.mark.parametrize("option", ["model.lr_scheduler", *(f"trainer.{name}" for name in OF_TRAINER)])
def test_modules_that_end_the_program_in_configs(option: str, leaving: str) -> None:
    section, name = option.split(".")
    value: Any = {"class_path": leaving, "init_args": {"lr": 1}}
    Path("mine.yaml").write_text(
        yaml.safe_dump({section: {name: [value] if name in ("callbacks", "plugins") else value}})
    )
    refused(clipos("fit", *DEMO, "--config", "mine.yaml", *CPU), f"mine.yaml: {option} {leaving}: ", "SystemExit: 0 (")


@pytest.mark.badinput
@pytest.mark.parametrize("leaving", ["import sys\nsys.exit(0)\n"], indirect=True, ids=["exit"])
def test_modules_that_end_the_program_in_grids(leaving: str) -> None:
    for options in ({"model.optimizer": {"class_path": leaving}}, {"model.objective": leaving}):
        grid = {"configs": ["demo.yaml"], "seeds": [1], "rows": {"one": {"options": options}}}
        Path("grid.yaml").write_text(yaml.safe_dump(grid))
        refused(
            clipos("benchmark", "grid.yaml", "--out", "out"), f"--{next(iter(options))} {leaving}: ", "SystemExit: 0"
        )


@pytest.mark.badinput
@pytest.mark.parametrize("code", ["sys.exit(0)", "raise SystemExit('bye')"])
def test_classes_that_end_the_program(code: str, bait: Path) -> None:
    name = f"leaving_{next(number)}"
    text = "import sys\nfrom clipos_lightning import Objective\nfrom lightning.pytorch import Callback\n\n"
    for kind in ("Objective", "Callback"):
        text += f"\nclass My{kind}({kind}):\n    def __init__(self):\n        {code}\n"
    Path(f"{name}.py").write_text(text)
    refused(clipos("fit", *DEMO, "--model.objective", f"{name}.MyObjective", *CPU), "--model.objective", "SystemExit")
    refused(clipos("fit", *DEMO, "--trainer.callbacks", f"{name}.MyCallback", *CPU), "ended the program", f"{name}.py")


def test_a_module_that_a_users_module_lacks(bait: Path) -> None:
    Path("lacking_parts.py").write_text("import no_such_package\n")
    run = clipos("fit", *DEMO, "--trainer.callbacks", "lacking_parts.Thing", *CPU)
    refused(run, "--trainer.callbacks lacking_parts.Thing: no module 'no_such_package', which it imports: install it")
    refused(clipos("fit", *DEMO, "--trainer.callbacks", "no_such_parts.Thing", *CPU), "no_such_parts")
