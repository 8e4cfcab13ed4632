"""Workers leave signals to the main process, and end with it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from clipos_lightning.utils.worker_signals import MAIN_SIGNALS, TERM_SECONDS, shield_worker, signals_held

FORK = multiprocessing.get_context("fork")
ORPHANED = """
import multiprocessing, os, time
from clipos_lightning.utils.worker_signals import shield_worker

def work(early):
    if not early:
        shield_worker()
        print(os.getpid(), flush=True)
    else:
        print(os.getpid(), flush=True)
        time.sleep(1)
        shield_worker()
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("{method}").Process(target=work, args=({early},), daemon=True).start()
    time.sleep(60)
"""


def start(work: Callable[[Any], None]) -> tuple[Any, Any]:
    """A worker and the pipe from it; its signals are held back until it is shielded."""
    receiver, sender = FORK.Pipe(duplex=False)
    worker = FORK.Process(target=work, args=(sender,), daemon=True)
    with signals_held():
        worker.start()
    return worker, receiver


def shielded(pipe: Any) -> None:
    shield_worker()
    pipe.send("ready")
    time.sleep(0.5)
    pipe.send("done")
    time.sleep(60)


def test_a_worker_ignores_the_signals_of_the_main_process() -> None:
    worker, pipe = start(shielded)
    assert pipe.recv() == "ready"
    for signum in MAIN_SIGNALS:
        os.kill(worker.pid, signum)
    assert pipe.recv() == "done"
    worker.kill()
    worker.join()


def test_sigterm_ends_a_worker_after_a_second() -> None:
    worker, pipe = start(shielded)
    assert pipe.recv() == "ready"
    begin = time.monotonic()
    worker.terminate()
    assert pipe.recv() == "done"  # the main process has time to act on its own SIGTERM
    worker.join(20)
    assert worker.exitcode == 0
    assert time.monotonic() - begin >= TERM_SECONDS


def unshielded_for_a_moment(pipe: Any) -> None:
    pipe.send("started")
    time.sleep(0.5)
    shielded(pipe)


@pytest.mark.parametrize("signum", [*(pytest.param(s, marks=pytest.mark.slow) for s in MAIN_SIGNALS), signal.SIGTERM])
def test_a_signal_before_the_worker_is_shielded_waits(signum: int) -> None:
    worker, pipe = start(unshielded_for_a_moment)
    assert pipe.recv() == "started"
    os.kill(worker.pid, signum)
    assert pipe.recv() == "ready"
    assert pipe.recv() == "done"
    worker.kill()
    worker.join()


def test_the_main_process_has_its_signals_again() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with signals_held():
        assert {signal.SIGTERM, *MAIN_SIGNALS} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
@pytest.mark.parametrize("early", [False, True], ids=["later", "while it starts"])
def test_a_worker_ends_when_the_main_process_is_killed(method: str, early: bool, tmp_path: Any) -> None:
    script = tmp_path / "script.py"
    script.write_text(ORPHANED.format(method=method, early=early))
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as main:
        assert main.stdout is not None
        worker = int(main.stdout.readline())
        main.kill()
        deadline = time.monotonic() + 10
        while is_running(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        ended = not is_running(worker)
        if not ended:
            os.kill(worker, signal.SIGKILL)
    assert ended


def is_running(pid: int) -> bool:
    """Whether a process runs; one that is only not yet collected does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")
