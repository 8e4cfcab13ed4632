"""Commands that are killed at seeded random moments, and run again: the result is that of an undisturbed run.

``pytest -m faults`` runs them; ``-s`` shows the counts. ``CLIPOS_KILLS`` sets the number of kills per command.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from file_server import serve
from miniatures import FOLDERS, miniature
from running import save_noise, save_scene

from clipos_lightning.data.sources import Source

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("CLIPOS_KILLS", "10"))
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STOPPED = {-9, -15, -2, 130, 143}  # exit codes; negative: before Python, or for SIGKILL
CLIPOS = (sys.executable, "-m", "clipos_lightning")
TRAIN = ("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false")
EPOCHS = 150
GRID = """
configs: [scenes_1shot_micro.yaml]
seeds: [1, 2]
options: {data.ood_sets: [noise, texture], data.limit_per_set: 40, trainer.accelerator: cpu, trainer.max_epochs: 3}
rows:
  zero-shot: {train: false}
  trained: {}
"""


@dataclass
class Command:
    """A command line, what to run after a kill, and its result as comparable data.

    Attributes:
        words: the command, run in a folder of its own.
        again: folder to the command that goes on there; None: the result is complete already.
        result: folder to the result.
    """

    words: list[str]
    again: Callable[[Path], list[str] | None]
    result: Callable[[Path], Any]


def run(words: list[str], folder: Path) -> None:
    """Run a command that must succeed."""
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (words, done.returncode, done.stderr[-2000:])


def kill(words: list[str], folder: Path, after: float, number: int, group: bool) -> int:
    """Start a command, send it a signal, and return its exit code; nothing may be left running."""
    started = subprocess.Popen(
        words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        started.wait(after)
    except subprocess.TimeoutExpired:
        (os.killpg if group else os.kill)(started.pid, number)
    _, err = started.communicate(timeout=60)
    assert "Traceback" not in err, err[-3000:]
    assert left_running(started.pid) == []
    return started.returncode


def left_running(group: int, seconds: float = 15.0) -> list[str]:
    """The processes of a group that still run after some seconds, without zombies."""
    for _ in range(int(seconds * 5)):
        found = []
        for status in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                text = status.read_text()
                state, _, of_group = text.rpartition(")")[2].split()[:3]
                found += [text] if int(of_group) == group and state not in "ZX" else []
        if not found:
            return []
        time.sleep(0.2)
    return found


def newest(folder: Path, file: str) -> Path | None:
    """The file in the newest run folder that has it."""
    return max(folder.glob(f"runs/*/{file}"), key=lambda path: path.stat().st_mtime_ns, default=None)


def state(path: Path) -> tuple[int, dict[str, list[float]]]:
    """The steps and the learned tensors of a checkpoint."""
    saved = torch.load(path, weights_only=True)
    return saved["global_step"], {name: tensor.flatten().tolist() for name, tensor in saved["state_dict"].items()}


def arrays(path: Path) -> dict[str, list[Any]]:
    """The arrays of an npz file."""
    with np.load(path) as found:
        return {name: found[name].tolist() for name in found.files}


def tree(folder: Path) -> dict[str, bytes]:
    """The files below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- commands


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    run([*CLIPOS, "fit", "--config", "demo.yaml", *TRAIN, "--trainer.max_epochs", "2"], folder)
    path = newest(folder, "last.ckpt")
    assert path is not None
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(150):
        save_scene(folder / f"star{index}.png", "star", index)
        save_noise(folder / f"noise{index}.png", index)
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def fit() -> Command:
    words = [*CLIPOS, "fit", "--config", "demo.yaml", *TRAIN, "--trainer.max_epochs", str(EPOCHS)]
    words += ["--checkpoint_every_n_seconds", "0.2"]

    def again(folder: Path) -> list[str] | None:
        last = newest(folder, "last.ckpt")
        if last is None:
            return words
        steps = torch.load(last, weights_only=True)["global_step"]  # a half file would raise
        return None if steps == EPOCHS else [*CLIPOS, "fit", "--ckpt_path", str(last), *TRAIN]

    return Command(words, again, lambda folder: state(newest(folder, "last.ckpt") or folder))


