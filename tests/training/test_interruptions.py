"""A fit that is interrupted anywhere and goes on ends as an undisturbed one: every tensor, to the last digit."""
# ruff: noqa: NPY002 (NumPy's global generator)

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ReduceLROnPlateau

from clipos_lightning import ClipOS, ContextOptions, FewShotOOD, InputError, WarmupCosine
from clipos_lightning.method.objectives import Objective
from clipos_lightning.training import callbacks
from clipos_lightning.training.callbacks import LastCheckpoint
from clipos_lightning.training.checkpoint import read_checkpoint
from clipos_lightning.training.random_state import random_state, restore_random_state

BATCHES = 5  # of an epoch: 20 images, 4 at a time
EPOCHS = 2
QUIET = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)


class Random(Objective):
    """An objective that draws from global generators in each step; the checks of types in tests use Python's own."""

    outliers, unknown = "synthesis", True

    def outlier_loss(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.mean(1) * (torch.rand(()) + np.random.rand())


class Draws(Callback):
    """A callback that draws from the global generators when an epoch and a batch start."""

    def on_train_epoch_start(self, *_: Any) -> None:
        torch.rand(3)

    def on_train_batch_start(self, *_: Any) -> None:
        np.random.rand()


class Interrupt(Callback):
    """Interrupts a fit at one moment of one of its batches, counted over all epochs."""

    def __init__(self, batch: int, moment: str) -> None:
        self.batch, self.moment, self.now, self.raised = batch, moment, -1, False

    def at(self, moment: str) -> None:
        if (self.now, moment) == (self.batch, self.moment):
            self.raised = True
            raise KeyboardInterrupt

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        def spoil(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            """Leave the optimizer's step half done: the parameters are neither the old ones nor the new ones."""
            if (self.now, self.moment) == (self.batch, "inside"):
                optimizer.param_groups[0]["params"][0].data += 1
            self.at("inside")

        trainer.optimizers[0].register_step_post_hook(spoil)

    def on_train_batch_start(self, *_: Any) -> None:
        self.now += 1
        self.at("start")

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.at("gradient")

    def on_train_batch_end(self, *_: Any) -> None:
        self.at("end")

    def on_validation_batch_end(self, *_: Any) -> None:
        self.at("validation")

    def on_train_epoch_end(self, *_: Any) -> None:
        self.at("epoch")


def plateau(optimizer: Any) -> Any:
    """A schedule that depends on the loss at the end of each epoch."""
    return ReduceLROnPlateau(optimizer, monitor="train/loss", patience=0, threshold=10.0)


KINDS: dict[str, dict[str, Any]] = {
    "random": {"objective": {"class_path": f"{__name__}.Random", "init_args": {}}},
    "accumulated": {"accumulate_grad_batches": 2},
    "validated": {"data": {"validate": True}, "val_check_interval": 2},
    "plateau": {"lr_scheduler": plateau},
    "views": {"data": {"views": 2, "batch_size": 8}},
    "image weight": {"model": {"image_weight": "auto"}},
    "over the budget": {"model": {"feature_budget_mb": 0}},
    "patches": {"objective": "entropy"},
    "margins": {"objective": "energy", "optimizer": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)},
}
MOMENTS = ("start", "gradient", "inside", "end", "validation", "epoch", "max_steps")


def fit(
    folder: Path,
    *others: Any,
    resume: Path | None = None,
    objective: Any = "unknown",
    optimizer: Callable[[Any], Any] = lambda p: torch.optim.AdamW(p, lr=0.01),
    lr_scheduler: Callable[[Any], Any] = WarmupCosine,
    model: dict[str, Any] | None = None,
    data: dict[str, Any] | None = None,
    every_n_seconds: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """A fit as the command line's, with a callback that counts epochs; its checkpoint."""
    few = {"id": "scenes", "shots": 2, "batch_size": 4, "limit_per_set": 8, "num_workers": 0}
    images = FewShotOOD(**{**few, **(data or {})})
    schedule = {"optimizer": optimizer, "lr_scheduler": lr_scheduler}
    context = ContextOptions(length=2)
    module = ClipOS(
        images.class_names, "MicroCLIP", objective=objective, context=context, seed=2, **schedule, **(model or {})
    )
    last = LastCheckpoint(folder, every_n_seconds)
    counting = EarlyStopping("train/loss", patience=99, check_on_train_epoch_end=True)
    options = {"accelerator": "cpu", "max_epochs": EPOCHS, **QUIET, **options}
    trainer = Trainer(callbacks=[Draws(), counting, *others, last], **options)
    trainer.callbacks.insert(0, last.snapshots)
    torch.manual_seed(5)
    np.random.seed(5)
    try:
        trainer.fit(module, images, ckpt_path=resume and str(resume / "last.ckpt"), weights_only=True)
    except SystemExit:
        assert any(isinstance(callback, Interrupt) and callback.raised for callback in others)
    return read_checkpoint(str(folder / "last.ckpt"), resume=True)


@cache
def undisturbed(kind: str) -> dict[str, Any]:
    return fit(Path(mkdtemp()), **KINDS[kind])


def difference(one: Any, other: Any, name: str = "") -> list[str]:
    """The names of the parts of two nested values that differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = one.keys() | other.keys()
        return [part for key in keys for part in difference(one.get(key), other.get(key), f"{name}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [part for i, pair in pairs for part in difference(*pair, f"{name}/{i}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [name]


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The checkpoints are of the same state, and Lightning counts the same."""
    parts = ("state_dict", "optimizer_states", "lr_schedulers", "random_state", "epoch", "global_step", "callbacks")
    found = difference({p: one[p] for p in parts}, {p: other[p] for p in parts})
    assert [name for name in found if not name.startswith("/random_state/python")] == []
    counters = ("epoch_progress", "epoch_loop.batch_progress", "epoch_loop.state_dict")
    loops = [checkpoint["loops"]["fit_loop"] for checkpoint in (one, other)]
    assert difference(*({name: loop[name] for name in counters} for loop in loops)) == []


def happens(kind: str, moment: str, batch: int) -> bool:
    """Whether a fit has such a moment, after its first step."""
    every = KINDS[kind].get("accumulate_grad_batches", 1)
    last = batch % BATCHES == BATCHES - 1
    if moment == "validation":
        return kind == "validated" and batch % BATCHES % 2 == 1
    if moment == "max_steps":
        return 0 < batch < (EPOCHS * -(-BATCHES // every))
    trained = batch >= every if moment in ("start", "gradient", "inside") else batch >= every - 1
    steps = (batch % BATCHES + 1) % every == 0 or last
    return trained and (last if moment == "epoch" else steps or moment in ("start", "end"))


EVERYWHERE = [
    (kind, moment, batch)
    for kind in KINDS
    for moment in MOMENTS
    for batch in range(EPOCHS * BATCHES)
    if happens(kind, moment, batch)
]
SAMPLE = [
    *(("random", moment, batch) for moment, batch in (("start", 7), ("inside", 3), ("end", 4), ("epoch", 4))),
    *(("accumulated", "end", 6), ("validated", "validation", 3), ("plateau", "max_steps", 7), ("views", "end", 0)),
    *(("over the budget", "gradient", 2), ("margins", "max_steps", 5)),
]


def interrupt_and_go_on(kind: str, moment: str, batch: int, folder: Path, **length: Any) -> None:
    """Interrupt a fit, go on, and compare with the undisturbed one."""
    options = KINDS[kind]
    if moment == "max_steps":
        stopped = fit(folder / "stopped", **options, max_steps=batch)
        assert stopped["global_step"] == batch
    else:
        fit(folder / "stopped", Interrupt(batch, moment), **options)
    assert_same(undisturbed(kind), fit(folder / "resumed", resume=folder / "stopped", **options, **length))


@pytest.mark.parametrize(("kind", "moment", "batch"), SAMPLE)
def test_an_interrupted_fit_goes_on_exactly(kind: str, moment: str, batch: int, tmp_path: Path) -> None:
    assert (kind, moment, batch) in EVERYWHERE
    interrupt_and_go_on(kind, moment, batch, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_everywhere(kind: str, moment: str, tmp_path: Path) -> None:
    for batch in (batch for *place, batch in EVERYWHERE if place == [kind, moment]):
        interrupt_and_go_on(kind, moment, batch, tmp_path / f"epochs{batch}")
        steps = undisturbed(kind)["global_step"]
        interrupt_and_go_on(kind, moment, batch, tmp_path / f"steps{batch}", max_steps=steps)


@pytest.mark.slow
def test_many_interruptions_of_one_fit(tmp_path: Path) -> None:
    for kind in KINDS:
        stopped: Path | None = None
        for batch in range(1, EPOCHS * BATCHES):
            if not happens(kind, "max_steps", batch):
                continue
            folder = tmp_path / kind / str(batch)
            fit(folder, resume=stopped, **KINDS[kind], max_steps=batch)
            stopped = folder
        assert_same(undisturbed(kind), fit(tmp_path / kind / "end", resume=stopped, **KINDS[kind]))


@pytest.mark.slow
@pytest.mark.parametrize("when", [{"every_n_train_steps": 1}, {"every_n_epochs": 1}])
@pytest.mark.parametrize("at_epoch_end", [False, True])
@pytest.mark.parametrize("max_steps", [-1, EPOCHS * BATCHES])
@pytest.mark.parametrize("validate", [False, True])
def test_the_files_of_model_checkpoint(
    when: dict[str, Any], at_epoch_end: bool, max_steps: int, validate: bool, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"data": {"validate": validate}, "max_steps": max_steps}
    saving = ModelCheckpoint(tmp_path, save_top_k=-1, save_on_train_epoch_end=at_epoch_end or None, **when)
    whole = fit(tmp_path / "whole", saving, **options)
    saved = [path for path in sorted(tmp_path.glob("*.ckpt")) if f"step={EPOCHS * BATCHES}" not in path.name]
    assert saved
    for path in saved:
        path.rename(tmp_path / "last.ckpt")
        resumed = fit(tmp_path / path.stem, resume=tmp_path, **options)
        assert resumed["global_step"] == EPOCHS * BATCHES
        assert difference(resumed["state_dict"], whole["state_dict"]) == []


def test_inside_an_epoch_the_number_of_steps_must_stay(tmp_path: Path) -> None:
    fit(tmp_path / "inside", max_steps=7)
    with pytest.raises(InputError, match=r"inside an epoch of 5 steps, and here an epoch has 2: leave out --data\.bat"):
        fit(tmp_path / "other", resume=tmp_path / "inside", data={"batch_size": 10})
    fit(tmp_path / "end", max_steps=5)
    other = fit(tmp_path / "other", resume=tmp_path / "end", data={"batch_size": 10})
    assert other["global_step"] == BATCHES + 2


# ---- files on the way


class Clock(Callback):
    """A second for each batch; notes how many steps ``last.ckpt`` has when it starts (None: there is no file)."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.steps = path, 0.0, list[int | None]()

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *_: Any) -> None:
        there = self.path.exists()
        self.steps.append(read_checkpoint(str(self.path), resume=True)["global_step"] if there else None)
        self.now += 1


def test_files_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    none = [None] * 10
    for seconds, expected in ((1, [None, *range(9)]), (3, [*none[:3], 2, 2, 2, 5, 5, 5, 8]), (None, none)):
        clock = Clock(tmp_path / str(seconds) / "last.ckpt")
        monkeypatch.setattr(callbacks, "time", clock)
        fit(clock.path.parent, clock, every_n_seconds=seconds)
        assert clock.steps == expected


# ---- the generators


def test_the_state_of_every_generator_comes_back() -> None:
    def draw() -> list[Any]:
        return [torch.rand(3).tolist(), np.random.randn(3).tolist(), random.gauss(0, 1), random.random()]

    device = torch.device("cpu")
    draw()
    state = random_state(device)
    first = draw()
    assert draw() != first
    restore_random_state(state, device)
    assert draw() == first
    with pytest.raises(InputError, match="random_state cannot be restored"):
        restore_random_state({**state, "numpy": {**state["numpy"], "words": state["torch"]}}, device)
