"""The learning rates of CoOp's schedule, epoch by epoch."""

import math
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR

from clipos_lightning.training.schedule import WarmupCosine


def optimizer(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates])


def rates(scheduler, epochs: int) -> list[list[float]]:
    """Each epoch's rate of each group."""
    seen = []
    for _ in range(epochs):
        seen.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(("warmup", "epochs"), [(1, 50), (1, 200), (3, 10), (0, 7), (1, 1)])
def test_a_constant_warm_up_and_then_the_cosine_from_its_start(warmup, epochs):
    seen = rates(WarmupCosine(optimizer(0.002), warmup, 1e-5, epochs), epochs)
    cosine = rates(CosineAnnealingLR(optimizer(0.002), epochs), epochs)  # CoOp's, which waits during the warm-up
    expected = [[1e-5]] * warmup + cosine[: epochs - warmup]
    assert seen == [pytest.approx(rate) for rate in expected]


def test_first_epochs_of_coop_by_hand():
    seen = [rate for (rate,) in rates(WarmupCosine(optimizer(0.002), epochs=50), 50)]
    assert seen[:2] == pytest.approx([1e-5, 0.002])
    assert seen[2] == pytest.approx(0.001 * (1 + math.cos(math.pi / 50)))
    assert seen[49] == pytest.approx(0.001 * (1 + math.cos(math.pi * 48 / 50)))


def test_every_group_warms_up_at_the_same_rate_and_keeps_its_own():
    seen = rates(WarmupCosine(optimizer(0.002, 0.1, 0.0), 2, 1e-4, 10), 3)
    assert seen[0] == pytest.approx([1e-4, 1e-4, 0])
    assert seen[1] == seen[0]
    assert seen[2] == pytest.approx([0.002, 0.1, 0])


def test_the_length_may_be_set_before_training():
    late = WarmupCosine(optimizer(0.002))
    late.epochs = 20
    assert rates(late, 20) == rates(WarmupCosine(optimizer(0.002), epochs=20), 20)


def test_rates_never_rise_again_after_the_end():
    seen = [rate for (rate,) in rates(WarmupCosine(optimizer(1.0), 1, 1e-5, 5), 12)]
    assert seen[1:] == sorted(seen[1:], reverse=True)
    assert seen[-1] == 0


def test_a_resumed_schedule_goes_on_where_it_was():
    whole = WarmupCosine(optimizer(0.002), epochs=10)
    expected = rates(whole, 10)
    first = WarmupCosine(optimizer(0.002), epochs=10)
    rates(first, 4)
    state, of_optimizer = first.state_dict(), first.optimizer.state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = WarmupCosine(optimizer(0.002), epochs=10)
    again.load_state_dict(state)
    again.optimizer.load_state_dict(of_optimizer)
    assert rates(again, 6) == expected[4:]
