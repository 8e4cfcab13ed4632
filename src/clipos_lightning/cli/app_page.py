"""The page of ``clipos app`` in Gradio, which is imported only when the page is built."""

import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

from markupsafe import escape

from ..data.decoding import Decoding
from ..data.image_files import describe_left_out
from ..detector.detector import Detector
from ..detector.recalls import recalls_of, why_no_recalls
from ..detector.row_readers import PredictionRow
from ..errors import InputError
from ..reporting.decision_page import decision_html, maps_html, message_html
from ..reporting.html import mark_code
from ..reporting.paper_figure import Explanation
from ..utils.files import write_text
from .app_results import (
    ROW_HEADERS,
    Upload,
    as_recall,
    at_threshold,
    count_rows,
    csv_text,
    decide_again,
    describe_detector,
    describe_recall,
    explain_upload,
    images_in,
    label_of,
    predict_uploads,
    summarize_detector,
    table_cells,
    uploads_of,
)

NO_IMAGE = message_html("Give an image: drop it, paste it, or choose a file. It stays on this machine.")
COLUMN_TYPES = ("str", "str", "str", "number", "number", "str")  # of the table's columns
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")  # none of them is downloaded
MONO_FONTS = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")
UploadedFile = Mapping[str, Any]  # a file in Gradio's data


@dataclass
class ImageRows:
    """The rows of the images that a user gave.

    Attributes:
        by_path: path of an upload to its row; files of equal name and content have the same path.
        paths: of all images, in order.
        note: on files that were left out, or "".
    """

    by_path: dict[str, PredictionRow] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    note: str = ""


@dataclass
class AppPage:
    """What happens on the page: each method takes values of components and returns others.

    Attributes:
        detector: the detector.
        file: its file, or its name on the hub.
        decoding: how image files become pixels.
        scratch: folder for files to download.
        stopped: set when the command ends.
    """

    detector: Detector
    file: str
    decoding: Decoding
    scratch: Path
    stopped: Event

    def __post_init__(self) -> None:
        self.recalls = recalls_of(self.detector)

    def uploads(self, files: Sequence[UploadedFile] | None) -> list[Upload]:
        """The uploads in a component's data.

        Raises:
            InputError: one is not a file that the page received.
        """
        found = uploads_of(files)
        folder = self.scratch.resolve()
        if not all(Path(upload.path).resolve().is_relative_to(folder) for upload in found):
            raise InputError("this file was not given on the page: drop it there")
        return found

    def threshold(self, percent: float | None) -> float | None:
        """The threshold at a recall in percent; None: those that the results have."""
        return None if self.recalls is None or percent is None else self.recalls.at(as_recall(percent))[1]

    def note(self, percent: float | None) -> str:
        """What the threshold means, or why there is no slider, as HTML."""
        if self.recalls is None or percent is None:
            reason, command = why_no_recalls(self.detector, self.file)
            return f'<p class="note">{mark_code(f"The recall of this detector is fixed: {reason}. `{command}`")}</p>'
        texts = describe_recall(self.recalls, as_recall(percent), self.detector.score, self.detector.calibration)
        return f'<p class="note"><b>{escape(texts[0])}</b>: {escape(texts[1])}</p>'

    # ---- one image

    def show_image(self, file: UploadedFile | None, percent: float | None) -> tuple[Explanation | None, str, str]:
        """Explanation, decision and maps of an image; its problem in place of the decision."""
        if file is None:
            return None, NO_IMAGE, ""
        try:
            explanation = explain_upload(self.detector, self.uploads([file])[0], self.decoding)
        except InputError as error:
            return None, message_html(str(error), "No decision"), ""
        return explanation, self.decision(explanation, percent), maps_html(explanation)

    def decision(self, explanation: Explanation, percent: float | None) -> str:
        """The decision at a recall, as HTML."""
        shown, names = at_threshold(explanation, self.threshold(percent)), self.detector.class_names
        lowest = None if self.recalls is None else self.recalls.lowest(shown.score)
        return decision_html(shown, label_of(shown, names), len(names), lowest)

    # ---- several images

    def show_images(
        self,
        files: Sequence[UploadedFile] | None,
        folder: Sequence[UploadedFile] | None,
        known: ImageRows,
        progress: Any,
    ) -> ImageRows:
        """Rows of all images; those that are not known yet are read.

        Raises:
            InputError: the command ended meanwhile, or a file is not one that the page received.
        """
        left_out = Counter[str]()
        uploads = [*self.uploads(files), *images_in(self.uploads(folder), left_out)]
        new = list({upload.path: upload for upload in uploads if upload.path not in known.by_path}.values())

        def step(done: int) -> None:
            progress((done, len(new)), desc="images", unit="images")
            if self.stopped.is_set():
                raise InputError("clipos app was ended")

        rows = predict_uploads(self.detector, new, self.decoding.max_pixels, step)
        found = known.by_path | dict(zip((upload.path for upload in new), rows, strict=True))
        note = describe_left_out(left_out) if left_out else ""
        paths = [upload.path for upload in uploads]
        return ImageRows({path: found[path] for path in paths}, paths, note)

    def table(self, known: ImageRows, percent: float | None) -> tuple[str, list[list[Any]], str | None]:
        """Counts as HTML, table, and path of a CSV file of the images at a recall."""
        if not known.by_path:
            return message_html(known.note or "Give several images or a folder."), [], None
        rows = decide_again(self.detector, [known.by_path[path] for path in known.paths], self.threshold(percent))
        path = self.scratch / uuid.uuid4().hex / "rows.csv"
        path.parent.mkdir()
        write_text(path, csv_text(rows))
        counts = "; ".join(filter(None, (count_rows(self.detector, rows), known.note)))
        return message_html(counts), [table_cells(row) for row in rows], str(path)


