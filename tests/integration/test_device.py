"""No tensor stays on the CPU when the model is on a device: a fake one, so that no GPU is needed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pretended_device import CASES

SCRIPT = Path(__file__).parents[1] / "pretended_device.py"


@pytest.mark.parametrize("cases", [["unknown"], pytest.param(list(CASES), marks=pytest.mark.slow)])
def test_a_device_gives_what_the_cpu_gives_and_nothing_is_left_behind(cases: list[str]) -> None:
    env = {**os.environ, "MKL_CBWR": "AUTO,STRICT", "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, SCRIPT, *cases], capture_output=True, text=True, env=env, check=False)
    if run.returncode == 77:
        pytest.skip("this PyTorch has no backends written in Python")
    assert run.returncode == 0, run.stderr[-3000:]
    results = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[")]
    assert [case for case, _, _ in results] == cases
    for case, cpu, away in results:
        assert cpu.keys() == away.keys()
        assert {n: (case, cpu[n], away[n]) for n in cpu if abs(cpu[n] - away[n]) > 1e-3} == {}
