"""Signals to a whole process group, as a terminal or a scheduler sends them: one line, and no process stays."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from running import PHOTOS, save_scene

from clipos_lightning import ClipOS, Detector
from clipos_lightning.method.prompts import ContextOptions

LINES = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "terminated: the terminal was closed",
}
LINES[signal.SIGQUIT] = "terminated (SIGQUIT)"
SCENES = ("--config", "demo.yaml", "--data.num_workers", "2", "--trainer.accelerator", "cpu")
COMMANDS = {  # each has two data workers most of its time
    "fit": ("fit", *SCENES, "--data.validate", "true", "--trainer.max_epochs", "1000"),
    "test": ("test", *SCENES),
    "benchmark": ("benchmark", "main", "--data.num_workers", "2", "--out", "out"),
    "calibrate": ("calibrate", "detector.safetensors", "many", "--num_workers", "2", "--out", "calibrated.safetensors"),
    "predict": ("predict", "detector.safetensors", "-", "--num_workers", "2", "--batch_size", "8", "--out", "rows.csv"),
}
AGAIN = "run the same command again"
ADVICE = {  # the second: before there is anything to go on with
    "fit": ("go on: clipos fit --ckpt_path runs/fit-", "nothing was trained yet: "),
    "predict": ("rows.csv.partial has ", AGAIN),
    "benchmark": (f"{AGAIN}: finished",),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector, a folder of many names of few images, and a list of them."""
    root = tmp_path_factory.mktemp("home")
    names = ClipOS(sorted(PHOTOS), backbone="MicroCLIP", context=ContextOptions(words="a photo of a"))
    Detector.of(names).save(root / "detector.safetensors")
    (root / "many").mkdir()
    for i in range(6):
        save_scene(root / f"{i}.png", PHOTOS[i % 3], i)
    for i in range(4000):
        (root / "many" / f"{i:04d}.png").hardlink_to(root / f"{i % 6}.png")
    (root / "list.txt").write_text("".join(f"many/{i:04d}.png\n" for i in range(4000)) * 10)
    return root


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A working directory with what is in ``home``."""
    for path in home.iterdir():
        (tmp_path / path.name).symlink_to(path)
    yield tmp_path


def processes(group: int) -> list[str]:
    """The processes of a group that run, one a line."""
    found = subprocess.run(["ps", "-A", "-o", "pgid=,stat=,pid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 3) for line in found.stdout.splitlines()]
    return [" ".join(row[2:]) for row in rows if int(row[0]) == group and not row[1].startswith("Z")]


def start(words: tuple[str, ...], place: Path) -> "subprocess.Popen[str]":
    """A command in a process group of its own, once its two data workers run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("CLIPOS_DATA", None)
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with open(place / "list.txt") as paths:
        command = subprocess.Popen(
            [sys.executable, "-m", "clipos_lightning", *words],
            cwd=place,
            env=environment,
            stdin=paths,
            start_new_session=True,
            **pipes,
        )
    deadline = time.monotonic() + 120
    while len(processes(command.pid)) < 3 and command.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    return command


def stop(
    name: str, place: Path, signum: int, whole_group: bool, seconds: float = 0.0, times: int = 1
) -> tuple[int, list[str]]:
    """Stop a command some time after its workers started; its exit code and stderr. Afterwards nothing runs."""
    command = start(COMMANDS[name], place)
    try:
        time.sleep(seconds)
        for _ in range(times):
            (os.killpg if whole_group else os.kill)(command.pid, signum)
            time.sleep(0.1)
        _, err = command.communicate(timeout=30)
        deadline = time.monotonic() + 5
        while processes(command.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert processes(command.pid) == []
        return command.returncode, [line for line in err.splitlines() if "worker" not in line]  # torch's advice
    finally:
        for line in processes(command.pid):
            os.kill(int(line.split()[0]), signal.SIGKILL)


def check_stop(name: str, place: Path, signum: int, *how: Any) -> None:
    """Check the exit code, the line, and how to go on."""
    code, lines = stop(name, place, signum, *how)
    assert code == 128 + signum, lines
    assert lines[-2] == f"clipos: {LINES[signal.Signals(signum)]}", lines
    assert lines[-1].startswith(ADVICE.get(name, (AGAIN,))), lines
    assert all(line.startswith(("note: ", "training detectors: ")) for line in lines[:-2]), lines


def test_sigterm_to_the_group_of_a_predict(place: Path) -> None:
    check_stop("predict", place, signal.SIGTERM, True)


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True], ids=["process", "group"])
@pytest.mark.parametrize("signum", LINES, ids=lambda signum: signum.name)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_signal_to_every_command(name: str, signum: int, whole_group: bool, place: Path) -> None:
    check_stop(name, place, signum, whole_group, 0.7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test", "predict"])
def test_a_second_signal_changes_nothing(name: str, place: Path) -> None:
    check_stop(name, place, signal.SIGINT, True, 0.3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test", "predict"])
def test_workers_end_with_a_main_process_that_is_killed(name: str, place: Path) -> None:
    command = start(COMMANDS[name], place)
    time.sleep(0.5)
    command.kill()
    command.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while processes(command.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes(command.pid) == []


@pytest.mark.slow
def test_nohup(place: Path) -> None:
    """Started with SIGHUP ignored, a command and its workers go on."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        command = start(COMMANDS["predict"], place)
    finally:
        signal.signal(signal.SIGHUP, before)
    os.killpg(command.pid, signal.SIGHUP)
    time.sleep(1)
    running = len(processes(command.pid))
    os.killpg(command.pid, signal.SIGTERM)
    command.communicate(timeout=30)
    assert (running, command.returncode) == (3, 143)
