"""Numbers that are not finite: options are refused, and a training that diverges stops with its last good state."""

import pytest
import torch
from running import CPU, clipos, done, refused, state_of

from clipos_lightning import ClipOS, ContextOptions, InputError
from clipos_lightning.training.divergence import MAX_SKIPPED, DivergenceError, DivergenceGuard

DEMO = ("fit", "--config", "demo.yaml")


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--model.outlier_weight .nan", "--model.outlier_weight is nan"),
        ("--model.outlier_weight .inf", "--model.outlier_weight is inf"),
        ("--model.synthesis.alpha .inf", "--model.synthesis.alpha is inf"),
        ("--model.scoring.temperature .nan", "--model.scoring.temperature is nan"),
        ("--model.mask.threshold=-.inf", "--model.mask.threshold is -inf"),
        ("--model.optimizer.lr .nan", "lr is nan"),
        ("--model.objective energy --model.energy_margins [.nan,1]", "--model.energy_margins is nan"),
    ],
)
def test_options_are_finite(option: str, name: str) -> None:
    refused(clipos(*DEMO, *option.split(), "--trainer.max_steps", 1, *CPU), name)


def test_options_in_python_are_finite() -> None:
    with pytest.raises(InputError, match=r"--model\.outlier_weight is nan: give a finite number"):
        ClipOS(["cat", "dog"], "MicroCLIP", outlier_weight=float("nan"), context=ContextOptions(words="a photo of a"))


def test_a_training_that_diverges_stops_and_keeps_its_last_good_state(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = clipos(
        *DEMO, "--model.optimizer.lr", 1e30, "--trainer.max_steps", 10, "--trainer.default_root_dir", "r", *CPU
    )
    refused(run, "training diverged at step ", "is not finite", "--model.optimizer.lr")
    (checkpoint,) = tmp_path.glob("r/fit-*/last.ckpt")
    context = state_of(str(checkpoint))["prompts.context"]
    first = ClipOS(["cat", "dog"], "MicroCLIP", context=ContextOptions(words="a photo of a")).prompts.context
    torch.testing.assert_close(context, first.detach())  # the first step was the bad one: the words are kept


def test_the_step_and_the_term_are_named() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    guard = DivergenceGuard([parameter])
    parameter.grad = torch.tensor([1.0, torch.inf])
    terms = {"train/id_loss": torch.tensor(1.0), "train/outlier_loss": torch.tensor(torch.nan)}
    with pytest.raises(DivergenceError, match="at step 7: train/outlier_loss is not finite"):
        guard.check(terms, step=7, scaled=False)


def test_a_gradient_scaler_may_skip_some_steps() -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    guard = DivergenceGuard([parameter])
    bad, good = torch.full((2,), torch.nan), torch.ones(2)
    for _ in range(3):
        for gradient in [*[bad] * MAX_SKIPPED, good]:
            parameter.grad = gradient
            guard.check({}, step=0, scaled=True)
    parameter.grad = bad
    with pytest.raises(DivergenceError, match="the gradient is not finite"):
        for _ in range(MAX_SKIPPED + 1):
            guard.check({}, step=0, scaled=True)


def test_a_parameter_that_overflows_in_the_last_step_is_noticed() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    guard = DivergenceGuard([parameter])
    parameter.grad = torch.ones(2)
    guard.check({}, step=0, scaled=False)
    parameter.data[0] = torch.inf
    with pytest.raises(DivergenceError):
        guard.check_parameters({}, step=1)
    assert parameter.tolist() == [1.0, 1.0]


def test_a_training_that_does_not_diverge_is_the_same(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    watched = done(*DEMO, "--trainer.max_steps", 3)
    monkeypatch.setattr(DivergenceGuard, "check", lambda *_, **__: None)
    assert torch.equal(watched.context, done(*DEMO, "--trainer.max_steps", 3).context)
