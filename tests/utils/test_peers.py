"""How processes notice that another one has ended; a store in memory, and no process ends."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from subprocess import Popen
from typing import Any

import pytest
from torch.distributed import HashStore

from clipos_lightning.utils import peers
from clipos_lightning.utils.peers import End, Peers
from clipos_lightning.utils.stop_signals import REASONS


class Left(BaseException):
    """Raised in place of the end of the process."""


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Peers]]:
    """Peers without a thread, on one store; what they print is in ``said``."""
    store, former = HashStore(), signal.set_wakeup_fd(-1)
    monkeypatch.setattr(Peers, "watch", lambda self: None)
    monkeypatch.setattr(peers, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(peers, "GRACE_SECONDS", 0.05)

    def leave(code: int) -> None:
        raise Left(code)

    monkeypatch.setattr(peers.os, "_exit", leave)

    def make(rank: int, world: int = 2, patience: float = 60.0) -> Peers:
        made = Peers(store, rank, world, said.append, elsewhere=True, patience=patience, cure="start them")
        made.said = said  # type: ignore[attr-defined]
        return made

    said: list[str] = []
    yield make
    signal.set_wakeup_fd(former)


def finish(one: Peers, report: Callable[[], int] = lambda: 2, signum: int | None = None, lost: bool = False) -> int:
    with pytest.raises(Left) as left:
        one.finish(report, signum, lost)
    return int(left.value.args[0])


def test_a_text_of_process_0(start: Callable[..., Peers]) -> None:
    first, second = start(0), start(1)
    assert first.share("folder", lambda: "runs/a") == "runs/a"
    assert second.share("folder", lambda: "runs/b") == "runs/a"


def test_the_first_failure_is_printed_and_its_code_is_that_of_all(start: Callable[..., Peers]) -> None:
    first, second = start(0), start(1)
    printed = []
    assert finish(second, lambda: printed.append(1) or 2) == 2
    assert finish(first, lambda: printed.append(0) or 1) == 2
    assert printed == [1] and first.said == []  # type: ignore[attr-defined]


def test_process_0_prints_a_signal_of_another(start: Callable[..., Peers]) -> None:
    first, second = start(0), start(1)
    assert finish(second, signum=signal.SIGTERM) == 143
    assert first.said == []  # type: ignore[attr-defined]
    assert first.find_end() == End(143, "clipos: terminated")
    assert finish(first, lost=True) == 143
    assert first.said == ["clipos: terminated"]  # type: ignore[attr-defined]


def test_a_signal_has_the_words_of_a_single_process(start: Callable[..., Peers]) -> None:
    assert finish(start(0), signum=signal.SIGHUP) == 129
    assert start(1).find_end() == End(129, f"clipos: {REASONS[signal.SIGHUP]}")


def test_the_run_ends_also_if_the_process_that_was_to_end_it_is_lost(start: Callable[..., Peers]) -> None:
    first, second = start(0), start(1)
    second.store.add("beat/1", 1)
    assert second.claim()
    for _ in range(peers.LOST_POLLS + 2):
        assert first.find_lost() is None
    time.sleep(2 * peers.GRACE_SECONDS)
    end = first.find_lost()
    assert end is not None and "process 1 of 2 was killed" in end.text


def test_a_process_leaves_after_those_that_it_started(start: Callable[..., Peers]) -> None:
    """On another machine than process 0, which ends when all have left; then the store is gone."""
    third = start(2, 4)
    child = Popen([sys.executable, "-c", "import time; time.sleep(0.3)"])
    third.children.append(child)
    third.close()
    assert child.returncode == 0 and third.has_left(2) and third.closed.is_set()
    assert signal.set_wakeup_fd(-1) == -1  # nobody reads the other end any more


def test_a_process_that_succeeded_ends_as_the_others_do(start: Callable[..., Peers]) -> None:
    first, second = start(0), start(1)
    assert finish(first, lambda: 2) == 2
    with pytest.raises(Left, match="2"):
        second.close()


def test_a_silent_process_is_lost(start: Callable[..., Peers]) -> None:
    first, second = start(0, 3), start(2, 3)
    second.store.add("beat/2", 1)
    for _ in range(peers.LOST_POLLS + 1):
        assert first.find_lost() is None
    end = first.find_lost()
    assert end is not None and end.code == 1 and "process 2 of 3 was killed" in end.text
    assert second.find_end() == end


def test_a_process_that_lives_or_has_left_is_not_lost(start: Callable[..., Peers]) -> None:
    first, second = start(0), start(1)
    for _ in range(3 * peers.LOST_POLLS):
        second.store.add("beat/1", 1)
        assert first.find_lost() is None
    second.close()
    for _ in range(3 * peers.LOST_POLLS):
        assert first.find_lost() is None


def test_a_process_that_does_not_come(start: Callable[..., Peers]) -> None:
    assert start(0, 3).find_lost() is None
    end = start(0, 3, patience=0.0).find_lost()
    assert end is not None and "only 1 of 3 processes came" in end.text and "start them" in end.text


@pytest.mark.parametrize(
    ("body", "how"), [("raise SystemExit(3)", "ended with exit code 3"), ("import os; os.abort()", "SIGABRT")]
)
def test_a_started_process_that_died(start: Callable[..., Peers], body: str, how: str) -> None:
    started: list[Any] = [Popen([sys.executable, "-c", body])]
    first = start(0)
    first.started = lambda: started
    child = started[0]
    child.wait(30)
    end = first.find_lost()
    assert end is not None and f"process 1 of 2 {'was killed (' if 'SIG' in how else ''}{how}" in end.text
    assert started == [] and first.children == [child]  # Lightning's observer has nothing to watch


def test_a_store_that_is_gone(start: Callable[..., Peers]) -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise RuntimeError("Connection reset by peer")

    second = start(1)
    second.store = Gone()
    assert finish(second, lost=True) == 1
    assert second.said[0].startswith("clipos: error: process 0 of 2 was killed")  # type: ignore[attr-defined]


def test_a_signal_that_the_main_thread_does_not_notice(start: Callable[..., Peers]) -> None:
    def ignore(signum: int, frame: object) -> None:
        """As a library that does not return."""

    former = signal.signal(signal.SIGTERM, ignore)
    try:
        second = start(1)
        assert second.pending_stop() is None
        signal.raise_signal(signal.SIGTERM)
        stopped = second.pending_stop()
    finally:
        signal.signal(signal.SIGTERM, former)
    assert stopped is not None and second.end_stuck(stopped) is None
    time.sleep(2 * peers.GRACE_SECONDS)
    assert second.end_stuck(stopped) == End(143, "clipos: terminated")
