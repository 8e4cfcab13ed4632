"""The cores that a process may use."""

import os

import pytest

from clipos_lightning.utils.cores import available_cores, default_workers


def test_the_cores_that_a_scheduler_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5, 7, 9}, raising=False)
    assert (available_cores(), default_workers()) == (4, 2)
    monkeypatch.delattr(os, "sched_getaffinity")
    assert (available_cores(), default_workers()) == (64, 8)
