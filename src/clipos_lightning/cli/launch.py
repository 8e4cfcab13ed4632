"""Several processes of ``fit``, ``validate`` and ``test``: which one this is, and how they end together.

The Trainer's options tell how many processes there are; variables of a launcher count only if they agree. Without a
launcher, Lightning starts the processes of a machine itself.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch import Trainer

from ..errors import InputError
from ..utils.launcher import MEETING, PARENT, Launch, find_launch, forget_ranks, is_orphan
from ..utils.peers import Peers
from ..utils.progress import set_process_rank
from ..utils.stop_signals import REASONS
from .signals import report_reason

JOIN_SECONDS = 600.0  # in which all processes must come; less if the launch is not certain
UNCERTAIN_SECONDS = 120.0
FAILED_SECONDS = 20.0  # in which a process that failed at its start finds the others
LOCALHOST = "127.0.0.1"
ENVIRONMENTS = {"torchrun": TorchElasticEnvironment, "jsrun": LSFEnvironment}
CONNECTION = re.compile(r"(?i)gloo|nccl|connection (closed|reset|refused)|broken pipe|socket")

_peers: Peers | None = None


# ---- the processes


def choose_environment(devices: int, nodes: int) -> tuple[ClusterEnvironment, Launch | None]:
    """How the processes of a Trainer find each other; left-over variables of other jobs are removed.

    Args:
        devices: processes per machine.
        nodes: machines.

    Returns:
        Lightning's environment, and the launch; None: Lightning starts the processes of this machine, if any.

    Raises:
        InputError: a launcher started another number of processes, or machines do not know of each other.
    """
    launch, world = find_launch(os.environ), devices * nodes
    if launch is None and MPIEnvironment.detect():
        return MPIEnvironment(), Launch("mpirun", -1, world, "the size of MPI's world", certain=True)
    if launch is not None and launch.certain and launch.world != world and launch.world > 1:
        raise InputError(
            f"{launch.name} started {launch.world} processes ({launch.variable}), but --trainer.devices {devices} and "
            f"--trainer.num_nodes {nodes} are for {world}: make them agree"
        )
    if launch is None or launch.world != world or world == 1:
        forget_launch(nodes)
        return LightningEnvironment(), None
    machines = os.environ.get("SLURM_NNODES", str(nodes))
    if launch.name == "srun" and machines != str(nodes):
        raise InputError(f"srun uses {machines} machines (SLURM_NNODES), but --trainer.num_nodes is {nodes}")
    return environment_of(launch.name, devices), launch


def forget_launch(nodes: int) -> None:
    """Remove the variables of a launch; machines that Lightning connects keep those by which it does.

    Raises:
        InputError: there are several machines, and the variables are missing.
    """
    meeting = {name: os.environ.get(name, "") for name in (*MEETING, "NODE_RANK")}
    os.environ.pop(PARENT, None)
    forget_ranks(os.environ)
    if nodes > 1:
        if not all(meeting.values()):
            raise InputError(
                f"--trainer.num_nodes {nodes}: start the processes with srun or torchrun, or set MASTER_ADDR, "
                "MASTER_PORT and NODE_RANK on each machine"
            )
        os.environ.update(meeting)


def environment_of(launcher: str, devices: int) -> ClusterEnvironment:
    """Lightning's environment for the processes of a launcher."""
    if launcher == "srun":
        os.environ["SLURM_NTASKS_PER_NODE"] = str(devices)  # Lightning wants it; its requeueing starts in a new folder
        return SLURMEnvironment(auto_requeue=False)
    return ENVIRONMENTS.get(launcher, LightningEnvironment)()


def rank_in(environment: ClusterEnvironment, devices: int) -> int:
    """The global rank of this process.

    Raises:
        InputError: a launcher's variable is missing.
    """
    if isinstance(environment, LightningEnvironment):
        return environment.node_rank() * devices + environment.local_rank()
    try:
        return environment.global_rank()
    except KeyError as error:
        name = type(environment).__name__
        raise InputError(f"--trainer.plugins {name}: the variable {error} of its launcher is missing") from error


def join_processes(options: Mapping[str, Any]) -> tuple[list[Any], Peers | None]:
    """Find the other processes of a Trainer, before it is created.

    Args:
        options: of the Trainer.

    Returns:
        Its plugins, with the environment of the processes; and the processes, None if this is the only one.

    Raises:
        InputError: the processes do not find each other.
    """
    plugins, strategy = options.get("plugins"), options.get("strategy")
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [] if plugins is None else [plugins]
    own = [plugin for plugin in plugins if isinstance(plugin, ClusterEnvironment)]
    own += [given] if (given := getattr(strategy, "cluster_environment", None)) is not None else []
    devices, nodes = count_devices(options), options.get("num_nodes") or 1
    environment, launch = (own[0], None) if own else choose_environment(devices, nodes)
    set_process_rank(rank := rank_in(environment, devices))
    plugins += [] if own else [environment]
    if devices * nodes == 1:
        return plugins, None
    elsewhere = launch is not None or nodes > 1 or environment.creates_processes_externally
    meeting = (environment.main_address, environment.main_port) if elsewhere else (LOCALHOST, 0)
    return plugins, connect_peers(*meeting, rank, devices * nodes, launch, elsewhere)


