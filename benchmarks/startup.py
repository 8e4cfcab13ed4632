"""Start-up time of commands without torch and of the first training step, compared with importing the libraries.

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
from clipos_lightning import ClipOS
from clipos_lightning.cli.main import main
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
}


def run(words: list[str], folder: str, code: int = 0) -> None:
    """Run Python with these arguments in a folder; the exit code must be ``code``."""
    found = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True, check=False)
    assert found.returncode == code, found.stderr


def rows() -> Iterator[Row]:
    """Measure each command, then the first training step."""
    with tempfile.TemporaryDirectory() as folder:
        imports = timed(partial(run, ["-c", IMPORTS], folder))
        imports.peak = 0.0  # the memory is that of other processes
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
