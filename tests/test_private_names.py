"""The private names of libraries that the package uses still exist; a new one must be added here."""

import argparse
import ast
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.loggers import WandbLogger
from torchvision.datasets import DTD

import clipos_lightning

QUIET: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
PACKAGE_FILES = sorted(Path(clipos_lightning.__file__).parent.rglob("*.py"))


def method(owner: Any, name: str) -> Callable[[], bool]:
    """Whether a class or a module has a name."""
    return lambda: hasattr(owner, name)


def source(owner: Any, text: str) -> Callable[[], bool]:
    """Whether the source of a class or a function has a text, such as an attribute of its instances."""
    return lambda: text in inspect.getsource(owner)


def has_workspaces_model() -> bool:
    """Whether workspace and report of wandb-workspaces, where it is installed, give the data that they upload."""
    workspaces = pytest.importorskip("wandb_workspaces.workspaces")
    reports = pytest.importorskip("wandb_workspaces.reports.v2")
    return hasattr(workspaces.Workspace, "_to_model") and hasattr(reports.Report, "_to_model")


PRIVATE: dict[str, Callable[[], bool]] = {
    "_AppendAction": method(argparse, "_AppendAction"),
    "_HelpAction": method(argparse, "_HelpAction"),
    "_SubParsersAction": method(argparse, "_SubParsersAction"),
    "_action_groups": lambda: bool(argparse.ArgumentParser()._action_groups),
    "_actions": lambda: bool(argparse.ArgumentParser()._actions),
    "_group_actions": lambda: isinstance(argparse.ArgumentParser()._action_groups[0]._group_actions, list),
    "_option_string_actions": lambda: "--help" in argparse.ArgumentParser()._option_string_actions,
    "_exit": method(os, "_exit"),
    "_restarting": lambda: Trainer(**QUIET).fit_loop._restarting is False,
    "_checkpoint_connector": lambda: callable(Trainer(**QUIET)._checkpoint_connector.dump_checkpoint),
    "_signal_connector": lambda: callable(Trainer(**QUIET)._signal_connector.register_signal_handlers),
    "_add_subcommands": method(LightningCLI, "_add_subcommands"),
    "_dump_config": method(LightningCLI, "_dump_config"),
    "_get": method(LightningCLI, "_get"),
    "_parse_ckpt_path": method(LightningCLI, "_parse_ckpt_path"),
    "_prepare_subcommand_kwargs": method(LightningCLI, "_prepare_subcommand_kwargs"),
    "_prepare_subcommand_parser": method(LightningCLI, "_prepare_subcommand_parser"),
    "_subcommand_parsers": source(LightningCLI, "self._subcommand_parsers"),
    "_trainer": lambda: LightningModule()._trainer is None,
    "_ddp_params_and_buffers_to_ignore": source(
        torch.nn.parallel.DistributedDataParallel, "_ddp_params_and_buffers_to_ignore"
    ),
    "_embeds": method(open_clip.transformer.VisionTransformer, "_embeds"),
    "_image_files": source(DTD, "self._image_files"),
    "_offline": source(WandbLogger, "self._offline"),
    "_save_dir": source(WandbLogger, "self._save_dir"),
    "_to_model": has_workspaces_model,
    "_wandb_init": source(WandbLogger, "self._wandb_init"),
}
DOCUMENTED = {"_replace"}  # of NamedTuple


def private_names() -> set[str]:
    """The private attributes that the package reads, and does not define itself."""
    used, own = set(), set()
    for path in PACKAGE_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
    return used - own - DOCUMENTED


@pytest.mark.parametrize("name", PRIVATE)
def test_a_private_name_of_a_library_exists(name: str) -> None:
    assert PRIVATE[name](), f"{name} is gone: find what replaces it"


def test_all_of_them_are_listed() -> None:
    assert private_names() - set(PRIVATE) == set()
