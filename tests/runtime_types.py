"""The type checker that jaxtyping's import hook applies to the package: beartype, accepting int for float."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

FROM_CHECKPOINTS = "ClipOS.__init__"  # gets its options as plain dicts from a checkpoint, as dataclasses otherwise


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its parameters and its result checked at every call; beartype's code is made at the first."""

    @functools.cache
    def checker() -> Callable[..., Any]:
        if function.__qualname__ == FROM_CHECKPOINTS:
            for name, hint in function.__annotations__.items():
                function.__annotations__[name] = hint | dict[str, Any] if dataclasses.is_dataclass(hint) else hint
        return beartype(function, conf=BeartypeConf(is_pep484_tower=True))

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return checker()(*arguments, **named)

    return call
