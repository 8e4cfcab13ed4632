"""How this process was started as one of several, by the variables of its launcher. No torch.

A variable alone means nothing: shells inherit ``RANK`` or ``SLURM_PROCID`` from jobs that are over, and an allocation
of SLURM sets ``SLURM_NTASKS`` for commands that ``srun`` did not start.
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, replace

PARENT = "CLIPOS_LAUNCHER"  # variable: process and rank of the one that started this one, as 4711:0
RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
TORCHRUN = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE")
MEETING = ("MASTER_ADDR", "MASTER_PORT")
SLURM = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID")
JSRUN = ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK")
RESERVED_STEPS = 2**32 - 16  # from here on, SLURM's steps are batch scripts and interactive shells


@dataclass(frozen=True)
class Launch:
    """One process of several.

    Attributes:
        name: of the launcher.
        rank: of this process; -1 if only its place on its machine is known.
        world: number of processes.
        variable: that tells the number.
        certain: False: the variables could be left over from another job.
    """

    name: str
    rank: int
    world: int
    variable: str
    certain: bool


def find_launch(variables: Mapping[str, str]) -> Launch | None:
    """The launch that a complete set of variables describes; None: this process was started alone.

    Args:
        variables: environment variables.

    Example:
        >>> find_launch({"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"})
        >>> step = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_NTASKS": "2"}
        >>> find_launch(step | {"SLURM_STEP_ID": "0"})
        Launch(name='srun', rank=1, world=2, variable='SLURM_NTASKS', certain=True)
    """
    parent, _, first = variables.get(PARENT, "").partition(":")
    if first.isdigit() and (parent == str(os.getppid()) or os.name == "nt"):
        launch = read_launch("clipos", variables, "LOCAL_RANK", "WORLD_SIZE")
        return launch and replace(launch, rank=int(first) + int(variables["LOCAL_RANK"]))
    if "TORCHELASTIC_RUN_ID" in variables:
        return read_launch("torchrun", variables, "RANK", "WORLD_SIZE", "LOCAL_RANK", *MEETING)
    step = variables.get("SLURM_STEP_ID", "")
    if not in_shell_of_slurm(variables, step):
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID")
        if launch := read_launch("srun", variables, *names, certain=bool(step)):
            return launch
    if {"LSB_JOBID", "LSB_DJOB_RANKFILE", "JSM_NAMESPACE_LOCAL_RANK"} <= variables.keys():
        return read_launch("jsrun", variables, "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE")
    places = ("LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", *MEETING)
    return read_launch("the launcher", variables, *places, certain=False)


def in_shell_of_slurm(variables: Mapping[str, str], step: str) -> bool:
    """Whether the process was started in an interactive shell or a batch script, not as a task of a step."""
    reserved = step.isdigit() and int(step) >= RESERVED_STEPS
    return reserved or "SLURM_PTY_PORT" in variables or variables.get("SLURM_JOB_NAME") in ("bash", "interactive")


def read_launch(
    name: str, variables: Mapping[str, str], rank: str, world: str, *others: str, certain: bool = True
) -> Launch | None:
    """The launch with these variables; None if one of them is missing or is no number.

    Args:
        name: of the launcher.
        variables: environment variables.
        rank: the variable of this process's rank.
        world: the variable of the number of processes.
        others: variables that the launcher sets, too.
        certain: no other job can have set them.
    """
    given = [variables.get(variable, "") for variable in (rank, world)]
    if not all(value.isdigit() for value in given) or not all(variables.get(other) for other in others):
        return None
    return Launch(name, -1 if rank == "LOCAL_RANK" else int(given[0]), int(given[1]), world, certain)


def forget_ranks(variables: MutableMapping[str, str]) -> None:
    """Remove the variables by which libraries would take this process for one of several, unless we started it as one.

    Args:
        variables: environment variables; changed.
    """
    if PARENT not in variables:
        for name in (*RANKS, *TORCHRUN, *MEETING, "SLURM_PROCID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK"):
            variables.pop(name, None)


def forget_non_numbers(variables: MutableMapping[str, str]) -> None:
    """Remove variables of launchers that are no whole numbers from 0 on, which Lightning fails on when it is imported.

    Args:
        variables: environment variables; changed.

    Example:
        >>> variables = {"RANK": "", "LOCAL_RANK": "-1", "WORLD_SIZE": "2", "HOME": "/root"}
        >>> forget_non_numbers(variables)
        >>> variables
        {'WORLD_SIZE': '2', 'HOME': '/root'}
    """
    for name in (*RANKS, *SLURM, *JSRUN, "MASTER_PORT"):
        if not variables.get(name, "0").isdecimal():
            del variables[name]


def is_orphan(variables: Mapping[str, str]) -> bool:
    """Whether this process was started by one of us that has ended. Windows does not tell: always False."""
    parent, _, _ = variables.get(PARENT, "").partition(":")
    return parent not in ("", str(os.getpid()), str(os.getppid())) and os.name != "nt"


def is_helper(variables: Mapping[str, str]) -> bool:
    """Whether another process of the same launch reports for this one.

    Example:
        >>> is_helper({"RANK": "1"})
        False
    """
    launch = find_launch(variables)
    return launch is not None and launch.certain and launch.rank > 0