# ---- the components; ``gr`` is the module of Gradio


def build_page(page: AppPage) -> Any:
    """The page as Gradio's Blocks; the functions of its events are those of ``page``."""
    import gradio as gr

    with gr.Blocks(title=f"{Path(page.file).name} – clipos app", analytics_enabled=False) as blocks:
        explanation, known = gr.State(None), gr.State(ImageRows())
        name, summary = escape(Path(page.file).name), escape(summarize_detector(page.detector))
        gr.HTML(f'<h1>{name}</h1><p class="about">{summary}</p>', padding=False)
        slider, note = add_slider(gr, page)
        image, decision, maps = add_image_tab(gr)
        files, folder, *shown = add_rows_tab(gr, page)
        with gr.Accordion("About this detector", open=False):
            gr.Markdown(describe_detector(page.detector))
        show_images, move = event_functions(gr, page)
        shared: dict[str, Any] = {"concurrency_id": "detector", "concurrency_limit": 1, "preprocess": False}
        image.change(page.show_image, [image, slider], [explanation, decision, maps], **shared)
        for source in (files, folder):
            inputs = [files, folder, known, slider]
            source.change(show_images, inputs, [known, *shown], show_progress_on=shown[0], **shared)
        inputs = [slider, explanation, known]
        slider.change(move, inputs, [note, decision, *shown], show_progress="hidden", preprocess=False)
    return blocks


def event_functions(gr: Any, page: AppPage) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The functions of the events that change the table: other images are given, and the slider is moved."""
    bar = gr.Progress()

    def show_images(files: Any, folder: Any, known: ImageRows, percent: float | None, progress: Any = bar) -> Any:
        try:
            kept = page.show_images(files, folder, known, progress)
        except InputError as error:
            raise gr.Error(str(error)) from error
        return kept, *table_updates(kept, percent)

    def move(percent: float | None, explanation: Explanation | None, known: ImageRows) -> Any:
        decision = gr.skip() if explanation is None else page.decision(explanation, percent)
        return page.note(percent), decision, *table_updates(known, percent)

    def table_updates(known: ImageRows, percent: float | None) -> tuple[Any, ...]:
        counts, table, csv = page.table(known, percent)
        return counts, table, gr.update(value=csv, interactive=csv is not None)

    return show_images, move


def add_slider(gr: Any, page: AppPage) -> tuple[Any, Any]:
    """Add the slider of the recall, hidden if the detector has no recalls to choose from, and the note below it."""
    recalls = page.recalls
    if recalls is None:
        return gr.Number(None, visible=False), gr.HTML(page.note(None), padding=False)
    low, start, high = (round(100 * recall, 8) for recall in (recalls.recalls[0], recalls.start, recalls.recalls[-1]))
    decimals = len(f"{start:.10g}".partition(".")[2])
    label = "Recall, %: part of the images of the classes to accept"
    slider = gr.Slider(low, high, start, step=10**-decimals, label=label)
    return slider, gr.HTML(page.note(start), padding=False)


def add_image_tab(gr: Any) -> tuple[Any, Any, Any]:
    """Add the tab for one image: the image, its decision, and its maps."""
    with gr.Tab("Image"):
        with gr.Row():
            with gr.Column(scale=2, min_width=280):
                image = gr.Image(sources=["upload", "clipboard"], label="Image", height=300)
            with gr.Column(scale=3, min_width=280):
                decision = gr.HTML(NO_IMAGE, padding=False)
        maps = gr.HTML(padding=False)
    return image, decision, maps


def add_rows_tab(gr: Any, page: AppPage) -> tuple[Any, ...]:
    """Add the tab for several images: files, folder, counts, table, and the button for the CSV."""
    with gr.Tab("Several images"):
        with gr.Row():
            with gr.Column(min_width=280):
                files = gr.File(file_count="multiple", label="Images", height=160)
            with gr.Column(min_width=280):
                folder = gr.File(file_count="directory", label="Folder", height=160)
        counts = gr.HTML(page.table(ImageRows(), None)[0], padding=False)
        columns: dict[str, Any] = {"headers": list(ROW_HEADERS), "datatype": list(COLUMN_TYPES)}
        table = gr.Dataframe(**columns, interactive=False, show_label=False, wrap=True)
        csv = gr.DownloadButton("Download as CSV", size="sm", interactive=False)
    return files, folder, counts, table, csv


def page_theme() -> Any:
    """Gradio's base theme in fonts that every system has, since others would be downloaded."""
    import gradio as gr

    return gr.themes.Base(primary_hue="sky", neutral_hue="slate", font=list(FONTS), font_mono=list(MONO_FONTS))
