"""Several processes train and test as one does, to the order of sums."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import CPU, Run, clipos, done, refused, relative_difference

METHOD = ("--config", "demo.yaml", "--data.shots", "3", "--data.batch_size", "7", "--trainer.max_steps", "6")
LIMIT = ("--data.limit_per_set", "31", "--data.eval_batch_size", "8", "--data.ood_sets", "[new_shapes,noise]")
SHORT = ("--model.context.length", "4", "--data.batch_size", "7")  # for MicroCLIP, which reads 16 tokens
GALLOP = "{count: 3, dropout: 0.5}"
LOCAL = "{count: 9, length: 4, top: 20, crops: 8, positives: 3}"
LAUNCHERS = ("lightning", "torchrun", "srun")
PLACES = ("SLURM", "MASTER", "RANK", "LOCAL_RANK", "WORLD_SIZE")  # how variables of a launcher start
SECONDS = 280


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith((*PLACES, "CLIPOS_DATA"))}
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def start(
    stack: ExitStack, launcher: str, count: int, *words: Any, folder: Path
) -> list[tuple[subprocess.Popen[str], Path]]:
    """Start a command in several processes; returns those that the test starts, with the file of their output."""
    arguments = ["clipos_lightning", *map(str, words), *CPU, "--trainer.devices", str(count)]
    if launcher == "torchrun":
        arguments = ["torch.distributed.run", "--nproc_per_node", str(count), "-m", *arguments]
    step = {"SLURM_NTASKS": str(count), "SLURM_NODEID": "0", "SLURM_STEP_ID": "0", "SLURM_JOB_ID": str(os.getpid())}
    step |= {"SLURM_NNODES": "1", "SLURM_NODELIST": "localhost", "SLURM_JOB_NAME": "job"}
    started = []
    for i in range(count if launcher == "srun" else 1):
        own = step | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} if launcher == "srun" else {}
        output = folder / f"{i}.txt"
        files = [stack.enter_context(open(path, "w")) for path in (output, output.with_suffix(".err"))]
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(
            command, cwd=folder, env=environment(**own), stdout=files[0], stderr=files[1], text=True
        )
        stack.callback(process.kill)
        started.append((process, output))
    return started


def wait(started: Sequence[tuple[subprocess.Popen[str], Path]], seconds: float = SECONDS) -> Run:
    """The exit code, the largest of all processes, and what all of them printed."""
    codes = [process.wait(seconds) for process, _ in started]
    out, err = ("".join(path.with_suffix(end).read_text() for _, path in started) for end in (".txt", ".err"))
    return Run(max(codes, key=abs), out, err)


def together(launcher: str, count: int, *words: Any, folder: Path) -> Run:
    """A command in several processes."""
    with ExitStack() as stack:
        return wait(start(stack, launcher, count, *words, folder=folder))


def two(*words: Any, folder: Path) -> Run:
    """A command in two processes; the first starts the second."""
    return together("lightning", 2, *words, "--trainer.strategy", "ddp", folder=folder)


def check_all_are_one(folder: Path, *options: str, launcher: str = "lightning", count: int = 2) -> None:
    """The learned context, every score of every image, and every figure of the report."""
    one = done("fit", *METHOD, *options, "--trainer.default_root_dir", folder)
    both = together(launcher, count, "fit", *METHOD, *options, folder=folder)
    assert both.code == 0, both.err
    assert both.err == ""
    assert both.out.count("run: ") == 1
    checkpoint = folder / both.folder / "last.ckpt"
    assert len(list((folder / "runs").iterdir())) == 1  # one folder for both processes
    figures = [[line for line in run.lines if line.startswith("val/")] for run in (one, both)]
    assert figures[0] == figures[1] and len(figures[0]) == 6 * ("--data.validate" in options)
    assert relative_difference(Run(0, f"run: {checkpoint.parent}", "").context, one.context) < 1e-5
    shots = [json.loads((f / "shots.json").read_text()) for f in (one.folder, checkpoint.parent)]
    assert shots[0] == shots[1]

    alone = done("test", "--ckpt_path", checkpoint, *LIMIT, "--trainer.default_root_dir", folder)
    shared = together(launcher, count, "test", "--ckpt_path", checkpoint, *LIMIT, folder=folder)
    assert shared.code == 0, shared.err
    assert shared.out.count("run: ") == 1
    shared.out = f"run: {folder / shared.folder}"
    assert alone.scores.keys() == shared.scores.keys()
    for name, values in alone.scores.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(shared.scores[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(shared.scores[name], values, err_msg=name)
    first, second = alone.report, shared.report
    assert first["id"]["n"] == second["id"]["n"] == 31
    assert second["id"]["accuracy"] == pytest.approx(first["id"]["accuracy"], abs=1e-3)
    for ours, theirs in ((first, second), (first["zero_shot"], second["zero_shot"])):
        for name, scores in ours["ood"].items():
            for score, metrics in scores.items():
                assert theirs["ood"][name][score] == pytest.approx(metrics, abs=1e-3)
    for name, judged in first["masks"].items():
        assert second["masks"][name] == pytest.approx(judged, abs=1e-5)


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    check_all_are_one(tmp_path, "--data.validate", "true", "--data.limit_per_set", "20")


def test_two_processes_of_torchrun(tmp_path: Path) -> None:
    one = done("fit", *METHOD, "--trainer.default_root_dir", tmp_path / "one")
    both = together("torchrun", 2, "fit", *METHOD, folder=tmp_path)
    assert (both.code, both.err, both.out.count("run: ")) == (0, "", 1)
    folder = tmp_path / both.folder
    assert list((tmp_path / "runs").iterdir()) == [folder]  # one folder for both processes
    assert {path.name for path in folder.iterdir()} >= {"config.yaml", "shots.json", "metrics.csv", "last.ckpt"}
    both.out = f"run: {folder}"
    assert relative_difference(both.context, one.context) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "count"), [("torchrun", 2), ("srun", 2), ("srun", 3), ("lightning", 3)])
def test_all_launchers(launcher: str, count: int, tmp_path: Path) -> None:
    check_all_are_one(tmp_path, "--data.validate", "true", "--data.limit_per_set", "20", launcher=launcher, count=count)


@pytest.mark.slow
@pytest.mark.parametrize("by_torchrun", [True, False])
def test_two_machines(by_torchrun: bool, tmp_path: Path) -> None:
    """Two machines with two processes each, on this one."""
    one = done("fit", *METHOD, "--trainer.default_root_dir", tmp_path / "one")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
    options = ["--trainer.devices", "2", "--trainer.num_nodes", "2", *CPU]
    command = ["clipos_lightning", "fit", *METHOD, *options]
    processes = []
    for node in ("0", "1"):
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": node}
        if by_torchrun:
            elastic = ["--nnodes", "2", "--nproc_per_node", "2", "--node_rank", node, "--master_addr", "127.0.0.1"]
            words = ["torch.distributed.run", *elastic, "--master_port", port, "-m", *command]
        else:
            words = command
        call = [sys.executable, "-m", *words]
        variables = environment(**({} if by_torchrun else place))
        processes.append(subprocess.Popen(call, cwd=tmp_path, env=variables, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate(timeout=SECONDS)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "".join(outputs).count("run: ") == 1 and len(list((tmp_path / "runs").iterdir())) == 1
    both = Run(0, f"run: {next((tmp_path / 'runs').iterdir())}", "")
    assert relative_difference(both.context, one.context) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--config", "locoop.yaml", "--model.context.length", "8", "--data.batch_size", "7"],
        ["--model.synthesis.level", "patch", "--model.context.learn", "own"],
        ["--model.objective", "energy", "--model.feature_budget_mb", "0"],
        ["--config", "id_like.yaml", *SHORT, "--model.objective.init_args", "{count: 9, length: 4, crops: 8, kept: 3}"],
        ["--config", "local_prompt.yaml", *SHORT, "--model.objective.init_args", LOCAL],
        ["--config", "gallop.yaml", "--data.batch_size", "7", "--model.objective.init_args", GALLOP],
    ],
    ids=["locoop", "patch", "energy", "id_like", "local_prompt", "gallop"],
)
def test_two_processes_are_one_whatever_the_objective(options: list[str], tmp_path: Path) -> None:
    check_all_are_one(tmp_path, *options)


@pytest.mark.slow
def test_a_process_without_a_share_does_not_hang(tiny_folder: Path, tmp_path: Path) -> None:
    """Batches of one image, a test set of one image: the second process has nothing to do, and still takes part."""
    single = tmp_path / "single"
    single.mkdir()
    shutil.copy(tiny_folder / "other/0.png", single)
    options = ("--config", "demo.yaml", "--data.root", tiny_folder, "--data.id", "folder:photos")
    options += ("--data.ood_sets", f"[folder:other,folder:{single}]", "--data.batch_size", 1, "--trainer.max_steps", 3)
    both = two("fit", *options, folder=tmp_path)
    assert both.code == 0, both.err
    one = done("fit", *options, "--trainer.default_root_dir", tmp_path)
    both.out = f"run: {tmp_path / both.folder}"
    assert relative_difference(both.context, one.context) < 1e-5
    test = two("test", "--ckpt_path", both.checkpoint, folder=tmp_path)
    assert test.code == 0, test.err
    assert test.err == ""
    test.out = f"run: {tmp_path / test.folder}"
    assert {name: scores["energy"]["n"] for name, scores in test.report["ood"].items()} == {"other": 7, "single": 1}


@pytest.mark.slow
def test_validation_by_two_processes_is_that_of_one(tiny_folder: Path, tmp_path: Path) -> None:
    options = ("--config", "demo.yaml", "--data.root", tiny_folder, "--data.id", "folder:photos")
    alone = done("validate", *options, "--data.limit_per_set", 5, "--trainer.default_root_dir", tmp_path)
    shared = two("validate", *options, "--data.limit_per_set", 5, folder=tmp_path)
    assert shared.code == 0, shared.err
    figures = [[line for line in run.lines if line.startswith("val/")] for run in (alone, shared)]
    assert figures[0] == figures[1] != []


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "srun"])
@pytest.mark.parametrize("broken", [0, 1])
def test_one_broken_image_is_one_line(launcher: str, broken: int, tiny_folder: Path, tmp_path: Path) -> None:
    """An image of the first or the second process, and both wait for each other."""
    photos = tmp_path / "other"
    shutil.copytree(tiny_folder / "other", photos)
    whole = (photos / f"{broken}.png").read_bytes()
    (photos / f"{broken}.png").write_bytes(whole[: len(whole) // 2])
    words = ("test", "--config", "demo.yaml", "--data.id", f"folder:{tiny_folder / 'photos'}")
    run = together(launcher, 2, *words, "--data.ood_sets", f"[folder:{photos}]", folder=tmp_path)
    refused(run, "cannot read image", f"{broken}.png")
    assert len(run.err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "srun"])
def test_a_wrong_option_is_one_line(launcher: str, tmp_path: Path) -> None:
    run = together(launcher, 2, "test", "--ckpt_path", "nowhere.ckpt", folder=tmp_path)
    refused(run, "nowhere.ckpt")
    assert len(run.err.splitlines()) == 1
    assert clipos("configs").code == 0  # the test's own process is as it was


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "srun"])
@pytest.mark.parametrize(
    ("signum", "ranks", "code", "says"),
    [
        (signal.SIGKILL, [1], 1, "process 1 of 2 was killed"),
        (signal.SIGTERM, [0], 143, "clipos: terminated"),
        (signal.SIGTERM, [1], 143, "clipos: terminated"),
        (signal.SIGTERM, [0, 1], 143, "clipos: terminated"),
        (signal.SIGINT, [0, 1], 130, "clipos: interrupted"),
    ],
)
def test_all_processes_end_with_one(
    launcher: str, signum: int, ranks: list[int], code: int, says: str, tmp_path: Path
) -> None:
    """They end within a minute, say so once, and the training can go on from its checkpoint."""
    words = (*METHOD[:-2], "--trainer.max_epochs", -1, "--checkpoint_every_n_seconds", 1)
    with ExitStack() as stack:
        started = start(stack, launcher, 2, "fit", *words, folder=tmp_path)
        until(lambda: list(tmp_path.glob("runs/*/last.ckpt")))
        processes = [process.pid for process, _ in started]
        processes += children(processes[0]) if launcher == "lightning" else []
        for rank in ranks:
            os.kill(processes[rank], signum)
        codes = [process.wait(60) for process, _ in started]
        run = wait(started)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes[len(started) :]))
    assert [left for i, left in enumerate(codes) if signum != signal.SIGKILL or i not in ranks] in ([code], 2 * [code])
    assert len(run.err.splitlines()) == 2 and says in run.err and run.err.count("clipos fit --ckpt_path") == 1
    (checkpoint,) = tmp_path.glob("runs/*/last.ckpt")
    done("test", "--ckpt_path", checkpoint, *LIMIT, "--trainer.default_root_dir", tmp_path)


@pytest.mark.slow
def test_the_other_processes_notice_that_the_first_was_killed(tmp_path: Path) -> None:
    with ExitStack() as stack:
        started = start(stack, "lightning", 2, "fit", *METHOD[:-2], "--trainer.max_epochs", -1, folder=tmp_path)
        until(lambda: list(tmp_path.glob("runs/*/metrics.csv")))
        (second,) = children(started[0][0].pid)
        started[0][0].kill()
        until(lambda: not Path(f"/proc/{second}").exists())
        run = wait(started)
    assert "process 0 of 2 was killed" in run.err and len(run.err.splitlines()) == 2


def until(condition: Callable[[], object], seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    """The processes that a process started."""
    text = "".join(path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return sorted(map(int, text.split()))
