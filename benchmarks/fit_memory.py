"""``clipos fit`` over many steps: its memory; prints the line quoted in the docs.

    OMP_NUM_THREADS=1 python benchmarks/fit_memory.py --steps 10000

Memory is the resident set of the process. The first value is taken after a tenth of the steps (warm-up).
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from predict_memory import resident, rows_in


def main() -> None:
    """Train, and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "clipos_lightning", "fit", "--config", "demo.yaml"]
        command += ["--trainer.default_root_dir", folder, "--trainer.accelerator", "cpu"]
        command += ["--trainer.max_epochs", "-1", "--trainer.max_steps", str(given.steps)]
        began, process, samples = time.monotonic(), subprocess.Popen(command), []
        while process.poll() is None:
            steps = max((rows_in(path) for path in Path(folder).glob("*/metrics.csv")), default=0)
            if steps >= given.steps / 10:
                samples.append(resident(process.pid))
            time.sleep(0.5)
        samples = [sample for sample in samples if sample]
        print(
            f"{given.steps:,} steps: exit {process.wait()}, {time.monotonic() - began:.0f} s, warm at "
            f"{samples[0]:.0f} MB, at most {max(samples):.0f} MB, grown by {max(samples) - samples[0]:.0f} MB"
        )


if __name__ == "__main__":
    main()
