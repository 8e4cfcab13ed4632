"""Peak memory of ``clipos predict`` on the images that take most, as a Markdown table.

    OMP_NUM_THREADS=1 python benchmarks/image_memory.py

Each image is written into a temporary folder, eight times, and an untrained MicroCLIP detector predicts on all copies
with 1 and with 8 worker processes. Memory is the proportional set size of the process and its workers together (pages
that they share count once), sampled every 20 ms.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from predict_memory import save_detector

from clipos_lightning.data.decoding import MAX_PIXELS

COPIES = 8
SIDE = int(MAX_PIXELS**0.5)  # of the largest square image that is read
LARGE = 20_000


def new(mode: str, side: int, height: int = 0) -> Callable[[Path], None]:
    """A function that writes an image of one colour."""
    return lambda path: Image.new(mode, (side, height or side), 1).save(path)


IMAGES: dict[str, tuple[str, Callable[[Path], None]]] = {  # name to file name and writer
    "32 x 32, to compare": ("a.png", new("RGB", 32)),
    "15,000 x 1": ("a.png", new("RGB", 15_000, 1)),
    f"JPEG, {SIDE:,} x {SIDE:,}": ("a.jpg", new("RGB", SIDE)),
    f"PNG of 1 bit, {SIDE:,} x {SIDE:,}": ("a.png", new("1", SIDE)),
    f"PNG with transparency, {SIDE:,} x {SIDE:,}": ("a.png", new("RGBA", SIDE)),
    f"PNG of 16-bit grey, {SIDE:,} x {SIDE:,}": ("a.png", new("I;16", SIDE)),
    f"GIF, {SIDE:,} x {SIDE:,}": ("a.gif", new("L", SIDE)),
    f"PNG of 1 bit, {LARGE:,} x {LARGE:,}: above the limit": ("a.png", new("1", LARGE)),
}


def memory(pid: int) -> float:
    """Proportional set size of a process and its workers in MB; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = next((int(line.split()[1]) / 1000 for line in lines if line.startswith("Pss:")), 0.0)
    return own + sum(memory(int(worker)) for worker in workers)


def measure(command: list[str]) -> tuple[float, str]:
    """Run a command: its peak memory in MB, and the line with the number of unreadable images."""
    peak = 0.0
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.02)
        errors.seek(0)
        text = errors.read()
    if process.returncode:
        raise SystemExit(text)
    return peak, next(line for line in text.splitlines() if "unreadable" in line)


def main() -> None:
    """Write the images one after the other and print a row of the table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--only", default="", metavar="TEXT", help="images whose name contains this")
    given = parser.parse_args()
    print(f"| image | {' | '.join(f'MB, {n} workers' for n in given.workers)} | read |")
    print(f"|---|{'---:|' * len(given.workers)}---|")
    with tempfile.TemporaryDirectory() as folder:
        save_detector(Path(folder) / "detector.safetensors")
        for name in [name for name in IMAGES if given.only in name]:
            file, write = IMAGES[name]
            images = Path(folder) / "images"
            images.mkdir()
            write(images / file)
            for i in range(1, COPIES):
                os.link(images / file, images / f"{i}{file}")
            command = [sys.executable, "-m", "clipos_lightning", "predict", f"{folder}/detector.safetensors"]
            command += [str(images), "--batch_size", "1", "--device", "cpu", "--num_workers"]
            found = [measure([*command, str(n)]) for n in given.workers]
            cells = " | ".join(f"{peak:,.0f}" for peak, _ in found)
            print(f"| {name} | {cells} | {'yes' if ' 0 unreadable' in found[0][1] else 'no'} |", flush=True)
            shutil.rmtree(images)


if __name__ == "__main__":
    main()
