"""Messages of InputError: one line that prints, whatever a file is called."""

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from clipos_lightning.errors import InputError, printable

pytestmark = pytest.mark.badinput


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("no file a b.png", "no file a b.png"),
        ("no file a\nb.png", r"no file a\nb.png"),
        ("a\rclipos: error: b", r"a\rclipos: error: b"),
        ("\x1b[31ma\x07", r"\x1b[31ma\x07"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("a\udce9.png", r"a\udce9.png"),  # a byte of a file name that is not UTF-8
        ("C:\\new\\Straße 猫 café", "C:\\new\\Straße 猫 café"),
        ("x InputError: y", "x InputError: y"),
        ("Caught InputError: y", "Caught InputError: y"),
    ],
)
def test_messages_are_one_line_that_prints(text: str, shown: str) -> None:
    error = InputError(f"  {text}\n")
    assert str(error) == shown == printable(text) == printable(shown)
    assert str(pickle.loads(pickle.dumps(error))) == shown


class Broken(Dataset[torch.Tensor]):
    def __init__(self, message: str) -> None:
        self.message = message

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> torch.Tensor:
        raise InputError(self.message)


@pytest.mark.parametrize("name", ["a.png", "a\nb.png", "InputError: x\nInputError: y.png", "Caught InputError in"])
@pytest.mark.parametrize("workers", [0, 1])
def test_messages_of_worker_processes(name: str, workers: int) -> None:
    batches: Any = iter(DataLoader(Broken(f"cannot read image {name}: it is cut off"), num_workers=workers))
    with pytest.raises(InputError) as caught:
        next(batches)
    if workers:
        batches._shutdown_workers()  # when it is collected as garbage, it waits for seconds
    assert str(caught.value) == printable(f"cannot read image {name}: it is cut off")
