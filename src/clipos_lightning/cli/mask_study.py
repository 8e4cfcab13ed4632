"""The mask study: tables and gallery of a grid of ``kind: masks``."""

import csv
import io
import operator
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from ..clip.backbone import FrozenClip
from ..clip.loading import load_backbone
from ..data.datamodule import FewShotOOD
from ..errors import InputError, printable
from ..experiments.columns import Cell, Column, mark_best
from ..experiments.engine import device_of
from ..experiments.grid import Grid, slug
from ..experiments.latex import PREAMBLE, latex_table
from ..experiments.map_kinds import MAP_KINDS, SURGERY_KINDS, FrozenText
from ..experiments.masks import MASK_METRICS, Setting, batch_maps, covered_patches, evaluate_maps
from ..experiments.plan import Entry, GridRun, grid_parser
from ..experiments.results_page import PageSection, PageTable, WideFigure, render_page
from ..experiments.tables import markdown_table
from ..method.mask import top_k_count
from ..method.prompts import Wordings, encode_prompts, neutral_prompts
from ..reporting.heatmaps import delta_pixels, map_pixels, outlined, panel_figure
from ..reporting.plots import svg_element
from ..utils.csv_cells import name_cell
from ..utils.files import atomic_write, write_json, write_text
from ..utils.markdown import escape_markdown
from ..utils.progress import track

METRIC_TITLES = {
    "iou": "IoU ↑",
    "boundary_f": "boundary F ↑",
    "pointing": "pointing game ↑",
    "patch_accuracy": "patch accuracy ↑",
}
MAP_NAMES = {
    "clip": "plain CLIP",
    "s": "S",
    "delta": "Δ",
    "locoop": "LoCoOp: label's rank",
    "mambo": "Mambo: not “background”",
    "mambo_unknown": "Mambo: not “unknown”",
    "fobor": "FoBoR: attention to the class token",
    "attention": "CLIP: attention of the class token",
}
PANEL_TITLES = {
    "clip": "plain CLIP\nS_clip > 0.5",
    "s": "surgery path\nS > 0.5",
    "delta": "CLIP-OS\nΔ > 0",
    "locoop": "LoCoOp\nlabel in the top K",
    "mambo_unknown": "Mambo\nnot “unknown”",
    "fobor": "FoBoR: attention\nto the class token",
    "attention": "CLIP: attention\nof the class token",
}
GALLERY_IMAGES = 6
GALLERY_CAPTION = (
    "The first image of each of the first classes. Lines: the true object in the image, the mask of each method in its "
    "map; S and Δ of the setting"
)
MASK_NOTE = (
    "Values from 0 to 1, for the true label, on the patch grid; images whose object covers no patch are left out. "
    "Nothing is trained: all masks come from the frozen features and prompts. Masks: S_clip > 0.5, S > 0.5, Δ > 0; "
    "LoCoOp: the label is among a patch's top K = {top_k} classes (local features); Mambo: all but its background, "
    "with a frozen prompt in place of the learned one, of the word “background” or of the neutral words for “unknown”; "
    "FoBoR: the patches' attention to the class token > 0.5; CLIP: the class token's attention to the patches > 0.5 "
    "(both in the last block, scaled to [0, 1] in each image). Pointing game: the patch with the highest value "
    "(LoCoOp: local similarity) is inside the object. Patch accuracy: fraction of the object's patches with the class "
    "of the image (that of the largest similarity; Δ: of the largest Δ); –: the map gives patches no classes."
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
    check_rows(grid, [part.model for part in parts])
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
    text = frozen_text(backbone, Wordings.of(data.class_names, data.class_wordings, model.template), model)
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
        "chance": 1 / len(text.classes),
        "top_k": top_k_count(len(text.classes), model.mask.top_k),
        "rows": rows,
    }
    assert images.labels is not None
    first = np.unique(images.labels[positions], return_index=True)[1][:GALLERY_IMAGES].tolist()  # one per class
    batch = next(iter(DataLoader(Subset(data.test_images("id"), first), len(first))))
    shown = next(e for e in entries if e.row == grid.reference or not grid.reference)
    setting = settings[[run.id for run in runs].index(shown.run)]
    write_study(folder, outcome, shown.row, draw_study_gallery(backbone, text, setting, batch, data.class_names))
    print("\n".join(markdown_table(*mask_table(outcome))))
    print(f"report: {folder / 'results.html'}\nrun: {folder}")


def check_rows(grid: Grid, models: Sequence[Any]) -> None:
    """Require rows that differ in the surgery path and feature surgery alone.

    Raises:
        InputError: they differ in other options of the model, or the grid has axes.
    """
    fixed = ("backbone", "pretrained", "image_size", "template", "zero_shot_unknown", "mask.top_k")
    for name in fixed:
        values = [operator.attrgetter(name)(model) for model in models]
        if any(value != values[0] for value in values) or grid.axes:
            raise InputError(
                "benchmark: the rows of a mask study may differ in model.surgery and model.mask.feature_surgery only: "
                f"remove axes, and model.{name} from the rows"
            )


