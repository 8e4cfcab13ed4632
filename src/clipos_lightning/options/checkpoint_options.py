"""Model options compared with those of the checkpoint. No torch."""

from collections.abc import Iterator
from typing import Any

from ..errors import InputError

FREE_AT_TEST = ("score", "scores", "pretrained", "compile")  # model options that may differ from the checkpoint's


def check_against_checkpoint(given: dict[str, Any], trained: dict[str, Any]) -> None:
    """Check that the model options agree with the checkpoint's, except those that may differ at test time.

    Raises:
        InputError: one differs.
    """
    for key in (k for k in given if k not in FREE_AT_TEST and k in trained):
        for name, new, old in differences(given[key], trained[key], key):
            raise InputError(
                f"--model.{name} is {new!r}, but the checkpoint was trained with {old!r}: leave the option out, or "
                "train again with it"
            )


def differences(new: Any, old: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted name, new and old value wherever two plain values differ; keys of only one mapping are ignored."""
    if isinstance(new, dict) and isinstance(old, dict):
        for key in new.keys() & old.keys():
            yield from differences(new[key], old[key], f"{name}.{key}")
    elif (list(new) if isinstance(new, tuple) else new) != (list(old) if isinstance(old, tuple) else old):
        yield name, new, old
