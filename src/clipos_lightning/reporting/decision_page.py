"""A detector's decision about one image as HTML, for the page of ``clipos app``."""

from functools import cache

import jinja2
from markupsafe import Markup

from .alt_texts import describe_map, picture_texts
from .captions import DELTA, DISTANCE, format_probability
from .heatmaps import Example, map_panels
from .html import color_gradient, read_template
from .paper_figure import Explanation
from .plots import image_uri

PANEL_SIDE = 320  # largest side of an embedded image, in pixels
SCALES = {
    DELTA: "Plain CLIP and S go from 0 to 1, Δ = S − S_clip from −1 to 1; patches that are not ID-relevant are faded.",
    DISTANCE: "Plain CLIP and S go from 0 to 1; the distance of a patch to the known images from 0 to 0.5.",
}


@cache
def template(name: str) -> jinja2.Template:
    """A template of the folder ``templates``."""
    return jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(read_template(name))


def decision_html(explanation: Explanation, label: str, count: int, lowest: float | None = None) -> str:
    """The decision in large letters, score and threshold, the reason in words, and the most probable classes.

    Args:
        explanation: of the image, with the threshold in force.
        label: the decision.
        count: number of classes of the detector.
        lowest: lowest recall that would accept the image; None: not known, or none would.
    """
    text = explanation.text
    return template("decision.html.j2").render(
        accepted=text.accepted,
        label=label,
        score=text.decision[0],
        why=reason(explanation, lowest),
        count=count,
        classes=[(name, value, format_probability(value)) for name, value in explanation.classes],
    )


def reason(explanation: Explanation, lowest: float | None = None) -> str:
    """Why an image got a class, or is unknown.

    Args:
        explanation: of the image, with the threshold in force.
        lowest: lowest recall that would accept the image; None: not known, or none would.
    """
    text = explanation.text
    if text.threshold is None:
        return "Without a threshold every image gets its most probable class."
    if text.accepted:
        return "The score is not below the threshold, so the image gets its most probable class."
    more = "" if lowest is None else f" It would be accepted from a recall of {100 * lowest:g} % on."
    return f"The score is below the threshold, so the image is none of the classes to the detector.{more}"


def maps_html(explanation: Explanation) -> str:
    """The image and its maps side by side, with alternative texts and a scale of the colours."""
    e = explanation
    panels = map_panels(e.image, e.clip, e.surgery, e.mask, distance=e.distance)
    name, probability = e.classes[0]
    example = Example(e.image, e.surgery, e.clip, e.mask, "", e.name, e.shown, probability, e.score)
    alts = picture_texts(example) | {"image": f"the image {e.name}, most probable class {name}"}
    if e.distance is not None:
        alts[DISTANCE] = f"distance of the patches to the known images: {describe_map(e.distance)}"
    return template("maps.html.j2").render(
        panels=[(t, image_uri(pixels, PANEL_SIDE), alts[t], max(pixels.shape) <= 64) for t, pixels in panels.items()],
        gradient=color_gradient(),
        shown=e.shown,
        note=SCALES[DELTA if e.distance is None else DISTANCE],
    )


def message_html(text: str, problem: str = "") -> str:
    """A message in place of a decision; ``problem`` is its heading if something is wrong."""
    if problem:
        return Markup('<div class="message problem"><p>{}</p><p>{}</p></div>').format(problem, text)
    return Markup('<div class="message"><p>{}</p></div>').format(text)
