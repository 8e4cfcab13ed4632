"""One process is process 0 of 1 whatever the environment says; a launcher and the Trainer agree on the number."""

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_only
from running import clipos, done, refused

from clipos_lightning import ClipOS, ContextOptions, FewShotOOD, TestReport
from clipos_lightning.cli import main as front_door
from clipos_lightning.cli.launch import choose_environment, count_devices, rank_in, wait_for_server
from clipos_lightning.cli.trainer import trainer_parsers
from clipos_lightning.errors import InputError
from clipos_lightning.utils.launcher import PARENT
from clipos_lightning.utils.progress import process_rank, set_process_rank

FIT = ("fit", "--config", "demo.yaml", "--trainer.max_steps", "2")
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
STEP = {"SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
LEFT_OVER = [
    {"RANK": "1", "LOCAL_RANK": "1", "SLURM_PROCID": "1", "JSM_NAMESPACE_RANK": "1"},
    {"LOCAL_RANK": "1", "NODE_RANK": "0", "WORLD_SIZE": "2", **PLACE},
    {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NODELIST": "localhost"},  # salloc
]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    former = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(former)
    set_process_rank(0)


@pytest.mark.badinput
@pytest.mark.parametrize("variables", LEFT_OVER, ids=["four ranks", "by hand", "salloc"])
def test_fit_and_test_with_left_over_variables(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)  # as Lightning sets it when it is imported
    fit = done(*FIT, env=variables)
    assert {path.name for path in fit.folder.iterdir()} >= {"config.yaml", "shots.json", "metrics.csv", "last.ckpt"}
    assert fit.lines[0].startswith("learned from ")
    if "RANK" in variables:
        monkeypatch.setattr(rank_zero_only, "rank", 1)
        test = done("test", "--ckpt_path", fit.checkpoint, "--data.limit_per_set", 20, env=variables)
        assert test.report["id"]["n"] == 20
    assert len(list(Path("runs").iterdir())) == 1 + ("RANK" in variables)


@pytest.mark.badinput
@pytest.mark.parametrize("value", ["", "x", "-1", "1.0", " 1"])
def test_variables_that_are_no_numbers(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning reads them when it is imported, so they are removed before."""
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS", "JSM_NAMESPACE_RANK", "MASTER_PORT")
    found: list[set[str]] = []
    monkeypatch.setattr(front_door, "dispatch", lambda _: found.append(set(names) & set(os.environ)) or 0)
    assert clipos("fit", env=dict.fromkeys(names, value)).code == 0
    assert found == [set()]


@pytest.mark.badinput
def test_other_commands_with_a_left_over_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    assert process_rank() == 0
    assert clipos("data", "list", env={"RANK": "1", "SLURM_PROCID": "1"}).out != ""


def test_a_trainer_of_python_with_a_left_over_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    data = FewShotOOD(id="scenes", ood_sets=["noise"], limit_per_set=10, num_workers=0)
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[TestReport(tmp_path / "report")])
    module = ClipOS(data.class_names, "MicroCLIP", context=ContextOptions(words="a photo of a"))
    trainer.test(module, data, verbose=False)
    assert (tmp_path / "report/report.json").exists()


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "kind", "rank"),
    [
        ({}, 4, 1, LightningEnvironment, 0),
        ({"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}, 2, 1, LightningEnvironment, 0),
        (STEP, 2, 1, SLURMEnvironment, 1),
        (STEP | {"SLURM_NTASKS_PER_NODE": "9"}, 2, 1, SLURMEnvironment, 1),
        (STEP | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, 4, 1, LightningEnvironment, 0),
        (STEP | {"SLURM_PTY_PORT": "1"}, 2, 1, LightningEnvironment, 0),
        (
            {"TORCHELASTIC_RUN_ID": "7", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", **PLACE},
            *(2, 2, TorchElasticEnvironment, 3),
        ),
        ({"NODE_RANK": "1", **PLACE}, 2, 2, LightningEnvironment, 2),
        ({"NODE_RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "4", **PLACE}, 2, 2, LightningEnvironment, 3),
    ],
)
def test_the_processes_of_a_launcher(
    variables: dict[str, str], devices: int, nodes: int, kind: type, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    environment, launch = choose_environment(devices, nodes)
    assert type(environment) is kind and rank_in(environment, devices) == rank
    assert (launch is None) == (not environment.creates_processes_externally)


@pytest.mark.parametrize(
    ("variables", "devices", "nodes", "says"),
    [
        (STEP, 1, 1, "srun started 2 processes (SLURM_NTASKS), but --trainer.devices 1"),
        (STEP | {"SLURM_NTASKS": "4", "SLURM_NNODES": "2"}, 4, 1, "SLURM_NNODES"),
        ({"TORCHELASTIC_RUN_ID": "7", "RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", **PLACE}, 3, 1, "torchrun"),
        ({"NODE_RANK": "1"}, 2, 2, "MASTER_ADDR"),
    ],
)
def test_a_launcher_that_does_not_agree(
    variables: dict[str, str], devices: int, nodes: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        choose_environment(devices, nodes)
    assert says in str(error.value)


def test_a_process_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError, match=rf"no process 0 at 127.0.0.1, port {port}, within 0 s \(.+\): start it"):
        wait_for_server("127.0.0.1", port, 0.0, "start it")
    monkeypatch.setenv(PARENT, "1:0")  # the process that started this one has ended
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit, match="1"):
        wait_for_server("127.0.0.1", port, 60.0, "start it")


def test_devices_as_the_trainer_counts_them() -> None:
    assert count_devices({"accelerator": "cpu", "devices": "3", "num_nodes": 2, "strategy": "ddp"}) == 3
    assert count_devices({"accelerator": "cpu", "devices": "auto"}) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--trainer.strategy", "ddp_spawn"),
        ("--trainer.strategy", "ddp_notebook_find_unused_parameters_true", "--trainer.devices", 2),
        ("--trainer.strategy", "DDPStrategy", "--trainer.strategy.start_method", "fork", "--trainer.devices", 2),
    ],
)
def test_processes_that_are_copies_are_refused(words: tuple[str, ...]) -> None:
    refused(clipos(*FIT, *words, "--trainer.accelerator", "cpu"), "--trainer.strategy", "use ddp")
    assert not Path("runs").exists()


def test_the_options_of_the_page_exist() -> None:
    page = (Path(__file__).parents[2] / "docs/cluster.md").read_text(encoding="utf-8")
    named = set(re.findall(r"--(?:trainer\.|data\.|model\.|checkpoint|ckpt)\w+", page))
    known = trainer_parsers()["fit"]._option_string_actions
    assert len(named) > 8 and named <= known.keys()
    scripts = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    assert len(scripts) > 4
    for script in scripts:
        assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
