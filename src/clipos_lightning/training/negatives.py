"""The negative words of a detector: the user's own, or mined for its classes; how options and checkpoints name them."""

from collections.abc import Sequence
from typing import Annotated, Any

from ..clip.backbone import FrozenClip
from ..clip.text_cache import cached_groups, encode_groups
from ..data.classnames import read_negatives
from ..data.word_lists import WordList, words_for
from ..errors import InputError
from ..method.negative_words import RECIPES, class_tester, mine_words, shuffle_words
from ..options.schema import Fields, Where, find_problem
from ..types import WordTexts

MINED = tuple(RECIPES)
MINED_FIELDS = Fields({"mined": str, "nouns": list[str], "adjectives": list[str]}, closed=True)
MinedRecord = dict[str, Any]  # the words that were mined, with the keys of MINED_FIELDS
Negatives = str | list[str] | MinedRecord  # how to mine words, words of the user, mined words


def is_mined_record(value: Any) -> bool:
    """Whether a value records mined words, at least one."""
    if find_problem(value, MINED_FIELDS) is not None:
        return False
    return value["mined"] in MINED and bool(value["nouns"] or value["adjectives"])


RECORDED_NEGATIVES = (
    list[str] | Annotated[MinedRecord, Where("a list of words, or mined words", is_mined_record)] | None
)


def read_negatives_option(given: Negatives | None) -> Negatives | None:
    """The value of ``--model.negatives``, with the words of a file in place of its path.

    Args:
        given: ``neg_label`` or ``csp``, a file, a list of words, mined words of a checkpoint, or None.

    Raises:
        InputError: the file cannot be read or has no word, or a mapping does not record mined words.

    Example:
        >>> read_negatives_option("csp"), read_negatives_option(["sky"]), read_negatives_option([])
        ('csp', ['sky'], None)
    """
    if isinstance(given, dict) and not is_mined_record(given):
        raise InputError(f"--model.negatives: these are no mined words: take a file, {' or '.join(MINED)}")
    if isinstance(given, str) and given not in MINED:
        return read_negatives(given)
    return list(dict.fromkeys(given)) if isinstance(given, list) and given else given or None


def negatives_name(given: Negatives | None) -> str | list[str] | None:
    """Negative words as on the command line: how they were mined, or the words of the user.

    Example:
        >>> negatives_name({"mined": "csp", "nouns": ["a"], "adjectives": []}), negatives_name(["sky"])
        ('csp', ['sky'])
    """
    return str(given["mined"]) if isinstance(given, dict) else given


def negatives_score(given: Negatives | None) -> str | None:
    """The score that compares with these words: ``csp`` if CSP mined them, else ``neg_label``; None: no words.

    Example:
        >>> negatives_score("csp"), negatives_score(["sky"]), negatives_score("words.txt"), negatives_score(None)
        ('csp', 'neg_label', 'neg_label', None)
    """
    name = negatives_name(given)
    return None if not name else "csp" if name == "csp" else "neg_label"


def mine_negatives(backbone: FrozenClip, names: Sequence[Sequence[str]], how: str) -> tuple[MinedRecord, WordTexts]:
    """Choose the words of the backbone's pool that are least like the classes; encodes the pool if it is not cached.

    Args:
        backbone: the frozen CLIP.
        names: of each of the C classes.
        how: ``neg_label`` or ``csp``.

    Returns:
        The words, and their features, (N, D).
    """
    recipe = RECIPES[how]
    pool = recipe.join(words_for(backbone.name))
    features = encode_groups(backbone, recipe.prompts(pool), "words")
    in_templates = [[t.replace("{}", name) for t in recipe.nouns for name in group] for group in names]
    classes = encode_groups(backbone, in_templates, "classes")
    is_class = class_tester(backbone.tokenize, [name for group in names for name in group])
    order = mine_words(pool, features, classes, recipe.highest, is_class)
    split = len(pool.nouns)
    nouns = [pool.nouns[i] for i in order if i < split]
    adjectives = [pool.adjectives[i - split] for i in order if i >= split]
    record = {"mined": how, "nouns": nouns, "adjectives": adjectives}
    return record, features[order]


def restore_negatives(backbone: FrozenClip, record: MinedRecord) -> WordTexts:
    """The features of a checkpoint's mined words, (N, D): from the cache if their pool is there, else encoded."""
    recipe, words = RECIPES[record["mined"]], WordList(tuple(record["nouns"]), tuple(record["adjectives"]))
    prompts = recipe.prompts(words)
    groups = [prompts[i] for i in shuffle_words(words, range(len(words)))]
    pool = recipe.prompts(recipe.join(words_for(backbone.name)))
    features, row = cached_groups(backbone, pool), {tuple(group): i for i, group in enumerate(pool)}
    if features is not None and all(tuple(group) in row for group in groups):
        return features[[row[tuple(group)] for group in groups]]
    return encode_groups(backbone, groups, "words")