def count_devices(options: Mapping[str, Any]) -> int:
    """Number of processes per machine, by a Trainer of its own, which knows the accelerators."""
    names = ("accelerator", "devices", "num_nodes")
    given = {name: options[name] for name in names if options.get(name) is not None}
    quiet: dict[str, Any] = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    return Trainer(**given, **quiet, plugins=[LightningEnvironment()], enable_model_summary=False).num_devices


def connect_peers(
    host: str,
    port: int,
    rank: int,
    world: int,
    launch: Launch | None,
    elsewhere: bool,
    seconds: float | None = None,
) -> Peers:
    """Connect to the other processes; process 0 serves the store, if torchrun does not.

    Args:
        host: of process 0.
        port: of process 0; 0: any, which the processes that Lightning starts then get by their environment.
        rank: of this process.
        world: number of processes.
        launch: how the processes were started; None: by Lightning.
        elsewhere: whether this process does not start all others.
        seconds: to wait for process 0; None: as long as all processes may take.

    Raises:
        InputError: process 0 does not come, or its port is in use.
    """
    global _peers
    serves = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    patience = JOIN_SECONDS if launch is None or launch.certain else UNCERTAIN_SECONDS
    cure = "start all of them" if launch is None else f"start them with {launch.name}, or unset {launch.variable}"
    if not serves:
        wait_for_server(host, port, patience if seconds is None else seconds, f"{cure} on this network")
    try:
        store = dist.TCPStore(
            host, port, is_master=serves, wait_for_workers=False, multi_tenant=True, timeout=timedelta(seconds=patience)
        )
    except RuntimeError as error:
        raise InputError(f"port {port} of {host} is in use (MASTER_PORT): choose another one") from error
    if not elsewhere:
        os.environ |= {"MASTER_ADDR": host, "MASTER_PORT": str(store.port)}
    os.environ |= {PARENT: f"{os.getpid()}:{rank}", "TORCH_CPP_LOG_LEVEL": "ERROR"}  # for those that this one starts
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    shared = dist.PrefixStore(f"clipos/{attempt}", store)
    _peers = Peers(shared, rank, world, report_reason, elsewhere, patience, cure)
    return _peers


def wait_for_server(host: str, port: int, seconds: float, cure: str) -> None:
    """Wait until process 0 serves the store; ends this process if the one of us that started it has ended.

    Raises:
        InputError: it does not within this time.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            if is_orphan(os.environ):
                os._exit(1)
            if time.monotonic() > deadline:
                reason = error.strerror or error
                raise InputError(
                    f"no process 0 at {host}, port {port}, within {seconds:.0f} s ({reason}): {cure}"
                ) from error
            time.sleep(0.5)
        else:
            return


# ---- the end


def end_together(report: Callable[[], int], error: BaseException | None, signum: int | None) -> int:
    """Report a failure or a signal once for all processes, and end them; without other processes, only report it.

    Args:
        report: prints what happened; returns the exit code.
        error: that ended the command.
        signum: the signal that ended it.
    """
    peers = _peers or meet_others(signum)
    if peers is None:
        return report()
    for stop in REASONS.keys() - {signal.SIGINT}:  # the end is near
        signal.signal(stop, signal.SIG_IGN)
    if signum is None:  # else, the handler tells a repeated Ctrl-C from a later one
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    of_connection = isinstance(error, RuntimeError) and bool(CONNECTION.search(f"{type(error).__name__} {error}"))
    peers.finish(report, signum, of_connection)


def meet_others(signum: int | None) -> Peers | None:
    """The other processes, if this one failed before it met them; None: there are none, or they do not come."""
    launch = find_launch(os.environ)
    if launch is None or not launch.certain or launch.world == 1 or signum:
        return None
    environment = environment_of(launch.name, devices=1)
    meeting = environment.main_address, environment.main_port
    try:
        return connect_peers(*meeting, launch.rank, launch.world, launch, elsewhere=True, seconds=FAILED_SECONDS)
    except InputError:
        return None


def follow_trainer(trainer: Trainer) -> None:
    """Watch the processes that a Trainer starts, and handle signals without Lightning.

    Lightning's handlers would have the processes exchange data inside a signal handler, where the others do not expect
    it.
    """
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None
    launcher = trainer.strategy.launcher
    if _peers is not None and launcher is not None:
        _peers.started = lambda: getattr(launcher, "procs", [])
    set_process_rank(trainer.global_rank)


def leave_processes() -> None:
    """End this process's part in a run that succeeded; process 0 waits for the others."""
    global _peers
    if _peers is not None:
        _peers.close()
        _peers = None
