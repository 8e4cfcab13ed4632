"""Which scores a detector has, by their names: the default one, those of a report, and what a missing one needs."""

from collections.abc import Iterable, Sequence

from ..errors import InputError
from ..method.family import family_scores
from .scores import SCORES, find_score, known_scores


def default_score(has_unknown: bool) -> str:
    """The detector's score if none is chosen: ``msp_unknown``, or ``msp`` without an "unknown" prompt."""
    return "msp_unknown" if has_unknown else "msp"


def reported_scores(
    chosen: Sequence[str] | None,
    score: str,
    has_unknown: bool,
    has_memory: bool = False,
    negatives: str | None = None,
    own: Sequence[str] = (),
) -> list[str]:
    """The scores of a report: the chosen ones, else all that are defined; the detector's score is always included.

    Example:
        >>> reported_scores(["energy"], "msp", has_unknown=False)
        ['energy', 'msp']
    """
    defined = [*defined_scores(has_unknown, has_memory, negatives), *own]
    return list(dict.fromkeys([*(chosen or defined), score]))


def defined_scores(has_unknown: bool, has_memory: bool = False, negatives: str | None = None) -> list[str]:
    """Names of the scores of a detector with or without an "unknown" prompt, a memory of ID images, negative words.

    Those that belong to a method are not among them.

    Args:
        has_unknown: whether it has an "unknown" prompt.
        has_memory: whether it has a memory.
        negatives: the score that compares with its negative words, ``neg_label`` or ``csp``; None: it has no words.

    Example:
        >>> defined_scores(has_unknown=False)[:3], len(defined_scores(has_unknown=True, has_memory=True))
        (['msp', 'mcm', 'gl_mcm'], 19)
    """
    missing = {"unknown": not has_unknown, "memory": not has_memory, "negatives": negatives is None}
    needs = [part for part, is_missing in missing.items() if is_missing]
    found = [name for name, score in SCORES.items() if not any(getattr(score, part) for part in needs)]
    return [name for name in found if name == negatives or not SCORES[name].negatives]


def without_memory(names: Iterable[str]) -> list[str]:
    """The scores that need no memory of ID images.

    Example:
        >>> without_memory(["knn", "msp"])
        ['msp']
    """
    return [name for name in names if not find_score(name).memory]


def of_any_method(names: Iterable[str]) -> list[str]:
    """The scores that do not belong to one method, and need no texts of its own.

    Example:
        >>> of_any_method(["fa", "msp"])
        ['msp']
    """
    return [name for name in names if name not in family_scores() and not find_score(name).further]


def in_order(names: Iterable[str]) -> list[str]:
    """Unique names in the order of ``SCORES``, then those of methods, then user-defined ones in the given order.

    Example:
        >>> in_order(["my_parts.margin", "energy", "msp"])
        ['msp', 'energy', 'my_parts.margin']
    """
    given, known = list(dict.fromkeys(names)), known_scores()
    return [name for name in known if name in given] + [name for name in given if name not in known]


def check_scores(
    names: Iterable[str], has_unknown: bool, negatives: str | None, option: str, own: Sequence[str] = ()
) -> None:
    """Check that a detector with or without an "unknown" prompt and negative words has all these scores.

    Args:
        names: of the scores.
        has_unknown: whether it has an "unknown" prompt.
        negatives: the score that compares with its negative words; None: it has none.
        option: that the names were given with, for messages.
        own: the scores of its method.

    Raises:
        InputError: a name is unknown, or its score needs what is missing; lists the scores to choose from.
    """
    choice = f"take one of {', '.join([*defined_scores(has_unknown, True, negatives), *own])}"
    for name in names:
        if name in own:
            continue
        if name in family_scores():
            raise InputError(f"{option} {name!r} is the score of another method than this --model.objective: {choice}")
        if name not in SCORES and "." not in name:
            raise InputError(f"{option} {name!r} is not a score: {choice}, or package.module.function")
        score = find_score(name)
        if score.negatives and (negatives is None or (name in SCORES and name != negatives)):
            raise InputError(f"{option} {name!r} {describe_missing_words(name, negatives)}")
        if score.further:
            raise InputError(f"{option} {name!r} needs further prompts, which this objective does not have: {choice}")
        if score.unknown and not has_unknown:
            raise InputError(
                f"{option} {name!r} needs an unknown prompt, which this objective does not have: {choice}, or "
                "package.module.function"
            )


def describe_missing_words(name: str, negatives: str | None) -> str:
    """Why a score that compares with negative words is not defined, and what to do.

    Args:
        name: of the score.
        negatives: as for :func:`defined_scores`.

    Example:
        >>> describe_missing_words("csp", "neg_label")
        'compares with words that CSP mined: give --model.negatives csp, or take the score neg_label'
    """
    if negatives is None:
        how = "csp" if name == "csp" else "FILE, or neg_label to mine them"
        return f"needs words that are none of the classes: give --model.negatives {how}"
    whose, how = ("that CSP mined", "csp") if name == "csp" else ("of NegLabel or of a file", "neg_label or FILE")
    return f"compares with words {whose}: give --model.negatives {how}, or take the score {negatives}"
