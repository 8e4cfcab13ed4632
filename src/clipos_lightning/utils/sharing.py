"""What is loaded or listed once inside a ``with`` block, and shared by all that ask for it there."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


@contextmanager
def shared_in(memory: ContextVar[dict[KeyT, ValueT] | None]) -> Iterator[None]:
    """Inside the block, ``memory`` holds a dictionary; a block inside another one has the same.

    Args:
        memory: None outside of all blocks.

    Example:
        >>> memory = ContextVar("memory", default=None)
        >>> with shared_in(memory):
        ...     memory.get()["a"] = 1
        ...     with shared_in(memory):
        ...         print(memory.get())
        {'a': 1}
        >>> memory.get() is None
        True
    """
    token = memory.set({} if memory.get() is None else memory.get())
    try:
        yield
    finally:
        memory.reset(token)
