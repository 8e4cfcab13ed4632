"""A user's own Trainer: the same errors as on the command line, and no warnings about what this package does."""

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from running import CPU, clipos, refused
from torch.utils.data import DataLoader

from clipos_lightning import ClipOS, ContextOptions, FewShotOOD, InputError, TestReport
from clipos_lightning.utils.quiet import EXPECTED_WARNINGS, ignore_expected_warnings, restore_expected_warnings

QUIET = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)


def own_trainer(*callbacks: Any, **options: Any) -> Trainer:
    return Trainer(accelerator="cpu", callbacks=[*callbacks], **{**QUIET, **options})


def scenes(**options: Any) -> FewShotOOD:
    return FewShotOOD(id="scenes", ood_sets=["noise"], limit_per_set=4, num_workers=0, **options)


def detector(data: FewShotOOD) -> ClipOS:
    return ClipOS(data.class_names, "MicroCLIP", score="energy", scores=["energy"], context=ContextOptions(length=4))


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"fast_dev_run": True}, ("--trainer.fast_dev_run", "true")),
        ({"limit_test_batches": 1}, ("--trainer.limit_test_batches", "1")),
        ({"limit_test_batches": 0.5}, ("--trainer.limit_test_batches", "0.5")),
        ({"precision": "16-true"}, ("--trainer.precision", "16-true")),
    ],
)
def test_a_report_is_refused_as_on_the_command_line(
    options: dict[str, Any], flags: tuple[str, str], tmp_path: Path
) -> None:
    data = scenes()
    with pytest.raises(InputError) as error:
        own_trainer(TestReport(tmp_path / "report"), **options).test(detector(data), data, verbose=False)
    assert not (tmp_path / "report").exists()
    run = clipos("test", "--config", "demo.yaml", *CPU, "--trainer.default_root_dir", tmp_path, *flags)
    refused(run, str(error.value))
    assert not list(tmp_path.iterdir())  # not even the run's folder


def test_all_test_batches_are_a_whole_test(tmp_path: Path) -> None:
    data = scenes()
    with redirect_stdout(io.StringIO()):
        own_trainer(TestReport(tmp_path), limit_test_batches=1.0).test(detector(data), data, verbose=False)
    assert (tmp_path / "report.json").exists()


def test_half_precision_is_refused_in_fit_too() -> None:
    data = scenes()
    with pytest.raises(InputError, match=r"--trainer\.precision bf16-true"):
        own_trainer(precision="bf16-true", max_epochs=1).fit(detector(data), data)


def test_other_data_and_other_modules_are_refused(tmp_path: Path) -> None:
    loader: Any = DataLoader([torch.zeros(1)])
    data = scenes()
    with pytest.raises(InputError, match=r"takes its images from a FewShotOOD"):
        own_trainer(max_epochs=1).fit(detector(data), loader)
    with pytest.raises(InputError, match="TestReport reports a test of ClipOS, not of Other"):
        own_trainer(TestReport(tmp_path)).test(Other(), loader)


class Other(LightningModule):
    """A user's own module, without parameters that learn."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Warn as Lightning does."""
        warnings.warn("Found 3 module(s) in eval mode at the start of training", stacklevel=1)
        warnings.warn("a warning of the user", stacklevel=1)


def test_fit_and_test_cause_no_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning.pytorch.trainer.connectors.data_connector.suggested_max_num_workers", lambda _: 8)
    data = scenes(shots=2, batch_size=4)
    with warnings.catch_warnings(record=True) as caught, redirect_stdout(io.StringIO()):
        warnings.simplefilter("always")
        trainer = own_trainer(TestReport(tmp_path), max_epochs=1, log_every_n_steps=50)
        created = len(caught)  # what the user's Trainer warns about itself
        model = detector(data)
        trainer.fit(model, data)
        trainer.test(model, data, verbose=False)
        own_trainer(max_epochs=2, val_check_interval=1).fit(model, scenes(shots=2, batch_size=4, validate=True))
    assert [str(warning.message) for warning in caught[created:]] == []


def test_other_warnings_stay_and_ours_are_hushed_for_our_module_only() -> None:
    data, loader = scenes(), DataLoader([torch.zeros(1)])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        own_trainer(max_epochs=1).fit(detector(data), data)
        own_trainer().test(Other(), loader, verbose=False)
    messages = [str(warning.message) for warning in caught]
    assert "a warning of the user" in messages
    assert any(message.startswith("Found 3 module(s)") for message in messages)


def test_filters_are_restored() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "of the user")
        before = list(warnings.filters)
        ignore_expected_warnings()
        ignore_expected_warnings()  # fit, then test
        assert len(warnings.filters) == len(before) + len(EXPECTED_WARNINGS)
        restore_expected_warnings()
        assert list(warnings.filters) == before
