"""Rehearse a first run on CLIP ViT-B/16 and CIFAR without a network: README's commands, on stand-in downloads.

Every command is a process of its own, in a fresh home, cache and data folder. The downloads come from a server on
loopback, which is stopped before the commands that must not need a network. What is replaced in the commands' processes
is in `stand_in_site/sitecustomize.py`. Time, memory (of the largest process), files written, exit code and last lines
of each command go to `table.md`, its output to `log/`, both in FOLDER.

    python scripts/stand_in_downloads.py WEB
    python scripts/rehearse_first_run.py WEB FOLDER            # all steps but those that take hours
    python scripts/rehearse_first_run.py WEB FOLDER fit test   # some, after the earlier ones in the same folder
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stand_in_downloads import RECORD, SETS
from web_on_loopback import Web, serve_web

SITE = Path(__file__).parent / "stand_in_site"
SMALL = ("cifar10", "textures")
FIT10 = "clipos fit --config cifar10_1shot.yaml --data.root DATA"
FIT100 = "clipos fit --config cifar100_1shot.yaml --data.root DATA"
BENCHMARK = "clipos benchmark main --config cifar100_1shot.yaml --data.root DATA --data.limit_per_set 200"
CELLS = Path(__file__).parent / "first_run_cells.yaml"
SLOW = 20e6  # bytes per second, for the download that is killed


@dataclass
class Measured:
    """A command and what it took.

    Attributes:
        step: its name in this script.
        command: as typed.
        seconds: from start to end.
        cpu_seconds: of its processes, over all cores.
        peak_mb: peak resident memory of its largest process, in MB.
        written_mb: growth of data root, caches and runs, in MB.
        code: exit code; negative: ended by that signal.
        last: its last line of output.
    """

    step: str
    command: str
    seconds: float
    cpu_seconds: float
    peak_mb: float
    written_mb: float
    code: int
    last: str


class Rehearsal:
    """The folders and the environment of the commands.

    Args:
        folder: work folder; a new one is a first run.
        web: the server of the stand-ins.
    """

    def __init__(self, folder: Path, web: Web) -> None:
        self.folder, self.web = folder, web
        self.results = folder / "results.json"
        (folder / "log").mkdir(parents=True, exist_ok=True)

    def environment(self, changes: Mapping[str, str]) -> dict[str, str]:
        """The variables of a command: a fresh home, the stand-ins' addresses, no proxy, nothing that means offline."""
        dropped = ("CLIPOS_", "HF_", "HUGGINGFACE_", "XDG_", "WANDB_", "http_proxy", "https_proxy", "all_proxy")
        kept = {k: v for k, v in os.environ.items() if not k.startswith((*dropped, *map(str.upper, dropped)))}
        return {
            **kept,
            "HOME": str(self.folder / "home"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{kept.get('PATH', '')}",
            "PYTHONPATH": str(SITE),
            "CLIPOS_STAND_INS": str(self.web.folder / RECORD),
            "CLIPOS_STAND_INS_URL": self.web.address,
            "HF_ENDPOINT": f"{self.web.address}/huggingface.co",
            **changes,
        }

    def run(
        self, step: str, command: str, changes: Mapping[str, str] | None = None, kill_at: Path | None = None
    ) -> Measured:
        """Run a command line, measure it, and keep its output and the result.

        Args:
            step: its name.
            command: without quoting that needs a shell.
            changes: variables of its environment.
            kill_at: SIGKILL the command as soon as this file has 50 MB.
        """
        before, log = folder_size(self.folder), self.folder / "log" / f"{step}.txt"
        words = command.replace("'", "").split()
        start = time.monotonic()
        with open(log, "w", encoding="utf-8") as output:
            process = subprocess.Popen(
                words, stdout=output, stderr=subprocess.STDOUT, cwd=self.folder, env=self.environment(changes or {})
            )
            if kill_at is not None:
                threading.Thread(target=kill_when_half, args=(process, kill_at), daemon=True).start()
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - start
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.strip()] or [""]
        written = folder_size(self.folder) - before
        code = os.waitstatus_to_exitcode(status)
        cpu, peak = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1e3
        found = Measured(step, command, seconds, cpu, peak, written / 1e6, code, lines[-1])
        self.keep(found)
        print(
            f"{step}: {seconds:.1f} s, {cpu:.1f} s of CPU, {found.peak_mb:,.0f} MB, exit {code}: {found.last}",
            flush=True,
        )
        return found

    def keep(self, found: Measured) -> None:
        """Add a result to ``results.json``, in place of an earlier one of the same step, and write the table."""
        known = json.loads(self.results.read_text(encoding="utf-8")) if self.results.exists() else {}
        known[found.step] = asdict(found)
        self.results.write_text(json.dumps(known, indent=1), encoding="utf-8")
        (self.folder / "table.md").write_text(table([Measured(**row) for row in known.values()]), encoding="utf-8")

    def last_fit(self, folder: str = "runs") -> str:
        """The newest checkpoint below a folder of runs."""
        return str(max((self.folder / folder).glob("fit-*/last.ckpt")).relative_to(self.folder))


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder; links are not followed."""
    return sum((Path(at) / name).lstat().st_size for at, _, names in os.walk(folder) for name in names)


def kill_when_half(process: "subprocess.Popen[bytes]", path: Path) -> None:
    """Kill a process when a file has 50 MB."""
    while process.poll() is None and not (path.exists() and path.stat().st_size > 50e6):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)


def table(rows: Sequence[Measured]) -> str:
    """The results as a Markdown table."""
    lines = ["| command | seconds | CPU s | peak MB | written MB | exit | last line |", f"|---|{'---:|' * 5}---|"]
    for row in rows:
        numbers = (
            f"{row.seconds:,.1f} | {row.cpu_seconds:,.1f} | {row.peak_mb:,.0f} | {row.written_mb:,.0f} | {row.code}"
        )
        lines.append(f"| `{row.command}` | {numbers} | {row.last.replace('|', '/')} |")
    return "\n".join(lines) + "\n"


# ---- what goes wrong


def fail_downloads(at: Rehearsal) -> None:
    """A download that is killed half-way and run again, one with a wrong checksum, and sets that are missing."""
    archive = at.folder / "BROKEN" / "cifar-10-python.tar.gz.partial"
    command = "clipos data download cifar10 --root BROKEN"
    at.web.rate = SLOW
    at.run("download killed", command, kill_at=archive)
    at.web.rate = None
    at.run("download resumed", command)
    record = json.loads((at.web.folder / RECORD).read_text(encoding="utf-8"))
    record["svhn"]["test_32x32.mat"]["md5"] = "0" * 32
    (at.folder / "wrong.json").write_text(json.dumps(record), encoding="utf-8")
    wrong = str(at.folder / "wrong.json")
    at.run("wrong checksum", "clipos data download svhn --root BROKEN", {"CLIPOS_STAND_INS": wrong})
    at.run("no data", FIT10.replace("DATA", "NONE"))
    at.run("no OOD sets", "clipos test --config cifar10_1shot.yaml --data.root BROKEN")


def fail_weights(at: Rehearsal) -> None:
    """Weights that cannot come: nobody listens, nobody answers, and the real hub from this machine."""
    empty = {"HF_HOME": str(at.folder / "no-cache"), "HOME": str(at.folder / "no-home")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    at.run("weights refused", FIT10, {**empty, "HF_ENDPOINT": closed})
    at.web.silent = True
    at.run("weights silent", FIT10, empty)
    at.web.silent = False
    at.run("weights real hub", FIT10, {**empty, "HF_ENDPOINT": "https://huggingface.co"})


# ---- the steps, in order; the server is stopped after those in ONLINE


STEPS: dict[str, Callable[[Rehearsal], object]] = {
    "list": lambda at: at.run("list", "clipos data list --root DATA"),
    "failed downloads": fail_downloads,
    "download small": lambda at: at.run("download small", f"clipos data download {' '.join(SMALL)} --root DATA"),
    "failed weights": fail_weights,
    "fit": lambda at: at.run("fit", FIT10),
    "download all": lambda at: at.run("download all", f"clipos data download {' '.join(SETS)} --root DATA"),
    "verify": lambda at: at.run("verify", f"clipos data verify {' '.join(SETS)} --root DATA"),
    "fit again": lambda at: at.run("fit again", FIT10),
    "test small": lambda at: at.run(
        "test small",
        f"clipos test --ckpt_path {at.last_fit()} --data.ood_sets '[textures]' --data.limit_per_set 200",
    ),
    "test": lambda at: at.run("test", f"clipos test --ckpt_path {at.last_fit()} --data.limit_per_set 100"),
    "zero-shot": lambda at: at.run(
        "zero-shot",
        "clipos test --config cifar10_1shot.yaml --data.root DATA --data.ood_sets '[textures]' "
        "--data.limit_per_set 200",
    ),
    "validate": lambda at: at.run("validate", f"clipos validate --ckpt_path {at.last_fit()} --data.limit_per_set 200"),
    "fit cifar100": lambda at: at.run("fit cifar100", f"{FIT100} --trainer.default_root_dir runs100"),
    "cells": lambda at: at.run(
        "cells", f"clipos benchmark {CELLS} --data.root DATA --data.limit_per_set 1 --out cells"
    ),
    "benchmark": lambda at: at.run("benchmark", BENCHMARK),
}
HOURS = ("benchmark",)  # steps that are only run if they are named
ONLINE = ("list", "failed downloads", "download small", "failed weights", "fit", "download all")


def main() -> None:
    """Run the steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("web", type=Path, help="folder that stand_in_downloads.py filled")
    parser.add_argument("folder", type=Path, help="work folder")
    parser.add_argument("steps", nargs="*", help=f"of {', '.join(STEPS)}; default: all but {', '.join(HOURS)}")
    given = parser.parse_args()
    steps = given.steps or [step for step in STEPS if step not in HOURS]
    if unknown := set(steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; they are {', '.join(STEPS)}")
    with serve_web(given.web.resolve()) as web:
        at = Rehearsal(given.folder.resolve(), web)
        for step in (step for step in steps if step in ONLINE):
            STEPS[step](at)
    for step in (step for step in steps if step not in ONLINE):  # the server is gone: nothing can be downloaded
        STEPS[step](at)
    print((at.folder / "table.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
