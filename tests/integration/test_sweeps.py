"""The shipped W&B sweeps: small, judged without a test set, and each point runs offline as the agent runs it."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from running import done

from clipos_lightning.options.configs import config_folder

SWEEPS = sorted((config_folder() / "sweeps").glob("*.yaml"))
SHORT = ["--trainer.max_steps=1", "--data.num_workers=0"]
LARGEST = 60  # points of a grid


def value_of(given: dict[str, Any], which: int) -> Any:
    """One value of a parameter: from its list, or an end of its range."""
    return given["values"][which % len(given["values"])] if "values" in given else given[("min", "max")[which]]


def expand(sweep: dict[str, Any], which: int) -> list[str]:
    """The command line of one point, as `wandb agent` makes it."""
    values = {name: value_of(given, which) for name, given in sweep["parameters"].items()}
    words = {"${env}": ["env"], "${args}": [f"--{name}={value}" for name, value in values.items()]}
    return [word for part in sweep["command"] for word in words.get(part, [part])]


@pytest.mark.slow
def test_a_point_runs_as_the_agent_runs_it(tmp_path: Path):
    sweep = yaml.safe_load(SWEEPS[0].read_text())
    bin_folder = str(Path(sys.executable).parent)
    env = os.environ | {"PATH": f"{bin_folder}:{os.environ['PATH']}", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"}
    env |= {"WANDB_RUN_ID": "point1", "CUDA_VISIBLE_DEVICES": "", "WANDB_SILENT": "true"}
    words = [*expand(sweep, -1), *SHORT]
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "run: runs/fit-" in done.stdout
    (run,) = tmp_path.glob("runs/*/wandb/offline-run-*")
    assert run.name.endswith("point1") and b"val/outliers/auroc" in (run / "run-point1.wandb").read_bytes()


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_only_fits_and_optimises_a_validation_figure(path: Path):
    sweep = yaml.safe_load(path.read_text())
    assert sweep["metric"] == {"name": "val/outliers/auroc", "goal": "maximize"}
    assert sweep["command"][:3] == ["${env}", "clipos", "fit"] and "--data.validate=true" in sweep["command"]
    assert not any("test" in word for word in sweep["command"])
    counts = [len(given.get("values", [])) for given in sweep["parameters"].values()]
    assert sweep["run_cap"] <= LARGEST if sweep["method"] == "bayes" else 1 < math.prod(counts) <= LARGEST


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_both_ends_of_every_sweep_are_trained(path: Path, tmp_path: Path):
    sweep = yaml.safe_load(path.read_text())
    for which in (0, -1):
        flags = [word for word in expand(sweep, which) if word.startswith("--") and word not in sweep["command"]]
        assert len(flags) == len(sweep["parameters"])
        done("fit", "--config", "demo.yaml", *flags, *SHORT[:1], "--trainer.default_root_dir", tmp_path)
