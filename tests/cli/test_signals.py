"""Signals end a command with one line, how to go on, and 128 + the signal; nothing is lost, and nothing goes on."""

import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from running import CPU, PHOTOS, clipos, done, relative_difference, save_scene

from clipos_lightning import ClipOS, Detector
from clipos_lightning.cli import calibrate, explain, launch, predict, signals
from clipos_lightning.cli import main as front_door
from clipos_lightning.cli.trainer import ClipOSCLI
from clipos_lightning.data import download as fetch
from clipos_lightning.experiments.engine import BenchmarkRunner
from clipos_lightning.method.prompts import ContextOptions
from clipos_lightning.utils.launcher import PARENT

LINES = {
    signal.SIGINT: "clipos: interrupted",
    signal.SIGTERM: "clipos: terminated",
    signal.SIGHUP: "clipos: terminated: the terminal was closed",
    signal.SIGQUIT: "clipos: terminated (SIGQUIT)",
}
DEMO = ("--config", "demo.yaml", "--data.shots", 3, "--data.batch_size", 7, "--trainer.max_steps", 6)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, and no signal ignored, as a job in the background does; all are so after the test."""
    monkeypatch.chdir(tmp_path)
    usual = {signum: signal.SIG_DFL for signum in LINES} | {signal.SIGINT: signal.default_int_handler}
    former = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield tmp_path
    after = {signum: signal.signal(signum, handler) for signum, handler in former.items()}
    assert after == usual


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector with a threshold, and six images."""
    root = tmp_path_factory.mktemp("home")
    detector = Detector.of(ClipOS(sorted(PHOTOS), backbone="MicroCLIP", context=ContextOptions(words="a photo of a")))
    detector.threshold = 0.5
    detector.save(root / "detector.safetensors")
    for i in range(6):
        save_scene(root / "images" / f"{i}.png", PHOTOS[i % 3], i)
    return root


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, signum: int, call: int = 1) -> None:
    """Send this process a signal at the nth call of a function."""
    function, calls = getattr(owner, name), iter(range(1, 10**6))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signum)
        return function(*arguments, **options)

    monkeypatch.setattr(owner, name, counted)


