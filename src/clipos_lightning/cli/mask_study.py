"""The mask study: tables and gallery of a grid of ``kind: masks``."""

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, Subset

from ..clip.backbone import FrozenClip
from ..clip.loading import load_backbone
from ..data.datamodule import FewShotOOD
from ..errors import InputError, printable
from ..experiments.columns import Cell, Column, mark_best
from ..experiments.engine import device_of
from ..experiments.grid import Grid, slug
from ..experiments.latex import PREAMBLE, latex_table
from ..experiments.masks import MAP_KINDS, MASK_METRICS, Setting, covered_patches, evaluate_maps, label_maps
from ..experiments.plan import Entry, GridRun, grid_parser
from ..experiments.results_page import PageSection, PageTable, WideFigure, render_page
from ..experiments.tables import markdown_table
from ..method.mask import MAP_PATHS
from ..method.prompts import Wordings, encode_prompts
from ..reporting.heatmaps import delta_pixels, gray_pixels, map_pixels, panel_figure
from ..reporting.markdown import escape_markdown
from ..reporting.plots import svg_element
from ..types import Texts
from ..utils.csv_cells import name_cell
from ..utils.files import atomic_write, write_json, write_text
from ..utils.progress import track

METRIC_TITLES = {
    "iou": "IoU ↑",
    "boundary_f": "boundary F ↑",
    "pointing": "pointing game ↑",
    "patch_accuracy": "patch accuracy ↑",
}
MAP_NAMES = {"clip": "plain CLIP", "s": "S", "delta": "Δ"}
MASK_NOTE = (
    "Values from 0 to 1, for the true label, on the patch grid; images whose object covers no patch are left out. "
    "Masks: S_clip > 0.5, S > 0.5, Δ > 0. Pointing game: the patch with the highest value is inside the object. Patch "
    "accuracy: fraction of the object's patches with the image's class (plain CLIP, S: the class with the largest "
    "similarity; Δ: the class with the largest Δ)."
)


def run_masks(grid: Grid, runs: Sequence[GridRun], entries: Sequence[Entry], folder: Path) -> None:
    """Evaluate the maps, write ``results.*`` and the gallery, and print the table.

    Raises:
        InputError: the ID set has no ground-truth masks, or the rows differ in other options than
            ``model.surgery`` and ``model.mask.feature_surgery``.
    """
    parts = [grid_parser().instantiate_classes(run.config) for run in runs]
    data = FewShotOOD(**{**vars(parts[0].data), "ood_sets": []})
    model = parts[0].model
    for name in ("backbone", "pretrained", "image_size", "template"):
        if any(part.model[name] != model[name] for part in parts) or grid.axes:
            raise InputError(
                "benchmark: the rows of a mask study may differ in model.surgery and model.mask.feature_surgery only: "
                f"remove axes, and model.{name} from the rows"
            )
    backbone = load_backbone(model.backbone, model.pretrained, image_size=model.image_size)
    if backbone.note:
        print(f"note: {backbone.note}", file=sys.stderr)
    backbone = backbone.to(device_of(parts[0].trainer.accelerator))
    data.preprocessing = backbone.preprocessing
    data.setup("test")
    images, positions = data.test_sets["id"]
    if not images.has_masks:
        raise InputError(
            f"benchmark: the ID set {data.id_set.name} has no ground-truth masks: use --data.id scenes, or a folder "
            "with test/boxes.csv (path,x0,y0,x1,y1)"
        )
    text = encode_prompts(backbone, Wordings.of(data.class_names, data.class_wordings, model.template).prompts)
    settings = [(part.model.surgery, part.model.mask) for part in parts]
    found = evaluate_maps(backbone, text, settings, track(data.loader(data.test_images("id")), "evaluating maps"))
    if not found[0]["clip"]:
        raise InputError(
            f"benchmark: no object of {data.id_set.name} covers half of a patch: use an ID set with larger objects"
        )
    by_run = {run.id: metrics for run, metrics in zip(runs, found, strict=True)}  # rows with equal options share a run
    rows = [{"row": name, "maps": by_run[run]} for name, run in {e.row: e.run for e in entries}.items()]
    identity = {"name": data.id_set.name, "n": len(positions)}
    outcome = {
        "schema": 1,
        "name": grid.name,
        "title": grid.title,
        "id": identity,
        "chance": 1 / len(text),
        "rows": rows,
    }
    assert images.labels is not None
    first = np.unique(images.labels[positions], return_index=True)[1][:12].tolist()  # one image per class
    batch = next(iter(DataLoader(Subset(data.test_images("id"), first), len(first))))
    write_study(folder, outcome, draw_study_gallery(backbone, text, settings[:2], batch, data.class_names))
    print("\n".join(markdown_table(*mask_table(outcome))))
    print(f"report: {folder / 'results.html'}\nrun: {folder}")


