"""``clipos predict`` on many images: memory, speed, and a resume after a kill; prints the line quoted in the docs.

    OMP_NUM_THREADS=1 python benchmarks/predict_memory.py --images 100000

Renders images of the embedded set into a temporary folder, makes an untrained MicroCLIP detector, starts predict,
kills it (SIGKILL) when half of the rows are written, resumes with ``--resume``, and checks that every image has exactly
one row. Memory is the resident set of the process and its workers (shared pages count twice). The first value is taken
after a tenth of the images of a run (warm-up).
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from clipos_lightning.data.scenes import ID_SHAPES, KINDS, render

PER_FOLDER = 10_000


def draw(root: Path, numbers: range) -> None:
    """Render images of all kinds, ``PER_FOLDER`` to a folder."""
    for n in numbers:
        path = root / f"{n // PER_FOLDER:03}" / f"{n:07}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(render(list(KINDS)[n % len(KINDS)], "report", 0, n // len(KINDS)).image).save(path)


def draw_all(root: Path, count: int) -> None:
    """Render all images with two processes."""
    parts = [range(start, min(start + 1000, count)) for start in range(0, count, 1000)]
    with ProcessPoolExecutor(2) as pool:
        for work in [pool.submit(draw, root, part) for part in parts]:
            work.result()


def save_detector(path: Path) -> None:
    """Write an untrained detector with an arbitrary threshold."""
    from clipos_lightning import ClipOS, ContextOptions, Detector

    words = ContextOptions(words="a photo of a")
    detector = Detector.of(ClipOS(list(ID_SHAPES), backbone="MicroCLIP", score="energy_region", context=words))
    detector.threshold = 20.0
    detector.save(path)


def resident(pid: int) -> float:
    """Resident memory of a process and its workers in MB; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0.0
    own = next((int(line.split()[1]) / 1000 for line in status.splitlines() if line.startswith("VmRSS")), 0.0)
    return own and own + sum(resident(int(worker)) for worker in workers)


def rows_in(path: Path) -> int:
    """Number of complete rows in a file, without the header; 0 if there is no file."""
    if not path.exists():
        return 0
    with open(path, "rb") as file:
        return max(0, sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b"")) - 1)


def watch(command: list[str], partial: Path, start: int, stop: int, count: int) -> str:
    """Run a command and sample its memory; kill it when ``stop`` rows are written.

    Args:
        command: the command line.
        partial: the file that it writes rows to.
        start: rows in the file at the start.
        stop: rows at which the command is killed; with ``count`` it runs to its end.
        count: number of images.

    Returns:
        Exit code, time and memory, as text.
    """
    began, process, samples = time.monotonic(), subprocess.Popen(command), []
    while process.poll() is None:
        rows = rows_in(partial)
        if rows >= start + (stop - start) / 10:
            samples.append(resident(process.pid))
        if rows >= stop < count:
            os.kill(process.pid, signal.SIGKILL)
        time.sleep(0.5)
    samples = [sample for sample in samples if sample]
    took = time.monotonic() - began
    return (
        f"exit {process.wait()}, {took:.0f} s, warm at {samples[0]:.0f} MB, at most {max(samples):.0f} MB, "
        f"grown by {max(samples) - samples[0]:.0f} MB"
    )


def main() -> None:
    """Render, predict, kill, resume and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--num_workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_all(root / "images", given.images)
        print(f"rendered {given.images} images", flush=True)
        save_detector(root / "detector.safetensors")
        out, partial = root / "rows.csv", root / "rows.csv.partial"
        command = [sys.executable, "-m", "clipos_lightning", "predict", str(root / "detector.safetensors")]
        command += [str(root / "images"), "--out", str(out), "--num_workers", str(given.num_workers)]
        print("killed halfway:", watch(command, partial, 0, given.images // 2, given.images), flush=True)
        left = rows_in(partial)
        print("resumed:       ", watch([*command, "--resume"], partial, left, given.images, given.images), flush=True)
        with open(out, newline="") as file:
            paths = [row["path"] for row in csv.DictReader(file)]
        expected = sorted(str(path) for path in (root / "images").rglob("*.png"))
        print(
            f"rows: {len(paths)}, each image exactly once: {sorted(paths) == expected}, in order: {paths == expected}"
        )


if __name__ == "__main__":
    main()
