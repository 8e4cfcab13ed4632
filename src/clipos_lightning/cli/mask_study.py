"""Grids of ``kind: masks``: the mask study's tables and gallery."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.utils.data import DataLoader, Subset

from ..clip.backbone import FrozenClip
from ..clip.loading import load_backbone
from ..clip.surgery import SurgeryOptions
from ..data.datamodule import FewShotOOD
from ..errors import InputError
from ..experiments.engine import device_of
from ..experiments.grid import Grid
from ..experiments.masks import MAP_KINDS, MASK_METRICS, maps_of, on_grid, study
from ..experiments.plan import Entry, GridRun, grid_parser
from ..experiments.tables import escape, render_page, table
from ..method.mask import MAP_PATHS
from ..method.prompts import Wordings, encode_prompts
from ..reporting.heatmaps import delta_pixels, gray_pixels, map_pixels, panel_figure
from ..reporting.plots import svg_uri
from ..types import Texts
from ..utils.files import write_json, write_text
from ..utils.progress import track

HEADS = {
    "iou": "IoU ↑",
    "boundary_f": "boundary F ↑",
    "pointing": "pointing game ↑",
    "patch_accuracy": "patches right ↑",
}
MAP_NAMES = {"clip": "plain CLIP", "s": "S", "delta": "Δ"}
NOTE = (
    "0–1, for the true label, on the patch grid, images whose object covers no patch left out. Masks: S_clip > 0.5, "
    "S > 0.5, Δ > 0. Pointing game: the map's best patch lies on the object. Patches right: share of the object's "
    "patches whose class is the image's (plain CLIP, S: the most similar text; Δ: the class with the largest Δ)."
)


def run_masks(grid: Grid, runs: Sequence[GridRun], entries: Sequence[Entry], folder: Path) -> None:
    """Measure, write ``results.*`` and the gallery, print the table.

    Raises:
        InputError: the ID set has no true masks.
    """
    parts = [grid_parser().instantiate_classes(run.config) for run in runs]
    data = FewShotOOD(**{**vars(parts[0].data), "ood_sets": []})
    model = parts[0].model
    for name in ("backbone", "pretrained", "image_size", "template"):
        if any(part.model[name] != model[name] for part in parts) or grid.axes:
            raise InputError(
                f"benchmark: the rows of a mask study differ in model.surgery alone, not in {name} or axes"
            )
    backbone = load_backbone(model.backbone, model.pretrained, image_size=model.image_size)
    backbone = backbone.to(device_of(parts[0].trainer.accelerator))
    data.image_size = backbone.image_size
    data.setup("test")
    images, positions = data.test_sets["id"]
    if not images.has_masks:
        raise InputError(
            f"benchmark: the ID set {data.id_set.name} has no true masks: take scenes, or a folder whose test/ holds a "
            "boxes.csv (path,x0,y0,x1,y1)"
        )
    text = encode_prompts(backbone, Wordings.of(data.class_names, data.class_wordings, model.template).prompts)
    surgeries = [part.model.surgery for part in parts]
    found = study(backbone, text, surgeries, track(data.loader(data.test_images("id")), "maps against masks"))
    if not found[0]["clip"]:
        raise InputError(f"benchmark: no object of {data.id_set.name} covers half of a patch: the masks are too small")
    by_run = {run.id: figures for run, figures in zip(runs, found, strict=True)}  # equal rows are one run
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
    first = np.unique(images.labels[positions], return_index=True)[1][:12].tolist()  # an image a class
    batch = next(iter(DataLoader(Subset(data.test_images("id"), first), len(first))))
    write_study(folder, outcome, draw_study_gallery(backbone, text, surgeries[:2], batch, data.class_names))
    print("\n".join(table(*mask_table(outcome))))
    print(f"report: {folder / 'results.html'}\nrun: {folder}")


def mask_table(outcome: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """A row for each setting and map; plain CLIP, which no setting changes, once."""
    rows = []
    for k, row in enumerate(outcome["rows"]):
        for name in MAP_KINDS if k == 0 else MAP_KINDS[1:]:
            figures = row["maps"][name]
            where = "–" if name == "clip" else row["row"]
            rows.append([MAP_NAMES[name], where, *(f"{figures[c]:.3f}" for c in MASK_METRICS)])
    return ["map", "surgery path", *(HEADS[c] for c in MASK_METRICS)], rows


def write_study(folder: Path, outcome: Mapping[str, Any], picture: Figure) -> None:
    """``results.json``, ``.md``, ``.csv``, ``.tex``, ``.html`` and ``gallery.png``."""
    head, rows = mask_table(outcome)
    write_json(folder / "results.json", outcome)
    chance = f"Chance of a patch: {outcome['chance']:.3f}."
    about = f"ID set {outcome['id']['name']}, {outcome['id']['n']:,} images. {NOTE} {chance}"
    write_text(folder / "results.md", "\n".join([f"# {outcome['title']}", "", about, "", *table(head, rows), ""]))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([["map", "surgery", *MASK_METRICS], *rows])
    write_text(folder / "results.csv", buffer.getvalue())
    lines = [" & ".join(map(escape, row)) + " \\\\" for row in rows]
    top = " & ".join(["map", "surgery path", *(escape(HEADS[c].removesuffix(" ↑")) for c in MASK_METRICS)]) + " \\\\"
    frame = ["% \\usepackage{booktabs}", "\\begin{tabular}{llrrrr}", "\\toprule", top, "\\midrule", *lines]
    write_text(folder / "results.tex", "\n".join([*frame, "\\bottomrule", "\\end{tabular}", ""]))
    caption = "The first image of each class: true object; plain CLIP's map; S and Δ under the first two settings"
    uris = {caption: svg_uri(picture)}
    write_text(folder / "results.html", render_page(outcome["title"], about, [("", [("", head, rows)])], uris))
    picture.savefig(folder / "gallery.png", dpi=150)


@torch.inference_mode()
def draw_study_gallery(
    backbone: FrozenClip, text: Texts, surgeries: Sequence[SurgeryOptions], batch: Any, names: Sequence[str]
) -> Figure:
    """A row for each image: image, truth, S_clip, then S and Δ under each of the settings."""
    features = backbone.encode_surgeries(batch["image"].to(backbone.device), MAP_PATHS, surgeries)
    own = text[batch["label"]]
    maps = [maps_of(features[surgery], own) for surgery in surgeries]
    truth = on_grid(batch["mask"], backbone.grid).numpy().astype(float)

    def grid_map(values: torch.Tensor) -> Any:
        return values.reshape(backbone.grid).cpu().numpy()

    rows = []
    for i, label in enumerate(batch["label"].tolist()):
        panels = {"image": batch["image"][i].permute(1, 2, 0).numpy(), "true object": gray_pixels(truth[i])}
        panels |= {"plain CLIP": map_pixels(grid_map(maps[0]["clip"][i]))}
        for k, of in enumerate(maps, 1):
            panels[f"surgery S ({k})"] = map_pixels(grid_map(of["s"][i]))
            panels[f"difference Δ ({k})"] = delta_pixels(grid_map(of["delta"][i]))
        rows.append((names[label], panels))
    return panel_figure(rows)
