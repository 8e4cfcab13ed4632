"""Locks between real processes: who holds one, that it ends with its holder, and that two never hold it at once."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from clipos_lightning.utils import locks
from clipos_lightning.utils.files import WriteError
from clipos_lightning.utils.locks import hold_lock

HOLD = """
import os, sys, time
from pathlib import Path
from clipos_lightning.utils.locks import hold_lock
with hold_lock(Path(sys.argv[1]), print):
    child = os.fork() if sys.argv[2] == "fork" else 0
    if child or sys.argv[2] != "fork":
        print(child, flush=True)
    time.sleep(60)
"""
Holder = Callable[..., tuple[subprocess.Popen[str], int]]


@pytest.fixture
def holder() -> Iterator[Holder]:
    """Start a process that holds the lock of a file; returns it and the id of its child, or 0."""
    processes: list[int] = []

    def start(target: Path, kind: str = "alone") -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", HOLD, str(target), kind]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        child = int(process.stdout.readline())
        processes.extend([process.pid, *([child] if child else [])])
        return process, child

    yield start
    for pid in processes:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def refuse(holder: str) -> None:
    raise BlockingIOError(holder)


def test_the_second_process_learns_who_holds_it(tmp_path: Path, holder: Holder) -> None:
    process, _ = holder(tmp_path / "rows.csv")
    pattern = rf"process {process.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(BlockingIOError, match=pattern), hold_lock(tmp_path / "rows.csv", refuse):
        pass
    with hold_lock(tmp_path / "other.csv", refuse) as locked:
        assert locked


@pytest.mark.parametrize("kind", ["alone", "fork"])
def test_the_lock_of_a_killed_process_is_taken_over(kind: str, tmp_path: Path, holder: Holder) -> None:
    process, child = holder(tmp_path / "rows.csv", kind)
    process.kill()
    process.wait()
    assert [path.name for path in tmp_path.iterdir()] == [".rows.csv.lock"]
    if child:
        os.kill(child, 0)  # a data worker may outlive its process for a while
    with hold_lock(tmp_path / "rows.csv", refuse) as locked:
        assert locked and str(os.getpid()) in (tmp_path / ".rows.csv.lock").read_text()
    assert not list(tmp_path.iterdir())


def test_a_file_of_that_name_without_a_holder_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".rows.csv.lock").write_text("half a")
    assert locks.describe_holder(tmp_path / ".rows.csv.lock") == "another process"
    with hold_lock(tmp_path / "rows.csv", refuse):
        pass


def test_two_never_hold_it_at_once(tmp_path: Path) -> None:
    """Each of four processes adds one to a number 50 times; without the lock, additions are lost."""
    number = tmp_path / "number"
    number.write_text("0")
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            for _ in range(50):
                with hold_lock(number, lambda _: time.sleep(0.0005)):
                    value = int(number.read_text())
                    time.sleep(0.0002)
                    number.write_text(str(value + 1))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert number.read_text() == "200" and [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "lock_file", fail)
    with hold_lock(tmp_path / "rows.csv", refuse) as locked:
        assert not locked


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(WriteError) as caught, hold_lock(tmp_path / "gone/rows.csv", refuse):
        pass
    assert caught.value.filename == str(tmp_path / "gone/rows.csv")
