"""The CLIP-OS paper's table with CLIP ViT-B/16: three ID sets x 1 and 2 shots x 3 seeds x all methods, on a GPU.

    make reproduce                              # or: python scripts/reproduce.py --root DATA --out runs/reproduce
    python scripts/reproduce.py --sets cifar10 --data.limit_per_set 200 --seeds 1     # a trial: further options go to
                                                                                      # `clipos benchmark main`

It downloads OpenAI's weights and the data sets that are missing, except ImageNet, which has to be requested by hand;
without it, ImageNet-100 is left out. It can be stopped and started again: what is finished is not repeated. `report.md`
in the output folder has the averages over the paper's five OOD sets, with the figure that the paper publishes.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipos_lightning.data.benchmarks import BENCHMARKS, CLIPOS_OOD
from clipos_lightning.data.sources import SOURCES
from clipos_lightning.experiments.columns import signed
from clipos_lightning.experiments.tables import by_grid_point, grid_title, markdown_table
from clipos_lightning.options.text_files import read_json
from clipos_lightning.utils.files import write_text

ID_SETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet100": "ImageNet-100"}
PAPER = {"cifar100": 78.24}  # average AUROC, arXiv:2404.00323
METHOD = "CLIP-OS"  # the row of the grid that the paper's figure is compared with


class Refusal(Exception):
    """What is missing, and what to do, in one line."""


def sources_of(id_set: str) -> list[str]:
    """Names of the downloads that an ID set and its OOD sets need."""
    marks = BENCHMARKS[id_set]
    return ["imagenet" if id_set == "imagenet100" else id_set, *marks["near"], *marks["far"]]


def available(id_sets: Sequence[str], root: Path) -> list[str]:
    """The ID sets without those whose images cannot be downloaded and are not below the root; says which."""
    found = []
    for name in id_sets:
        by_hand = [s for s in sources_of(name) if not SOURCES[s].fetchable and SOURCES[s].state(root) != "yes"]
        if by_hand:
            print(f"{ID_SETS[name]} is left out: see `clipos data info {' '.join(by_hand)}` for how to get its images")
        else:
            found.append(name)
    return found


def check_machine(options: Sequence[str]) -> None:
    """Require a GPU, unless the options name an accelerator.

    Raises:
        Refusal: there is none.
    """
    import torch

    if not torch.cuda.is_available() and not any(word.startswith("--trainer.accelerator") for word in options):
        raise Refusal(
            "no GPU: the whole table would take weeks on a CPU. `make demo` runs the method on this machine; "
            "docs/first_real_run.md has a first run with ViT-B/16; --trainer.accelerator cpu runs it nevertheless"
        )


def clipos(*words: str) -> None:
    """Run a command of clipos.

    Raises:
        Refusal: it failed; it has printed why.
    """
    print("\n$ clipos", *words, flush=True)
    code = subprocess.run([sys.executable, "-m", "clipos_lightning", *words]).returncode
    if code:
        raise Refusal(f"`clipos {words[0]}` ended with exit code {code}; the same command goes on from there")


# -------------------------------------------------------------------------------------------------- the report


def papers_sets(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The paper's OOD sets that were tested."""
    return [name for name in CLIPOS_OOD if name in rows[0]["seeds"][0]["ood"]]


def paper_average(row: Mapping[str, Any]) -> list[float]:
    """Of each seed: the AUROC averaged over those of the paper's five OOD sets that were tested."""
    return [float(np.mean([m["auroc"] for name, m in s["ood"].items() if name in CLIPOS_OOD])) for s in row["seeds"]]


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (n − 1), of one value the value."""
    text = f"{np.mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {np.std(values, ddof=1):.2f}"


def report(outcomes: Mapping[str, Mapping[str, Any]]) -> str:
    """The report as Markdown: per ID set and number of shots, each method's average over the paper's OOD sets.

    Args:
        outcomes: name of the ID set to the contents of its ``results.json``.
    """
    lines = ["# The CLIP-OS paper's table, computed with clipos-lightning", ""]
    lines += [f"AUROC in percent, averaged over {', '.join(CLIPOS_OOD)}; mean ± std over seeds. The full tables, with"]
    lines += [
        "every OOD set, score and seed, are in the folders beside this file (`results.html`). The paper leaves out"
    ]
    lines += ["many constants; these runs use those of its equations and of its baselines' authors, tuned on nothing."]
    for name, outcome in outcomes.items():
        lines += ["", f"## {ID_SETS[name]}", "", grid_title(outcome)]
        for point, rows in by_grid_point(outcome).items():
            tested = papers_sets(rows)
            if not tested:
                lines += ["", f"### {point}", "", "None of the paper's OOD sets was tested."]
                continue
            ranked = sorted(rows, key=lambda row: -float(np.mean(paper_average(row))))
            cells = [[row["name"], row["score"], spread(paper_average(row))] for row in ranked]
            head = ["method", "score", f"AUROC, average over {', '.join(tested)}"]
            lines += ["", f"### {point}", "", *markdown_table(head, cells, code=1)]
            if name in PAPER and len(tested) == len(CLIPOS_OOD) and grid_title(outcome) == outcome["title"]:
                lines += ["", compare_with_paper(name, rows)]
    return "\n".join(lines) + "\n"


def compare_with_paper(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The paper's figure beside ours."""
    ours = [float(np.mean(paper_average(row))) for row in rows if row["row"] == METHOD]
    difference = f"; ours {ours[0]:.2f} ({signed(ours[0] - PAPER[name])})" if ours else ""
    return f"The paper's average on {ID_SETS[name]}, without its shots, is {PAPER[name]:.2f} for {METHOD}{difference}."


# -------------------------------------------------------------------------------------------------- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Download, run the grids, write the report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=os.environ.get("CLIPOS_DATA") or "data", help="data root")
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="output folder")
    parser.add_argument("--sets", nargs="+", choices=ID_SETS, default=list(ID_SETS), help="ID sets")
    given, options = parser.parse_known_args(arguments)
    try:
        check_machine(options)
        root = Path(given.root).expanduser()
        chosen = available(given.sets, root)
        needed = dict.fromkeys(name for id_set in chosen for name in sources_of(id_set))
        missing = [name for name in needed if SOURCES[name].state(root) != "yes"]
        if missing:
            clipos("data", "download", *missing, "--root", str(root))
        for name in chosen:
            words = ["--config", f"{name}_1shot.yaml", "--data.root", str(root), "--out", str(given.out / name)]
            clipos("benchmark", "main", *words, *options)
    except Refusal as refusal:
        print(f"reproduce: {refusal}", file=sys.stderr)
        return 2
    files = {name: given.out / name / "results.json" for name in chosen}
    outcomes = {name: read_json(file, "reproduce") for name, file in files.items() if file.exists()}
    if len(outcomes) < len(given.sets):
        print(f"reproduce: without {', '.join(ID_SETS[name] for name in given.sets if name not in outcomes)}")
    if not outcomes:
        print("reproduce: no grid is finished, so there is no report yet", file=sys.stderr)
        return 2
    write_text(given.out / "report.md", report(outcomes))
    print(f"report: {given.out / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
