"""Print all benchmarks as one Markdown table (``make bench``): this package compared with a plain implementation.

    python benchmarks [PART...]

Each part runs in a separate process and can be run alone (``python benchmarks/passes.py``). All use ViT-B/16 with
random weights, which is fine for speed and meaningless for accuracy. Ratios are within one run.
"""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from common import HEAD

PARTS = ("startup", "decode", "passes", "fit", "steps")


def machine() -> str:
    """Processor, cores, threads and load, as text."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{model}, {os.cpu_count()} cores ({threads} used), load at the start {os.getloadavg()[0]:.1f}"


def main() -> int:
    """Print the table; returns the exit code."""
    start, folder = time.monotonic(), Path(__file__).parent
    print(f"{machine()}; ratio: plain / ours\n\n{HEAD}", flush=True)
    codes = [
        subprocess.run([sys.executable, folder / f"{part}.py", "--rows"], check=False).returncode
        for part in sys.argv[1:] or PARTS
    ]
    print(f"\n{time.monotonic() - start:.0f} s; load at the end {os.getloadavg()[0]:.1f}")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
