"""Reading a command line before the parser does. No torch."""

from collections.abc import Sequence


def configs_in(words: Sequence[str]) -> list[str]:
    """The values of ``-c`` and ``--config``, in their order.

    Example:
        >>> configs_in(["fit", "-c", "a.yaml", "--model.score", "mcm", "--config=b.yaml"])
        ['a.yaml', 'b.yaml']
    """
    return option_values(words, "-c", "--config")


def configs_first(words: Sequence[str]) -> list[str]:
    """Move the ``--config`` options, in their order, before all others, so that flags always override configs.

    Example:
        >>> configs_first(["fit", "--model.score", "mcm", "-c", "a.yaml"])
        ['fit', '-c', 'a.yaml', '--model.score', 'mcm']
    """
    is_config = [word in ("-c", "--config") or word.startswith("--config=") for word in words]
    is_config = [here or (k > 0 and words[k - 1] in ("-c", "--config")) for k, here in enumerate(is_config)]
    configs, rest = ([w for w, found in zip(words, is_config, strict=True) if found is kind] for kind in (True, False))
    return [*rest[:1], *configs, *rest[1:]]


def option_value(words: Sequence[str], option: str) -> str | None:
    """The last value of an option, given as ``--x v`` or ``--x=v``; None if it is missing or null."""
    values = option_values(words, option)
    return values[-1] if values and values[-1] not in ("null", "") else None


def option_pairs(words: Sequence[str]) -> list[tuple[str, str]]:
    """All options with their values, given as ``--x v`` or ``--x=v``.

    Example:
        >>> option_pairs(["fit", "--model.score", "mcm", "--config=b.yaml"])
        [('--model.score', 'mcm'), ('--config', 'b.yaml')]
    """
    pairs = []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("-") and (equals or after):
            pairs.append((name, value if equals else after))
    return pairs


def option_values(words: Sequence[str], *options: str) -> list[str]:
    """All values of an option under one of its names, given as ``--x v`` or ``--x=v``."""
    found = []
    for k, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name in options and (equals or k + 1 < len(words)):
            found.append(value if equals else words[k + 1])
    return found
