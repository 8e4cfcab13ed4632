"""Checks of the tensors in a checkpoint against those of the module that loads them."""

from typing import Any

from ..errors import InputError
from ..evaluation.memory import invalid_tensors


def check_state(given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Check that a checkpoint has exactly the expected tensors, with their shapes and types, all finite.

    Args:
        given: name to tensor in the checkpoint.
        expected: name to tensor in the module.

    Raises:
        InputError: a tensor is missing, not expected, of another shape or type, or not finite.
    """
    shapes, expected_shapes = ({k: (v.dtype, *v.shape) for k, v in state.items()} for state in (given, expected))
    names = shapes.keys() | expected_shapes.keys()
    different = sorted(name for name in names if shapes.get(name) != expected_shapes.get(name))
    if different:
        raise InputError(
            f"the checkpoint does not fit the model's options: {', '.join(different)} differ; use the options that it "
            "was trained with"
        )
    infinite = sorted(name for name, tensor in given.items() if not tensor.isfinite().all())
    if infinite:
        raise InputError(f"the checkpoint is broken: {', '.join(infinite)} not finite; train again")


def check_memory(given: dict[str, Any], classes: int, dim: int) -> None:
    """Check that a checkpoint has a complete memory of the few-shot images, or none.

    Args:
        given: name to tensor in the checkpoint.
        classes: C.
        dim: D.

    Raises:
        InputError: a tensor of the memory is missing, or does not fit the others.
    """
    memory = {name.removeprefix("memory_"): t for name, t in given.items() if name.startswith("memory_")}
    wrong = invalid_tensors(memory, classes, dim) if memory else []
    if wrong:
        raise InputError(f"the checkpoint is broken: memory_{wrong[0]} is missing or invalid; train again")
