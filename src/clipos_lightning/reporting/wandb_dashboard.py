"""A workspace and a report of W&B for a project with runs of clipos, as code (package wandb-workspaces)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from .wandb_log import BEST, STEP

NAME = "clipos"  # of the workspace
HEADLINE = ("test/average/auroc", "test/average/fpr95")  # of the score of each detector
SWEEP_METRIC = "val/outliers/auroc"
GROUPED: dict[str, Any] = {"groupby": "Group", "groupby_aggfunc": "mean"}
IDS = ("__id__", "id", "created_at", "updated_at")  # keys of a specification that vary


@dataclass(frozen=True)
class Chapter:
    """A section of the workspace, and a chapter of the report.

    Attributes:
        name: the title.
        text: what the panels show.
        panels: in their order.
    """

    name: str
    text: str
    panels: Sequence[Any]


def best_name(metric: str) -> str:
    """The name of a validation metric's best value in the summary of a run.

    Example:
        >>> best_name("val/outliers/fpr95")
        'val/outliers/fpr95.min'
    """
    return f"{metric}.{BEST[metric]}"


def curve(title: str, *metrics: str) -> Any:
    """Metrics against the training step: the mean over the runs of a group, with the range over them."""
    return wr.LinePlot(title=title, x=STEP, y=list(metrics), groupby_rangefunc="minmax", **GROUPED)


def bars(title: str, *metrics: str) -> Any:
    """Figures of the summaries of runs as bars: the mean over the runs of a group, with its standard deviation."""
    chosen: list[Any] = [wr.SummaryMetric(name) for name in metrics]
    return wr.BarPlot(title=title, metrics=chosen, groupby_rangefunc="stddev", **GROUPED)


def training_part() -> Chapter:
    """Losses and validation metrics by step."""
    panels = [
        curve("Loss", "train/loss"),
        curve("Terms of the loss", "train/id_loss", "train/outlier_loss"),
        curve("Validation accuracy, %", "val/accuracy"),
        curve("Validation AUROC, synthesised outliers, %", SWEEP_METRIC),
        curve("Validation FPR95, synthesised outliers, %", "val/outliers/fpr95"),
    ]
    return Chapter("Training", "Mean and range over the seeds of a setting. val/ needs --data.validate true.", panels)


def results_part(scores: Sequence[str]) -> Chapter:
    """Results of tests by OOD set and score.

    Args:
        scores: names of the scores to compare.
    """
    panels = [
        bars("AUROC, average over OOD sets, score of the detector, %", HEADLINE[0]),
        bars("FPR95, average over OOD sets, score of the detector, %", HEADLINE[1]),
        bars("ID accuracy, %", "id/accuracy"),
        bars("AUROC by score, %", *(f"average/{score}/auroc" for score in scores)),
        bars("FPR95 by score, %", *(f"average/{score}/fpr95" for score in scores)),
        wr.WeavePanelSummaryTable(table_name="results"),
    ]
    return Chapter("Results by set and score", "The table holds every detector, OOD set, score and metric.", panels)


def comparison_part() -> Chapter:
    """Runs beside each other."""
    accuracy, auroc = wr.SummaryMetric("id/accuracy"), wr.SummaryMetric(HEADLINE[0])
    panels = [
        wr.ScatterPlot(title="ID accuracy and AUROC, %", x=accuracy, y=auroc),
        wr.RunComparer(diff_only="split"),
    ]
    return Chapter("Comparison of runs", "Each point is a run; below, the options in which runs differ.", panels)


def sweep_part() -> Chapter:
    """Which options matter for the validation metric of the sweeps."""
    figures = (best_name(SWEEP_METRIC), best_name("val/accuracy"))
    columns = [wr.ParallelCoordinatesPlotColumn(metric=wr.Config(name)) for name in SWEPT]
    columns += [wr.ParallelCoordinatesPlotColumn(metric=wr.SummaryMetric(name)) for name in figures]
    panels = [
        wr.ParameterImportancePlot(with_respect_to=figures[0]),
        wr.ParallelCoordinatesPlot(title="Options and validation", columns=columns),
    ]
    return Chapter("Sweeps", f"By {SWEEP_METRIC}: no figure of a test set chooses an option.", panels)


SWEPT = (  # options of the shipped sweep bayes.yaml
    "model.optimizer.init_args.lr",
    "model.outlier_weight",
    "model.synthesis.alpha",
    "model.context.learn",
)


def media_part() -> Chapter:
    """Heat maps, and the table of mistakes."""
    panels = [
        wr.MediaBrowser(title="Heat maps", media_keys=["pictures/classes", "pictures/outside"], num_columns=1),
        wr.WeavePanelSummaryTable(table_name="mistakes"),
    ]
    text = "The table holds the worst mistakes at 95 % ID recall. Curves by OOD set are in the sections roc and pr."
    return Chapter("Images and mistakes", text, panels)


def dashboard_parts(scores: Sequence[str]) -> list[Chapter]:
    """The parts of the dashboard, in their order.

    Args:
        scores: names of the scores to compare.
    """
    return [training_part(), results_part(scores), comparison_part(), sweep_part(), media_part()]


def make_workspace(project: str, entity: str, scores: Sequence[str]) -> Any:
    """The workspace: a section for each part, runs grouped by setting, and sections for all other keys.

    Args:
        project: of W&B.
        entity: user or team; empty: not known.
        scores: names of the scores to compare.
    """
    sections = [ws.Section(name=part.name, panels=list(part.panels), is_open=True) for part in dashboard_parts(scores)]
    columns = ["run:jobType", *(f"summary:{name}" for name in ("id/accuracy", *HEADLINE, best_name(SWEEP_METRIC)))]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=NAME,
        sections=sections,
        settings=ws.WorkspaceSettings(group_by_prefix="first", x_axis=STEP),
        runset_settings=ws.RunsetSettings(groupby=[ws.Metric("Group")], pinned_columns=columns),
        auto_generate_panels=True,
    )


def make_report(project: str, entity: str, scores: Sequence[str]) -> Any:
    """The report: a chapter with text and panels for each part; the arguments are those of make_workspace."""
    blocks: list[Any] = [wr.TableOfContents()]
    for part in dashboard_parts(scores):
        runs = wr.Runset(groupby=["group"])  # of the report's own project; a named one would be looked up by network
        for i, panel in enumerate(part.panels):
            panel.layout = wr.Layout(x=8 * (i % 3), y=8 * (i // 3), w=8, h=8)
        blocks += [wr.H2(part.name), wr.P(part.text), wr.PanelGrid(runsets=[runs], panels=list(part.panels))]
    about = {"title": "Few-shot OOD detection", "description": "Written by clipos dashboard."}
    return wr.Report(project=project, entity=entity, blocks=blocks, width="fluid", **about)


def specification(workspace: Any, report: Any) -> dict[str, Any]:
    """Workspace and report as plain data, as the server gets them but without random IDs and times."""
    parts = {"workspace": workspace, "report": report}
    plain = {k: v._to_model().model_dump(mode="json", by_alias=True, exclude_none=True) for k, v in parts.items()}
    return without_ids(plain)


def without_ids(value: Any) -> Any:
    """Plain data without the keys that vary.

    Example:
        >>> without_ids({"panels": [{"__id__": "x1y2", "viewType": "Bar Chart"}]})
        {'panels': [{'viewType': 'Bar Chart'}]}
    """
    if isinstance(value, dict):
        return {key: without_ids(item) for key, item in value.items() if key not in IDS}
    return [without_ids(item) for item in value] if isinstance(value, list) else value
