"""The table of ``docs/results.md``: CIFAR-10, one image per class, MicroCLIP; methods x scores x ID accuracy, by seed.

Runs `clipos fit` and `clipos test` for each method and seed (what is there is not run again) and writes the table.

    python scripts/results.py --data $CLIPOS_DATA --runs runs/results --out docs/results-cifar10.md
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

SEEDS = (1, 2, 3)
CONFIG = "cifar10_1shot_micro.yaml"
OVERLAYS = {"CoOp": ["coop_micro.yaml"], "LoCoOp": ["locoop_micro.yaml"], "CLIP-OS": []}


def clipos(*arguments: str, data: str) -> Path:
    """Run a command; the run's folder."""
    command = [sys.executable, "-m", "clipos_lightning", *arguments, "--data.root", data]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return Path(done.stdout.splitlines()[-1].removeprefix("run: "))


def report(place: Path, overlays: Sequence[str], seed: int, train: bool, data: str) -> dict[str, Any]:
    """The report of one method and seed, made if it is not there yet."""
    found = sorted(place.glob("test-*/report.json"))
    if not found:
        configs = [word for name in (CONFIG, *overlays) for word in ("--config", name)]
        common = [*configs, "--seed_everything", str(seed), "--trainer.default_root_dir", str(place)]
        checkpoint = [] if not train else ["--ckpt_path", str(clipos("fit", *common, data=data) / "last.ckpt")]
        found = [clipos("test", *common, *checkpoint, data=data) / "report.json"]
    return json.loads(found[-1].read_text(encoding="utf-8"))


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{mean(values):.1f} ± {stdev(values):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


def tables(reports: dict[str, list[dict[str, Any]]]) -> Iterator[str]:
    """Markdown: ID accuracy; AUROC and FPR95 of every score, each seed and the mean; then each OOD set's AUROC."""
    yield "| method | ID accuracy, each seed | mean ± std |"
    yield "|---|---|---:|"
    for method, found in reports.items():
        values = [r["id"]["accuracy"] for r in found]
        yield f"| {method} | {' / '.join(f'{v:.1f}' for v in values)} | {spread(values)} |"
    scores = list(dict.fromkeys(s for found in reports.values() for s in found[0]["average"]))
    for metric, name in (("auroc", "AUROC ↑"), ("fpr95", "FPR95 ↓")):
        yield f"\n**{name}, average over the OOD sets: each seed, mean ± std**\n"
        yield "| score | " + " | ".join(reports) + " |"
        yield "|---|" + "---|" * len(reports)
        for score in scores:
            row = []
            for found in reports.values():
                values = [r["average"][score][metric] for r in found if score in r["average"]]
                each = " / ".join(f"{v:.1f}" for v in values)
                row.append("–" if not values else each if len(values) == 1 else f"{each}, **{spread(values)}**")
            yield f"| `{score}` | " + " | ".join(row) + " |"
    names = list(next(iter(reports.values()))[0]["ood"])
    yield "\n**AUROC by OOD set, mean over seeds**\n"
    yield "| method | score | " + " | ".join(names) + " |"
    yield "|---|---|" + "---:|" * len(names)
    for method, found in reports.items():
        for score in scores:
            if score in found[0]["average"]:
                row = [f"{mean([r['ood'][n][score]['auroc'] for r in found]):.1f}" for n in names]
                yield f"| {method} | `{score}` | " + " | ".join(row) + " |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("CLIPOS_DATA", "data"))
    parser.add_argument("--runs", type=Path, default=Path("runs/results"))
    parser.add_argument("--methods", nargs="*", default=["zero-shot", *OVERLAYS], help="only these")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    found: dict[str, list[dict[str, Any]]] = {}
    for method in given.methods:
        seeds = SEEDS[:1] if method == "zero-shot" else SEEDS
        overlays = OVERLAYS.get(method, [])
        train = method != "zero-shot"
        found[method] = [report(given.runs / f"{method}-{s}", overlays, s, train, given.data) for s in seeds]
    text = "\n".join(tables(found)) + "\n"
    if given.out:
        given.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
