"""Which variables of the environment make a process one of several."""

import os

import pytest

from clipos_lightning.utils.launcher import PARENT, Launch, find_launch, forget_ranks, is_helper, is_orphan

PLACE = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
ELASTIC = {"TORCHELASTIC_RUN_ID": "7", "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", **PLACE}
STEP = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_STEP_ID": "0"}
JSRUN = {"LSB_JOBID": "7", "LSB_DJOB_RANKFILE": "hosts", "JSM_NAMESPACE_LOCAL_RANK": "1", "JSM_NAMESPACE_SIZE": "8"}
BY_HAND = {"LOCAL_RANK": "1", "NODE_RANK": "1", "WORLD_SIZE": "8", **PLACE}
OWN = {PARENT: f"{os.getppid()}:2", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}


@pytest.mark.parametrize(
    ("variables", "launch"),
    [
        (ELASTIC, Launch("torchrun", 3, 8, "WORLD_SIZE", True)),
        (STEP, Launch("srun", 3, 8, "SLURM_NTASKS", True)),
        (JSRUN | {"JSM_NAMESPACE_RANK": "3"}, Launch("jsrun", 3, 8, "JSM_NAMESPACE_SIZE", True)),
        (BY_HAND, Launch("the launcher", -1, 8, "WORLD_SIZE", False)),
        (OWN, Launch("clipos", 3, 8, "WORLD_SIZE", True)),
        (STEP | ELASTIC, Launch("torchrun", 3, 8, "WORLD_SIZE", True)),  # torchrun inside a task of srun
        (STEP | OWN, Launch("clipos", 3, 8, "WORLD_SIZE", True)),
        ({k: v for k, v in STEP.items() if k != "SLURM_STEP_ID"}, Launch("srun", 3, 8, "SLURM_NTASKS", False)),
    ],
)
def test_a_complete_set_of_variables(variables: dict[str, str], launch: Launch) -> None:
    assert find_launch(variables) == launch
    assert is_helper(variables) == launch.certain


@pytest.mark.parametrize("whole", [ELASTIC, STEP, BY_HAND, OWN], ids=["torchrun", "srun", "by hand", "own"])
def test_every_variable_is_needed(whole: dict[str, str]) -> None:
    for name in whole.keys() - {"SLURM_STEP_ID", "TORCHELASTIC_RUN_ID", PARENT}:
        rest = {k: v for k, v in whole.items() if k != name}
        assert find_launch(rest) is None, name


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "JSM_NAMESPACE_RANK": "1", "SLURM_PROCID": "1"},
        {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"},
        STEP | {"SLURM_JOB_NAME": "interactive"},
        STEP | {"SLURM_PTY_PORT": "4711"},
        STEP | {"SLURM_STEP_ID": str(2**32 - 5)},  # a batch script
        OWN | {PARENT: "1:0"},  # of another process
    ],
)
def test_left_over_variables(variables: dict[str, str]) -> None:
    assert find_launch(variables) is None
    assert not is_helper(variables)


def test_variables_are_forgotten_unless_we_set_them() -> None:
    variables = ELASTIC | STEP | {"HOME": "/root"}
    forget_ranks(variables)
    assert find_launch(variables) is None and variables["HOME"] == "/root"
    own = dict(OWN)
    forget_ranks(own)
    assert own == OWN


@pytest.mark.skipif(os.name == "nt", reason="Windows does not tell")
def test_a_process_whose_starter_has_ended() -> None:
    assert is_orphan({PARENT: "1:0"})
    assert not any(map(is_orphan, ({}, OWN, {PARENT: f"{os.getpid()}:0"})))
