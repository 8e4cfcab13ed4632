"""One point of each shipped W&B sweep, expanded as by the agent, trains and tests offline."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from running import done

from clipos_lightning.options.configs import config_folder

SWEEPS = sorted((config_folder() / "sweeps").glob("*.yaml"))
SHORT = ["--trainer.max_steps=1", "--data.limit_per_set=20", "--data.ood_sets=[noise]", "--data.num_workers=0"]


def expand(sweep: dict, which: int) -> list[str]:
    """The command line of one point, as `wandb agent` makes it."""
    values = {name: given["values"][which % len(given["values"])] for name, given in sweep["parameters"].items()}
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
    assert "run: runs/test-" in done.stdout
    runs = sorted(tmp_path.glob("runs/*/wandb/offline-run-*"))
    assert len(runs) == 2 and all(run.name.endswith("point1") for run in runs)  # one W&B run


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_sweep_trains_and_tests_with_the_same_shell_command(path: Path, tmp_path: Path):
    sweep, first = (yaml.safe_load(p.read_text()) for p in (path, SWEEPS[0]))
    assert sweep["command"] == first["command"]
    for which in (0, -1):
        flags = [word for word in expand(sweep, which) if word.startswith("--")]
        assert len(flags) == len(sweep["parameters"])
        done("fit", "--config", "demo.yaml", *flags, *SHORT[:3], "--trainer.default_root_dir", tmp_path)