def mask_table(outcome: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: one row per setting and map, but plain CLIP, which no setting affects, only once."""
    rows = []
    for k, row in enumerate(outcome["rows"]):
        for name in MAP_KINDS if k == 0 else MAP_KINDS[1:]:
            metrics = row["maps"][name]
            setting = "–" if name == "clip" else row["row"]
            rows.append([MAP_NAMES[name], setting, *(f"{metrics[m]:.3f}" for m in MASK_METRICS)])
    return ["map", "surgery path", *(METRIC_TITLES[m] for m in MASK_METRICS)], rows


def write_study(folder: Path, outcome: Mapping[str, Any], picture: Figure) -> None:
    """Write ``results.json``, ``.md``, ``.csv``, ``.tex``, ``.html`` and ``gallery.png``."""
    head, rows = mask_table(outcome)
    write_json(folder / "results.json", outcome)
    chance = f"Patch accuracy at chance: {outcome['chance']:.3f}."
    about = f"ID set {outcome['id']['name']}, {outcome['id']['n']:,} images. {MASK_NOTE} {chance}"
    page = [f"# {escape_markdown(outcome['title'])}", "", escape_markdown(about), "", *markdown_table(head, rows), ""]
    write_text(folder / "results.md", "\n".join(page))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["map", "surgery", *MASK_METRICS])
    csv.writer(buffer, lineterminator="\n").writerows(
        [name, name_cell(setting), *values] for name, setting, *values in rows
    )
    write_text(folder / "results.csv", buffer.getvalue())
    labels = [(row[0], row[1].strip("–")) for row in rows]
    columns = [
        mark_best(Column(title, tuple(Cell(row[i]) for row in rows))) for i, title in enumerate(head[2:], start=2)
    ]
    caption = f"{outcome['title']}. {about} Best of each column in bold."
    latex = latex_table(caption, slug(outcome["name"]), ("Map", "Surgery path"), labels, columns)
    write_text(folder / "results.tex", f"{PREAMBLE}\n\n{latex}\n")
    caption = "The first image of each class: ground-truth mask; map of plain CLIP; S and Δ for the first two settings"
    section = PageSection(
        "", [PageTable("", "map, surgery path", labels, columns)], picture=WideFigure(caption, svg_element(picture))
    )
    write_text(folder / "results.html", render_page(outcome["title"], [about], [section]))
    with atomic_write(folder / "gallery.png") as partial:
        picture.savefig(partial, format="png", dpi=150)


@torch.inference_mode()
def draw_study_gallery(
    backbone: FrozenClip, text: Texts, settings: Sequence[Setting], batch: Any, names: Sequence[str]
) -> Figure:
    """One row per image: image, ground-truth mask, S_clip, then S and Δ for each setting."""
    surgeries, labels = [surgery for surgery, _ in settings], batch["label"].to(backbone.device)
    features = backbone.encode_surgeries(batch["image"].to(backbone.device), MAP_PATHS, surgeries)
    maps = [label_maps(features[surgery], text, labels, options) for surgery, options in settings]
    truth = covered_patches(batch["mask"], backbone.grid).numpy().astype(float)

    def grid_map(values: torch.Tensor) -> Any:
        return values.reshape(backbone.grid).cpu().numpy()

    rows = []
    for i, label in enumerate(batch["label"].tolist()):
        panels = {"image": batch["image"][i].permute(1, 2, 0).numpy(), "true object": gray_pixels(truth[i])}
        panels |= {"plain CLIP": map_pixels(grid_map(maps[0]["clip"][i]))}
        for k, setting in enumerate(maps, 1):
            panels[f"surgery S ({k})"] = map_pixels(grid_map(setting["s"][i]))
            panels[f"difference Δ ({k})"] = delta_pixels(grid_map(setting["delta"][i]))
        rows.append((printable(names[label]), panels))
    return panel_figure(rows)