class Ended(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """``os._exit`` raises :class:`Ended` with the exit code."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)


# ---- each command


@pytest.mark.badinput
@pytest.mark.parametrize("signum", LINES, ids=lambda signum: signum.name)
def test_fit_keeps_its_steps_and_its_line_goes_on(signum: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "a folder; it's"
    with monkeypatch.context() as patch:
        interrupt(patch, ClipOS, "training_step", signum, call=4)
        stopped = clipos("fit", *DEMO, *CPU, "--trainer.default_root_dir", folder)
    (checkpoint,) = Path(folder).glob("fit-*/last.ckpt")
    go_on = ["clipos", "fit", "--ckpt_path", str(checkpoint)]
    assert stopped.code == 128 + signum
    assert stopped.err.splitlines() == [LINES[signal.Signals(signum)], f"go on: {shlex.join(go_on)}"]
    if signum == signal.SIGTERM:
        resumed = done(*go_on[1:], "--trainer.max_steps", 6)
        assert relative_difference(resumed.context, done("fit", *DEMO).context) < 1e-5


def test_fit_before_its_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, ClipOS, "on_fit_start", signal.SIGTERM)
    stopped = clipos("fit", *DEMO, *CPU)
    assert stopped.code == 143
    assert stopped.err.splitlines() == [
        "clipos: terminated",
        "nothing was trained yet: run the same command again",
    ]
    assert not list(Path().rglob("*.ckpt"))


def test_fit_after_its_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, ClipOSCLI, "print_validation", signal.SIGTERM)
    stopped = clipos("fit", *DEMO, *CPU)
    (checkpoint,) = Path().glob("runs/fit-*/last.ckpt")
    assert stopped.code == 143
    assert stopped.err.splitlines() == ["clipos: terminated", f"the training is complete: {checkpoint}"]


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("words", "owner", "name", "advice"),
    [
        (("test", "--config", "demo.yaml", *CPU), ClipOS, "test_step", ""),
        (("validate", "--config", "demo.yaml", *CPU), ClipOS, "validation_step", ""),
        (("benchmark", "main", "--out", "out"), BenchmarkRunner, "train", ": finished detectors and scores are kept"),
        (("calibrate", "{home}/detector.safetensors", "{home}/images"), calibrate, "check_paths", ""),
        (("predict", "{home}/detector.safetensors", "{home}/images", "--num_workers", 0), predict, "row_of", ""),
        (("explain", "{home}/detector.safetensors", "{home}/images/0.png"), explain, "explain_images", ""),
        (("export", "{home}/detector.safetensors"), torch.onnx, "export", ""),
        (("data", "download", "textures"), fetch, "connect", ": files that are downloaded are kept"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else None,
)
def test_every_command_says_how_to_go_on(
    words: tuple[Any, ...], owner: Any, name: str, advice: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, owner, name, signal.SIGTERM)
    stopped = clipos(*(str(word).format(home=home) for word in words))
    assert stopped.code == 143
    assert stopped.err.splitlines()[-2:] == ["clipos: terminated", f"run the same command again{advice}"]
    assert "Traceback" not in stopped.err and "run: " not in stopped.out


def test_predict_goes_on_with_resume(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("predict", home / "detector.safetensors", home / "images", "--out", "rows.csv")
    command += ("--num_workers", 0, "--batch_size", 2)
    with monkeypatch.context() as patch:
        interrupt(patch, predict, "row_of", signal.SIGHUP, call=4)
        stopped = clipos(*command)
    assert stopped.code == 129
    assert stopped.err.splitlines()[-2:] == [
        LINES[signal.SIGHUP],
        "rows.csv.partial has 2 new rows: continue with --resume",
    ]
    assert clipos(*command, "--resume").code == 0
    assert len(Path("rows.csv").read_text().splitlines()) == 1 + 6


def test_predict_whose_rows_are_complete(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt(monkeypatch, predict, "note_left_out", signal.SIGTERM)
    command = ("predict", home / "detector.safetensors", home / "images", "--out", "rows.csv", "--num_workers", 0)
    stopped = clipos(*command)
    assert (stopped.code, stopped.err.splitlines()[-1]) == (143, "rows.csv is complete")


# ---- signals that are ignored, repeated, or lost


def run_function(monkeypatch: pytest.MonkeyPatch, function: Callable[[], Any], begin: bool = True) -> Any:
    """A command that calls a function."""
    if begin:
        monkeypatch.setattr(front_door, "shipped_configs", lambda: signals.start_work("configs") or function() or {})
    else:
        monkeypatch.setattr(front_door, "shipped_configs", lambda: function() or {})
    return clipos("configs")


def send(signum: int) -> None:
    os.kill(os.getpid(), signum)


def test_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = run_function(monkeypatch, lambda: send(signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (run.code, run.err) == (0, "")


def test_a_second_signal_at_once_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        try:
            send(signal.SIGINT)
        finally:
            send(signal.SIGINT)
            send(signal.SIGTERM)

    run = run_function(monkeypatch, work)
    assert (run.code, run.err) == (130, "clipos: interrupted\nrun the same command again\n")


def test_a_later_signal_ends_the_process(monkeypatch: pytest.MonkeyPatch, ends: None) -> None:
    def work() -> None:
        try:
            send(signal.SIGTERM)
        finally:
            clock = time.monotonic() + signals.REPEAT_SECONDS
            monkeypatch.setattr(signals.time, "monotonic", lambda: clock + 0.1)
            try:
                send(signal.SIGINT)
            except Ended as end:
                print(f"code {end}", file=sys.stderr)

    run = run_function(monkeypatch, work)
    assert run.code == 143
    assert run.err.splitlines() == ["clipos: terminated", "run the same command again", "code 143"]


def test_a_repeated_signal_does_not_end_a_process_that_waits_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal and torchrun both send Ctrl-C; the line of process 0 is still to be printed."""
    handlers = {}

    class Others:
        def finish(self, report: Callable[[], int], signum: int | None, of_connection: bool) -> None:
            handlers[signum] = [signal.getsignal(stop) for stop in (signal.SIGINT, signal.SIGTERM)]

    monkeypatch.setattr(launch, "_peers", Others())
    with signals.stoppable():
        launch.end_together(int, KeyboardInterrupt(), signal.SIGINT)
        launch.end_together(int, ValueError(), None)
    assert handlers == {
        signal.SIGINT: [signals.handle, signal.SIG_IGN],
        None: [signal.SIG_DFL, signal.SIG_IGN],
    }


def test_a_process_that_was_started_as_a_helper_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after it has set the variable for processes that it starts itself."""
    for name, value in {PARENT: f"{os.getppid()}:0", "LOCAL_RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with signals.stoppable():
        monkeypatch.setenv(PARENT, f"{os.getpid()}:1")
        assert signals.report_stop(signal.SIGTERM) == 143
    assert capsys.readouterr().err == ""


def test_a_signal_before_the_work_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch, ends: None) -> None:
    reached = []

    def load() -> None:
        try:
            send(signal.SIGTERM)
        except Ended as end:
            reached.append(end.args[0])
            raise

    run = run_function(monkeypatch, load, begin=False)
    assert (reached, run.code, run.err) == ([143], 143, "clipos: terminated\n")


def test_a_signal_that_a_library_swallows(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        with contextlib.suppress(BaseException):
            send(signal.SIGTERM)

    assert run_function(monkeypatch, work).code == 143


def test_a_signal_that_a_library_turns_into_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> None:
        try:
            send(signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Terminated.") from error

    run = run_function(monkeypatch, work)
    assert (run.code, run.err) == (143, "clipos: terminated\nrun the same command again\n")


def test_a_signal_in_a_destructor_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unlucky:
        def __del__(self) -> None:
            send(signal.SIGTERM)

    def work() -> None:
        unlucky = Unlucky()
        del unlucky  # Python prints and drops what a destructor raises
        time.sleep(20)
        pytest.fail("the signal was lost")

    start = time.monotonic()
    run = run_function(monkeypatch, work)
    assert (run.code, run.err) == (143, "clipos: terminated\nrun the same command again\n")
    assert time.monotonic() - start < 10


def test_other_errors_in_a_destructor_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __del__(self) -> None:
            raise ValueError("a defect")

    def work() -> None:
        broken = Broken()
        del broken

    run = run_function(monkeypatch, work)
    assert run.code == 0 and "ValueError: a defect" in run.err


def test_a_terminal_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(text: str) -> int:
        raise OSError(5, "Input/output error")

    def work() -> None:
        monkeypatch.setattr(sys.stderr, "write", write, raising=False)
        send(signal.SIGHUP)

    run = run_function(monkeypatch, work)
    monkeypatch.undo()
    assert (run.code, run.err) == (129, "")


def test_a_forked_process_ends_silently() -> None:
    reading, writing = os.pipe()
    with signals.stoppable():
        signals.start_work("fit")
        child = os.fork()
        if child == 0:
            os.dup2(writing, 2)
            with contextlib.suppress(BaseException):
                os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
    os.close(writing)
    assert os.waitstatus_to_exitcode(status) == 143
    assert os.read(reading, 100) == b""
    os.close(reading)
