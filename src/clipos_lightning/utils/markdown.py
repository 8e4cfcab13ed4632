"""Names and other text of users in Markdown, shown as they are. Pure functions."""

import re

from ..errors import printable

SPECIAL_MARKS = re.compile(r"[\\|`*<>~&$]|(?<![^\W_])_|_(?![^\W_])|\[(?=[^\]]*\][(\[:])|(?<!\S)#")


def escape_markdown(text: str) -> str:
    r"""Text for Markdown, also in a table: with a backslash before each character that Markdown would interpret.

    Underscores inside words stay, and so do square brackets that make no link. Line breaks are written as ``\n``.

    Example:
        >>> print(escape_markdown("a|b *c* energy_region _d_ [e] [f](g)"))
        a\|b \*c\* energy_region \_d\_ [e] \[f](g)
    """
    return SPECIAL_MARKS.sub(r"\\\g<0>", printable(text))


def code_span(text: str) -> str:
    """Text as code in a line of Markdown, fenced by more backticks than it has in a row.

    Example:
        >>> print(code_span("clipos fit"), code_span("echo `date`"))
        `clipos fit` ``echo `date` ``
    """
    shown = printable(text)
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    inner = f"{' ' * shown.startswith('`')}{shown}{' ' * shown.endswith('`')}"
    return f"{fence}{inner}{fence}"