def frozen_text(backbone: FrozenClip, wordings: Wordings, model: Any) -> FrozenText:
    """The frozen prompts of the classes, and those in place of Mambo's; ``model``: the options ``model.*``."""
    prompts = {
        "mambo": Wordings.of(["background"], None, model.template).prompts[0],
        "mambo_unknown": neutral_prompts(model.zero_shot_unknown, len(wordings.names)),
    }
    backgrounds = dict(zip(prompts, encode_prompts(backbone, list(prompts.values())), strict=True))
    return FrozenText(encode_prompts(backbone, wordings.prompts), backgrounds, float(backbone.scale))


def mask_table(outcome: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: one row per map that no setting affects, then one per setting and other map."""
    fixed = [(name, "–", outcome["rows"][0]) for name in MAP_KINDS if name not in SURGERY_KINDS]
    by_setting = [(name, row["row"], row) for row in outcome["rows"] for name in SURGERY_KINDS]
    rows = []
    for name, setting, row in (*fixed, *by_setting):
        found = (row["maps"][name].get(metric) for metric in MASK_METRICS)
        rows.append([MAP_NAMES[name], setting, *("–" if value is None else f"{value:.3f}" for value in found)])
    return ["map", "surgery path", *(METRIC_TITLES[m] for m in MASK_METRICS)], rows


def write_study(folder: Path, outcome: Mapping[str, Any], shown: str, picture: Figure) -> None:
    """Write ``results.json``, ``.md``, ``.csv``, ``.tex``, ``.html`` and ``gallery.png``.

    Args:
        folder: where to.
        outcome: the contents of ``results.json``.
        shown: the row of the picture's S and Delta.
        picture: the gallery.
    """
    head, rows = mask_table(outcome)
    write_json(folder / "results.json", outcome)
    chance = f"Patch accuracy at chance: {outcome['chance']:.3f}."
    note = MASK_NOTE.format(top_k=outcome["top_k"])
    about = f"ID set {outcome['id']['name']}, {outcome['id']['n']:,} images. {note} {chance}"
    page = [f"# {escape_markdown(outcome['title'])}", "", escape_markdown(about), "", *markdown_table(head, rows), ""]
    write_text(folder / "results.md", "\n".join(page))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(["map", "surgery", *MASK_METRICS])
    csv.writer(buffer, lineterminator="\n").writerows(
        [name, name_cell(setting), *(value.strip("–") for value in values)] for name, setting, *values in rows
    )
    write_text(folder / "results.csv", buffer.getvalue())
    labels = [(row[0], row[1].strip("–")) for row in rows]
    columns = [
        mark_best(Column(title, tuple(Cell(row[i]) for row in rows))) for i, title in enumerate(head[2:], start=2)
    ]
    caption = f"{outcome['title']}. {about} Best of each column in bold."
    latex = latex_table(caption, slug(outcome["name"]), ("Map", "Surgery path"), labels, columns)
    write_text(folder / "results.tex", f"{PREAMBLE}\n\n{latex}\n")
    figure = WideFigure(f"{GALLERY_CAPTION} “{shown}”", svg_element(picture))
    section = PageSection("", [PageTable("", "map, surgery path", labels, columns)], picture=figure)
    write_text(folder / "results.html", render_page(outcome["title"], [about], [section]))
    with atomic_write(folder / "gallery.png") as partial:
        picture.savefig(partial, format="png", dpi=150)


@torch.inference_mode()
def draw_study_gallery(
    backbone: FrozenClip, text: FrozenText, setting: Setting, batch: Any, names: Sequence[str]
) -> Figure:
    """One row per image: the image with the true object, then the map of each kind with its mask."""
    maps = batch_maps(backbone, text, [setting], batch)[0]
    truth = covered_patches(batch["mask"], backbone.grid).numpy()

    def on_grid(values: Tensor) -> NDArray[Any]:
        return values.reshape(backbone.grid).cpu().numpy()

    rows = []
    for i, label in enumerate(batch["label"].tolist()):
        panels = {"image": outlined(batch["image"][i].permute(1, 2, 0).numpy(), truth[i])}
        for kind, title in PANEL_TITLES.items():
            colors = delta_pixels if kind == "delta" else map_pixels
            panels[title] = outlined(colors(on_grid(maps[kind].values[i])), on_grid(maps[kind].mask[i]))
        rows.append((printable(names[label]), panels))
    return panel_figure(rows, "other maps")
