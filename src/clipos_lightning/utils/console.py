"""The console of all tables in a terminal. No torch."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def plain_console(width: int | None) -> "Console":
    """A console that prints names as they are: no rich markup such as ``[red]``, and no emoji such as ``:cat:``.

    Args:
        width: in characters; None: that of the terminal.
    """
    from rich.console import Console  # takes 0.1 s

    return Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
