"""Checkpoints that were changed: the part is named, and nothing else is raised."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from running import CPU, clipos, done, refused

from clipos_lightning import ClipOS, Detector, InputError
from clipos_lightning.training.checkpoint import data_options, read_checkpoint

pytestmark = pytest.mark.badinput
DEEP: list[Any] = []
for _ in range(99):
    DEEP = [DEEP]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint of one step."""
    root = tmp_path_factory.mktemp("fit")
    words = ("--config", "demo.yaml", "--trainer.max_steps", 1, "--data.validate", "false")
    run = done("fit", *words, "--trainer.default_root_dir", root)
    content: dict[str, Any] = torch.load(run.checkpoint, weights_only=True)
    return content


def changed(content: dict[str, Any], part: str, value: Any, path: Path) -> str:
    """A file in which one part has another value; ``...``: it is missing."""
    content = copy.deepcopy(content)
    *outer, key = part.split("/")
    inner = content
    for name in outer:
        inner = inner[name]
    if value is ...:
        del inner[key]
    else:
        inner[key] = value
    torch.save(content, path / "last.ckpt")
    return str(path / "last.ckpt")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("clipos", []),
        ("clipos/backbone", 3),
        ("clipos/fingerprint", ...),
        ("clipos/class_names", []),
        ("clipos/class_names", ["cat", 2]),
        ("clipos/image_weight", float("nan")),
        ("clipos/image_weight", 2),
        ("clipos/recipe", None),
        ("clipos/recipe", {"optimizer": {"init_args": DEEP}}),
        ("clipos/shots", 3),
        ("hyper_parameters", None),
        ("hyper_parameters/backbone", ...),
        ("hyper_parameters/template", 3),
        ("hyper_parameters/template", ...),
        ("hyper_parameters/seed", "1"),
        ("hyper_parameters/seed", 10**400),
        ("hyper_parameters/objective", DEEP),
        ("hyper_parameters/objective", {"class_path": torch.ones(1)}),
        ("hyper_parameters/outlier_weight", float("inf")),
        ("hyper_parameters/score", ["msp"]),
        ("hyper_parameters/scores", "msp"),
        ("hyper_parameters/class_names", {}),
        ("hyper_parameters/mask/kind", "disc"),
        ("hyper_parameters/mask/top_k", 7),
        ("hyper_parameters/mask/top_k", "0.2"),
        ("hyper_parameters/surgery/kernel_size", 3.5),
        ("hyper_parameters/scoring", []),
        ("hyper_parameters/scoring/temperature", 0),
        ("hyper_parameters/scoring/region_weight", None),
        ("hyper_parameters/context/words", 3),
        ("hyper_parameters/energy_margins", [1.0]),
        ("datamodule_hyper_parameters/shots", "many"),
        ("datamodule_hyper_parameters/ood_sets", "noise"),
        ("datamodule_hyper_parameters/views", ...),
        ("state_dict", []),
        ("state_dict/prompts.context", "a"),
        ("state_dict/prompts.context", torch.eye(4, 128).to_sparse()),
        ("epoch", -1),
        ("optimizer_states", None),
        ("callbacks", DEEP),
        ("loops", object),
    ],
)
def test_a_part_that_does_not_fit(part: str, value: Any, written: dict[str, Any], tmp_path: Path) -> None:
    if value is object:
        value = {"fit_loop": {"state": {1, 2}}}
    path = changed(written, part, value, tmp_path)
    name = part.split("/")[-1]
    with pytest.raises(InputError, match=r"last\.ckpt is (broken|not a checkpoint)[^\n]*; train again$") as caught:
        read_checkpoint(path)
    assert name in str(caught.value) or part.split("/")[0] in str(caught.value)


def test_options_of_a_later_version(written: dict[str, Any], tmp_path: Path) -> None:
    for part in ("hyper_parameters/colour", "hyper_parameters/mask/colour"):
        with pytest.raises(InputError, match=r"written by another version, .* not know: .*colour; up"):
            read_checkpoint(changed(written, part, 1, tmp_path))
    later = read_checkpoint(changed(written, "datamodule_hyper_parameters/colour", 1, tmp_path))  # the model is known
    with pytest.raises(InputError, match=r"written by another version, with options that .* not know: data\.colour"):
        data_options(later)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (lambda t: t[:1], "prompts.context differ"),
        (lambda t: t.double(), "prompts.context differ"),
        (lambda t: t * torch.nan, "prompts.context not finite"),
    ],
)
def test_a_tensor_that_does_not_fit(value: Any, says: str, written: dict[str, Any], tmp_path: Path) -> None:
    path = changed(written, "state_dict/prompts.context", value(written["state_dict"]["prompts.context"]), tmp_path)
    with pytest.raises(InputError, match=rf"last\.ckpt: the checkpoint .*{says}"):
        Detector.load(path, "cpu")


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("pytorch-lightning_version", ..., "pytorch-lightning_version is missing"),
        ("pytorch-lightning_version", "new", "its state of the training cannot be restored"),
        ("loops", ..., "loops is missing"),
        ("loops/fit_loop", ..., "its state of the training cannot be restored (KeyError: 'fit_loop')"),
        ("optimizer_states", [], "optimizer_states is [], expected a list of states"),
    ],
)
def test_a_fit_that_cannot_resume(part: str, value: Any, says: str, written: dict[str, Any], tmp_path: Path) -> None:
    path = changed(written, part, value, tmp_path)
    options = ("--trainer.max_steps", 2, "--trainer.default_root_dir", tmp_path)
    refused(clipos("fit", "--ckpt_path", path, *options, *CPU), "last.ckpt is broken", says)


def test_lightning_loads_a_checkpoint_without_naming_the_frozen_weights(written, tmp_path, recwarn) -> None:
    torch.save(written, tmp_path / "last.ckpt")
    model = ClipOS.load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(model.prompts.context, written["state_dict"]["prompts.context"]) and model.trained
    assert not [str(warning.message) for warning in recwarn if "backbone" in str(warning.message)]
