"""Prompt templates of the classes: one prompt, several, or one of open_clip's lists by its name.

Source: CLIP, Radford et al. 2021, arXiv:2103.00020, section 3.1.4, "prompt engineering and ensembling".
"""

from collections.abc import Sequence

from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES, SIMPLE_IMAGENET_TEMPLATES

from ..errors import InputError

NAMED_TEMPLATES = {  # CLIP's own prompts for ImageNet: the seven best ones, and all
    "imagenet7": [fill("{}") for fill in SIMPLE_IMAGENET_TEMPLATES],
    "imagenet80": [fill("{}") for fill in OPENAI_IMAGENET_TEMPLATES],
}
FORMS = (
    "give a prompt with {} once, in place of the class name; several, each in quotes, like "
    '\'["a photo of a {}.", "a drawing of a {}."]\'; or ' + " or ".join(NAMED_TEMPLATES)
)


def as_templates(given: str | Sequence[str]) -> list[str]:
    """The prompt templates that ``--model.template`` names.

    Args:
        given: a prompt with ``{}`` in place of the class name, several, or a name of :data:`NAMED_TEMPLATES`.

    Returns:
        The templates, each with ``{}`` once.

    Raises:
        InputError: there is none, or one has no ``{}``, or more than one.

    Example:
        >>> as_templates("a photo of a {}."), as_templates("imagenet7")[0], len(as_templates("imagenet80"))
        (['a photo of a {}.'], 'itap of a {}.', 80)
    """
    if isinstance(given, str) and given in NAMED_TEMPLATES:
        return list(NAMED_TEMPLATES[given])
    templates = [given] if isinstance(given, str) else list(given)
    if not templates:
        raise InputError(f"--model.template is an empty list: {FORMS}")
    unquoted = isinstance(given, str) and given.startswith("[")  # a list that YAML cannot read is taken for a text
    wrong = [text for text in templates if unquoted or not isinstance(text, str) or text.count("{}") != 1]
    if wrong:
        raise InputError(f"--model.template: {wrong[0]!r} is not a prompt for any class name: {FORMS}")
    return templates
