"""The processes of a run end together, whatever ends one of them. No torch.

They share torch's TCPStore, which process 0 or ``torchrun`` serves. A process that fails claims the end of the run and
writes its exit code there; a process that is killed leaves no more signs of life. A thread of each process looks there
every second. The main thread gets some seconds to end by itself and to write what it has, then the process is ended.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from subprocess import Popen
from typing import Any, NoReturn

from .stop_signals import REASONS

POLL_SECONDS = 1.0
GRACE_SECONDS = 10.0  # in which a process may end by itself
LOST_POLLS = 30  # without a sign of life; counted, so that a job may be suspended
SUSPECT_POLLS = 5  # the same, after a connection between processes was closed


@dataclass(frozen=True)
class End:
    """How a run ends.

    Attributes:
        code: the exit code of each process.
        text: what process 0 prints; "": the process that failed has printed it.
    """

    code: int
    text: str = ""


@dataclass
class Peers:
    """The processes of a run, as one of them sees them.

    Attributes:
        store: torch's Store that all of them share.
        rank: of this process.
        world: number of processes.
        report: prints a reason and how to go on.
        elsewhere: whether other processes exist than those that this one starts.
        patience: seconds until all processes must have come.
        cure: what to do if they do not come.
        started: returns the processes that this one starts, and whose exits it watches; they are taken from the list.
    """

    store: Any
    rank: int
    world: int
    report: Callable[[str], object]
    elsewhere: bool
    patience: float
    cure: str
    started: Callable[[], list["Popen[bytes]"]] = list
    children: list["Popen[bytes]"] = field(default_factory=list)
    end: End | None = None
    suspicious: bool = False

    def __post_init__(self) -> None:
        self.beats, self.missed, self.start = [0] * self.world, [0] * self.world, time.monotonic()
        self.refused: float | None = None
        self.arrived, self.closed, self.leaving = threading.Event(), threading.Event(), threading.Lock()
        self.signals = listen_to_signals()
        threading.Thread(target=self.watch, daemon=True).start()

    # ---- what is in the store

    def read(self, name: str) -> str | None:
        """A text, if it is there."""
        return str(self.store.get(name).decode()) if self.store.check([name]) else None

    def share(self, name: str, make: Callable[[], str]) -> str:
        """A text that process 0 makes, and the others get."""
        if self.rank == 0:
            self.store.set(name, text := make())
            return text
        while (found := self.read(name)) is None:
            time.sleep(0.1)
        return found

    def find_end(self) -> End | None:
        """How the run ends, if a process has ended it."""
        if self.end is None and (text := self.read("end")) is not None:
            self.end = End(**json.loads(text))
        return self.end

    def claim(self) -> bool:
        """Whether this process is to end the run, and must call :meth:`publish`.

        It is the first one that asks; later one that asks repeatedly, since the first may have been killed.
        """
        if self.store.add("claimed", 1) == 1:
            return True
        self.refused = self.refused or time.monotonic()
        return time.monotonic() - self.refused > GRACE_SECONDS

    def publish(self, code: int, text: str = "") -> End:
        """Tell the others how the run ends."""
        self.end = End(code, text)
        self.store.set("end", json.dumps(asdict(self.end)))
        return self.end

    def has_left(self, rank: int) -> bool:
        """Whether a process has ended in order."""
        return bool(self.store.check([f"left/{rank}"]))

    def others(self) -> Iterator[int]:
        """Ranks that process 0 waits for: those that exist."""
        for rank in range(1, self.world if self.rank == 0 else 0):
            if self.elsewhere or rank <= len(self.children):
                yield rank

    # ---- the main thread

    def finish(self, report: Callable[[], int], signum: int | None, of_connection: bool) -> NoReturn:
        """End this process after a failure or a signal, and with it the run.

        Args:
            report: prints the failure; returns the exit code. It is called in the first process that fails.
            signum: the signal that ended the command.
            of_connection: the failure is that of a connection to another process, which has ended.
        """
        self.arrived.set()
        self.suspicious = of_connection
        try:
            if of_connection and signum is None:
                self.wait_for_end((LOST_POLLS + SUSPECT_POLLS) * POLL_SECONDS)
            if self.find_end() is None and self.claim():
                text = f"clipos: {REASONS[signum]}" if signum else ""
                self.publish(128 + signum if signum else report(), text)
            end = self.wait_for_end(GRACE_SECONDS) or End(1)
        except RuntimeError:  # the store is gone
            end = self.lose_store()
        self.leave(end)

    def wait_for_end(self, seconds: float) -> End | None:
        """How the run ends, as soon as a process has ended it; None: none has within this time."""
        deadline = time.monotonic() + seconds
        while (end := self.find_end()) is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return end

    def close(self, seconds: float = 60.0) -> None:
        """Leave after a success, or end as the others do.

        Process 0 serves the store and is the last one, so the others do not use the store after they have left.
        """
        if self.rank == 0:
            self.store.set("left/0", "")
        self.wait_for_others(seconds)
        end = self.find_end()
        if end is not None and end.code:
            self.arrived.set()
            self.leave(end)
        self.closed.set()
        signal.set_wakeup_fd(-1)
        if self.rank:
            self.store.set(f"left/{self.rank}", "")

    # ---- the end of this process

    def leave(self, end: End) -> NoReturn:
        """End this process at once; process 0 serves the store until the others have left."""
        if not self.leaving.acquire(blocking=False):
            threading.Event().wait()  # another thread ends the process
        if end.text and self.rank == 0:
            self.report(end.text)
        with suppress(RuntimeError):
            self.store.set(f"left/{self.rank}", "")
            if self.rank == 0:
                self.wait_for_others(1.5 * GRACE_SECONDS)
        for child in self.children:
            child.kill()
        for file in (sys.stdout, sys.stderr):
            with suppress(Exception):  # closed
                file.flush()
        os._exit(end.code)

    def wait_for_others(self, seconds: float) -> None:
        """Wait until the processes that this one started have ended; process 0: until all have left or are lost."""
        deadline, counted = time.monotonic() + seconds, time.monotonic()
        while time.monotonic() < deadline:
            if self.end is not None and time.monotonic() - counted > POLL_SECONDS:  # the watching thread has stopped
                self.describe_silent()
                counted = time.monotonic()
            running = any(child.poll() is None for child in self.children)
            gone = {rank for rank, child in enumerate(self.children, 1) if child.returncode is not None}
            if not running and all(
                rank in gone or self.missed[rank] > SUSPECT_POLLS or self.has_left(rank) for rank in self.others()
            ):
                return
            time.sleep(0.1)

    # ---- the thread that watches

    def watch(self) -> None:
        """Leave signs of life, and end this process when the run ends and the main thread does not notice."""
        stopped = None
        while not self.closed.wait(POLL_SECONDS):
            stopped = stopped or self.pending_stop()
            try:
                self.store.add(f"beat/{self.rank}", 1)
                end = self.find_end() or self.find_lost() or self.end_stuck(stopped)
            except RuntimeError:
                if self.closed.is_set():
                    return
                end = self.lose_store()
            if end is not None:
                if not self.arrived.wait(GRACE_SECONDS if self.rank == 0 else POLL_SECONDS):  # the first one writes
                    self.leave(end)
                return

    def pending_stop(self) -> tuple[int, float] | None:
        """A signal that this process got, and when; the main thread notices it only between calls of libraries."""
        with suppress(OSError):
            stops = [signum for signum in self.signals.recv(64) if signum in REASONS]
            return (stops[0], time.monotonic()) if stops else None
        return None

    def end_stuck(self, stopped: tuple[int, float] | None) -> End | None:
        """End the run, if the main thread has not noticed a signal for :data:`GRACE_SECONDS`."""
        if stopped is None or time.monotonic() - stopped[1] < GRACE_SECONDS or self.arrived.is_set():
            return None
        text = f"clipos: {REASONS[stopped[0]]}"
        return self.publish(128 + stopped[0], text) if self.claim() else None

    def find_lost(self) -> End | None:
        """End the run, if a process was lost or did not come."""
        text = self.describe_dead_child() or self.describe_silent() or self.describe_absent()
        if not text or not self.claim():
            return None
        end = self.publish(1, f"clipos: error: {text}; the other processes end")
        if self.rank:
            self.report(end.text)  # process 0 is the lost one
        return end

    def describe_dead_child(self) -> str:
        """A process that this one started and that ended with an error; "": there is none."""
        started = self.started()
        while started:  # Lightning's own observer of this list would kill this process
            self.children.append(started.pop(0))
        for rank, child in enumerate(self.children, self.rank + 1):
            if child.poll() and not self.has_left(rank):
                code = child.returncode
                how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"ended with exit code {code}"
                return f"process {rank} of {self.world} {how}"
        return ""

    def describe_silent(self) -> str:
        """A process that leaves no more signs of life; "": there is none. Process 0 looks at all, the others at it."""
        for rank in range(1, self.world) if self.rank == 0 else (0,):
            beat = self.store.add(f"beat/{rank}", 0)
            self.missed[rank] = self.missed[rank] + 1 if 0 < beat == self.beats[rank] else 0
            self.beats[rank] = beat
            limit = SUSPECT_POLLS if self.suspicious else LOST_POLLS
            if self.missed[rank] > limit and not self.has_left(rank):
                return f"process {rank} of {self.world} was killed, or its machine is lost"
        return ""

    def describe_absent(self) -> str:
        """That processes have not come for too long; "": they have."""
        if self.rank or time.monotonic() - self.start < self.patience or all(self.beats[1:]):
            return ""
        came = 1 + sum(beat > 0 for beat in self.beats[1:])
        return f"only {came} of {self.world} processes came within {self.patience:.0f} s: {self.cure}"

    def lose_store(self) -> End:
        """The end of this process, after process 0 has ended without a word."""
        if self.end is None:
            self.end = End(1)
            text = f"clipos: error: process 0 of {self.world} was killed, or its machine is lost; this one ends"
            self.report(text)
        return self.end


def listen_to_signals() -> socket.socket:
    """A socket that gets the number of each signal at once, also while the main thread is inside a library."""
    listener, sender = socket.socketpair()
    listener.setblocking(False)
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach(), warn_on_full_buffer=False)
    return listener
