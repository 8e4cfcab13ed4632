"""The model card of a detector on the Hugging Face hub, written from what its file records."""

from collections.abc import Iterator, Mapping
from typing import Any

from ..options.configs import EMBEDDED_BACKBONE
from ..utils.markdown import code_span, escape_markdown

FRONT_MATTER = """---
library_name: clipos-lightning
pipeline_tag: image-classification
tags:
- out-of-distribution-detection
- few-shot-learning
- clip
- open_clip
---
"""
NAMED_CLASSES = 200  # names in the card


def model_card(record: Mapping[str, Any], repo: str) -> str:
    """The card in Markdown: classes, backbone, decision rule, calibration, limits and use.

    Args:
        record: of the detector's file.
        repo: ``owner/name`` on the hub.
    """
    names = record["class_names"]
    shown = ", ".join(map(escape_markdown, names[:NAMED_CLASSES]))
    more = f", and {len(names) - NAMED_CLASSES} more" if len(names) > NAMED_CLASSES else ""
    lines = [
        f"# {escape_markdown(repo.split('/')[-1])}",
        "",
        f"A few-shot out-of-distribution detector: it says which of {len(names)} classes an image shows, or that it "
        "shows none of them. Made with clipos-lightning on a frozen CLIP.",
        "",
        "## Use",
        "",
        "```",
        "pip install clipos-lightning",
        f"clipos predict hf:{repo} photos/",
        "```",
        "",
        "```python",
        "from clipos_lightning import Detector",
        "",
        f'detector = Detector.load("hf:{repo}")',
        'decision = detector("photo.jpg")',
        "print(decision.label, decision.probability)",
        "```",
        "",
        "## What it is",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts(record)),
        "",
        f"Classes: {shown}{more}.",
        "",
        "## Limits",
        "",
        *(f"- {limit}" for limit in limits(record)),
        "",
    ]
    return FRONT_MATTER + "\n" + "\n".join(lines)


def facts(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the detector is, as rows of a table."""
    yield "backbone", f"{code_span(record['backbone'])}, {record['image_size']} pixels"
    weights = f"{record['pretrained'] or 'default'}, fingerprint {record['fingerprint'][:16]}"
    yield "its weights, not in this repository", code_span(weights)
    yield "score", f"{code_span(record['score'])}, higher = more in-distribution"
    threshold = record["threshold"]
    yield "threshold", "none: every image gets a class" if threshold is None else f"{threshold:.6g}"
    if record["class_thresholds"] is not None:
        yield "thresholds by class", "yes"
    yield "temperature of the probabilities", f"{record['temperature']:.4g}"
    point = record["calibration"].get("point")
    if isinstance(point, dict) and {"n", "achieved", "guaranteed"} <= point.keys():
        yield (
            "calibration",
            f"{point['n']} images; {100 * point['achieved']:.1f} % of them are accepted, and at least "
            f"{100 * point['guaranteed']:.1f} % of new ones on average, if they are of the same kind",
        )


def limits(record: Mapping[str, Any]) -> Iterator[str]:
    """What a user should know before using it."""
    yield (
        "The threshold was set for images like those it was calibrated on; for others, calibrate again: "
        "`clipos calibrate`."
        if record["threshold"] is not None
        else "It has no threshold, so it never says unknown: set one with `clipos calibrate`."
    )
    if record["backbone"] == EMBEDDED_BACKBONE:
        yield "MicroCLIP is a tiny model for trying the package out, not for use."
    yield "A detector of images that are none of its classes can be wrong on images unlike all that it was tested on."