def check() -> Command:
    words = [*CLIPOS, "test", "--config", "demo.yaml", *TRAIN, "--data.limit_per_set", "60"]
    words += ["--data.ood_sets", "[noise,texture]", "--data.num_workers", "2"]

    def again(folder: Path) -> list[str] | None:
        for report in folder.glob("runs/*/report.json"):
            json.loads(report.read_text())
        return None if newest(folder, "report.html") else words

    return Command(words, again, lambda folder: arrays(newest(folder, "scores.npz") or folder))


def benchmark(grid: Path) -> Command:
    words = [*CLIPOS, "benchmark", str(grid), "--out", "table"]

    def result(folder: Path) -> Any:
        scores = {path.parent.name + path.name: arrays(path) for path in folder.glob("table/runs/*/*.npz")}
        with open(folder / "table/results.csv", newline="", encoding="utf-8") as file:
            return scores, list(csv.reader(file))

    return Command(words, lambda folder: words, result)


def predict(checkpoint: Path, pictures: Path) -> Command:
    words = [*CLIPOS, "predict", str(checkpoint), str(pictures), "--out", "out.csv", "--batch_size", "8"]
    words += ["--num_workers", "2", "--device", "cpu"]

    def again(folder: Path) -> list[str] | None:
        if (folder / "out.csv").exists():
            return None
        return [*words, "--resume"] if (folder / "out.csv.partial").exists() else words

    return Command(words, again, lambda folder: (folder / "out.csv").read_bytes())


def calibrate(checkpoint: Path, pictures: Path) -> Command:
    words = [*CLIPOS, "calibrate", str(checkpoint), str(pictures), "--out", "mine.safetensors", "--device", "cpu"]

    def again(folder: Path) -> list[str] | None:
        return None if (folder / "mine.safetensors").exists() else words

    return Command(words, again, lambda folder: tree(folder))


def download(source: Source) -> Command:
    code = (
        "import sys\n"
        "from clipos_lightning.cli.main import run\n"
        "from clipos_lightning.data import sources\n"
        "from clipos_lightning.data.sources import File, Source\n"
        f"sources.SOURCES['sun'] = {source!r}\n"
        "sys.argv = ['clipos', 'data', 'download', 'sun', '--root', 'data']\n"
        "run()\n"
    )
    words = [sys.executable, "-c", code]
    return Command(words, lambda folder: words, lambda folder: tree(folder / "data"))


COMMANDS = ("fit", "test", "benchmark", "predict", "calibrate", "download")


@pytest.fixture
def command(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Command]:
    if request.param == "download":
        names = [f"SUN/images/sun_{number:05d}.jpg" for number in range(3000)]
        with serve({}) as server, mock.patch.dict(FOLDERS, sun=names):
            yield download(miniature("sun", server, tmp_path / "packed"))
        return
    if request.param in ("predict", "calibrate"):
        given = (request.getfixturevalue("checkpoint"), request.getfixturevalue("pictures"))
        yield predict(*given) if request.param == "predict" else calibrate(*given)
        return
    (tmp_path / "grid.yaml").write_text(GRID)
    yield {"fit": fit, "test": check, "benchmark": lambda: benchmark(tmp_path / "grid.yaml")}[request.param]()


@pytest.mark.parametrize("command", COMMANDS, indirect=True)
def test_a_killed_command_is_done_by_running_it_again(
    command: Command, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    name = request.node.callspec.params["command"]
    rng = random.Random(name)
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    started = time.monotonic()
    run(command.words, undisturbed)
    seconds = time.monotonic() - started
    expected, codes = command.result(undisturbed), Counter[int]()
    for number in range(KILLS):
        folder = tmp_path / f"kill{number}"
        folder.mkdir()
        words, kills = command.words, 0
        while words is not None and kills < 1 + number % 2:  # every second time, what goes on is killed, too
            after = rng.uniform(0.1, 1.0) * seconds
            code = kill(words, folder, after, SIGNALS[number % len(SIGNALS)], group=rng.random() < 0.5)
            assert code in STOPPED | {0}, code
            codes[code] += 1
            kills += 1
            words = command.again(folder)
        if words is not None:
            run(words, folder)
        assert command.result(folder) == expected, f"kill {number} of {name}"
    print(f"\n{name}: {codes.total()} kills, exit codes {dict(codes)}, undisturbed {seconds:.1f} s")
    assert codes.total() - codes[0] >= KILLS // 2  # otherwise most came too late
