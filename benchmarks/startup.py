"""Start-up: commands that need no torch, and the time to the first training step against importing the libraries.

python benchmarks/startup.py
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial

from common import Row, show, timed

IMPORTS = "import torch, lightning.pytorch, open_clip"
FIRST_STEP = """
import os
from clipos_lightning.module import ClipOS
from clipos_lightning.main import main
step = ClipOS.training_step
def first(self, *arguments):
    step(self, *arguments)
    os._exit(0)
ClipOS.training_step = first
main(["fit", "--config", "demo.yaml", "--trainer.accelerator", "cpu"])
os._exit(1)
"""
LIGHT = {
    "--help": ["--help"],
    "--version": ["--version"],
    "configs": ["configs"],
    "a misspelt command": ["ift"],
    "a misspelt option": ["fit", "--modle.score", "mcm"],
    "completion bash": ["completion", "bash"],
}


def run(words: list[str], folder: str, code: int = 0) -> None:
    """One Python process, whose exit code must be this one."""
    found = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == code, found.stderr


def rows() -> Iterator[Row]:
    """Each of them."""
    with tempfile.TemporaryDirectory() as folder:
        imports = timed(partial(run, ["-c", IMPORTS], folder))
        imports.peak = 0.0  # of other processes
        for name, words in LIGHT.items():
            took = timed(partial(run, ["-m", "clipos_lightning", *words], folder, 2 if "misspelt" in name else 0))
            took.peak = 0.0
            yield Row(f"clipos: {name} / importing torch, lightning, open_clip", took, imports, None, 0.5)
        took = timed(partial(run, ["-c", FIRST_STEP], folder))
        took.peak = 0.0
        yield Row("clipos fit (MicroCLIP) to its first step / the same imports", took, imports, 1 / 1.5)


def main() -> None:
    """Print the table."""
    show(rows())


if __name__ == "__main__":
    main()
