"""fit, validate and test by LightningCLI: shipped configs by name, a folder for each run, clear errors."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from ..data.datamodule import FewShotOOD
from ..data.image_files import other_kinds
from ..data.image_sets import FolderSet
from ..errors import InputError
from ..options.parser import LINKED, PackagedConfig, TrainerParser, check_precision
from ..reporting.callback import TestReport
from ..training.callbacks import LastCheckpoint, ShotsManifest
from ..training.checkpoint import as_config, model_options, read_checkpoint
from ..training.module import ClipOS
from ..utils.files import atomic_write, new_run_folder
from ..utils.progress import Progress, print_once, process_rank, silence_libraries
from .commands import TRAINER_COMMANDS

RUN_FOLDER = "CLIPOS_RUN_FOLDER"  # tells the processes that DDP starts where the first one writes
FREE_AT_TEST = ("score", "scores", "pretrained", "compile")  # the command line wins over the checkpoint


class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder (and hands it to the loggers)."""

    def __init__(self, parser: Any, config: Namespace, folder: Path, plain: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(parser, config, save_to_log_dir=False)
        self.folder, self.plain = folder, plain

    @rank_zero_only
    def save_config(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Whole or not at all."""
        with atomic_write(self.folder / "config.yaml") as path:
            self.parser.save(self.config, path, skip_none=False, overwrite=True)
        for logger in trainer.loggers:
            if not isinstance(logger, CSVLogger):
                logger.log_hyperparams(self.plain)


class ClipOSCLI(LightningCLI):
    """LightningCLI with runs' folders, the checkpoint as the first configuration, and CSV logs always on."""

    folder: Path
    checkpoint: dict[str, Any] | None = None

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """fit, validate, test."""
        every = LightningCLI.subcommands()
        return {name: every[name] for name in TRAINER_COMMANDS}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """A parser whose --config knows the shipped ones."""
        parser = self.parser_class(**kwargs)
        help_text = "a file, or a shipped config's name (clipos configs); later ones override earlier ones"
        parser.add_argument("-c", "--config", action=PackagedConfig, help=help_text)
        return parser

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Our own tables instead of Lightning's; our own words for what the command does."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, description=TRAINER_COMMANDS[subcommand])
        parser.set_defaults({"weights_only": True} if subcommand == "fit" else {"weights_only": True, "verbose": False})
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Class names flow from the data to the model."""
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """The checkpoint is read first, as a configuration that everything else overrides."""
        words = configs_first(args)
        self.command = shlex.join(["clipos", *args])
        path = value_of(words, "--ckpt_path")
        if path is not None:
            self.checkpoint = read_checkpoint(path)
            base = yaml.safe_dump(as_config(self.checkpoint), sort_keys=False)
            words = [words[0], "--config", base, *words[1:]]
        self.config = parser.parse_args(words)
        given = self.config[self.config.subcommand].ckpt_path
        if given is not None and path is None:
            raise InputError(
                f"ckpt_path {given} stands in a config: give it on the command line, as --ckpt_path {given}"
            )
        trainer = self.config[self.config.subcommand].trainer
        check_precision(trainer.precision)
        if trainer.enable_checkpointing is False:
            raise InputError("--trainer.enable_checkpointing false: a run always writes its last.ckpt; leave it out")
        if self.config.subcommand == "test" and (trainer.fast_dev_run or trainer.limit_test_batches is not None):
            raise InputError("test takes neither limit_test_batches nor fast_dev_run: give --data.limit_per_set N")
        if trainer.accumulate_grad_batches < 1:
            raise InputError(f"--trainer.accumulate_grad_batches is {trainer.accumulate_grad_batches}: at least 1")

    def _parse_ckpt_path(self) -> None:
        """Lightning's way (the checkpoint silently beats the command line) is replaced by parse_arguments."""

    def before_instantiate_classes(self) -> None:
        """Seeds, the check against the checkpoint, the run's folder."""
        config = self.config[self.subcommand]
        seed = config.seed_everything if not isinstance(config.seed_everything, bool) else 1
        for part in (config.data, config.model):
            part.seed = seed if part.seed is None else part.seed
        self._dump_config()
        if self.checkpoint is not None:
            check_against_checkpoint(self.config_dump["model"], model_options(self.checkpoint))

    def instantiate_classes(self) -> None:
        """Data, model, then the trainer; the model learns how it is trained for its checkpoints."""
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule, self.model = self._get(self.config_init, "data"), self._get(self.config_init, "model")
        self.model.recipe = {k: self.config_dump["model"].get(k) for k in ("optimizer", "lr_scheduler")}
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Loggers and callbacks of ours, all writing into the run's folder."""
        trainer = self._get(self.config_init, "trainer")
        self.folder = run_folder(Path(trainer.get("default_root_dir") or "runs"), str(self.subcommand))
        given = trainer.get("logger")
        loggers: list[Logger] = [CSVLogger(self.folder, name="", version="")]
        loggers += given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
        ours: list[Any] = [
            LastCheckpoint(self.folder),
            ShotsManifest(self.folder),
            TestReport(self.folder, self.config_dump, self.command),
        ]
        ours += [Progress()] if trainer.get("enable_progress_bar") is not False else []
        if len(loggers) > 1:
            from ..reporting.wandb_log import Dashboard, place_wandb  # imports wandb, which is slow

            for logger in loggers[1:]:
                place_wandb(logger, self.folder)
            ours.append(Dashboard())
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": ours}
        self.save_config_kwargs = {"folder": self.folder, "plain": self.config_dump}
        try:
            return super().instantiate_trainer(logger=loggers, default_root_dir=str(self.folder), **kwargs)
        except (TypeError, ValueError, MisconfigurationException) as error:
            with suppress(OSError):
                self.folder.rmdir()  # nothing is in it
            raise InputError(f"trainer: {' '.join(str(error).split())}") from error

    def before_fit(self) -> None:
        """What a folder of one's own holds that is no image to us."""
        images = self.datamodule.id_set.train
        if self.datamodule.hparams["id"].startswith("folder:") and isinstance(images, FolderSet):
            left: Counter[str] = sum(
                (other_kinds(images.root / name) for name in self.datamodule.id_set.class_keys), Counter()
            )
            if left:
                kinds = ", ".join(kind or "no suffix" for kind in sorted(left))
                print_once(f"note: {left.total()} files of other kinds left out ({kinds})", sys.stderr)

    def after_fit(self) -> None:
        """What was chosen, and what comes next."""
        if not (self.folder / "last.ckpt").exists():
            raise InputError("nothing was trained: the checkpoint, or no step at all, is where --trainer.max_… ends")
        for note in self.model.notes:
            print_once(note)
        for spec in self.datamodule.ood_specs:
            if spec.folder is not None and not (self.datamodule.root / spec.folder).is_dir():
                print_once(
                    f"note: OOD set {spec.name!r} has no folder {self.datamodule.root / spec.folder}; test will need it"
                )
        checkpoint = shlex.quote(str(self.folder / "last.ckpt"))
        tested = self.datamodule.id_set.test is not None
        root = elsewhere(self.datamodule.root)
        print_once(
            f"{'to decide' if tested else 'next'}: clipos calibrate {checkpoint} IMAGES{root and f' --root {root}'}"
        )
        if tested:
            print_once(f"next: clipos test --ckpt_path {checkpoint}{root and f' --data.root {root}'}")
        self.end()

    def after_validate(self) -> None:
        """The figures, then where it is."""
        figures = {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("val/")}
        for name, value in figures.items():
            print_once(f"{name:<28}{value:7.2f}")
        self.end()

    def end(self) -> None:
        """Where it is; always the last line."""
        print_once(f"run: {self.folder}")

    def after_test(self) -> None:
        """Where it is; always the last line."""
        print_once(f"report: {self.folder / 'report.html'}")
        self.end()


def elsewhere(root: Path) -> str:
    """A run's data root, quoted, where $CLIPOS_DATA would lead the next command to another; else nothing."""
    there = os.environ.get("CLIPOS_DATA")
    moved = there and Path(there).expanduser().resolve() != root.resolve()
    return shlex.quote(str(root.absolute())) if moved else ""


def configs_first(words: Sequence[str]) -> list[str]:
    """The command, its --config options in their order, then everything else: a flag wins wherever it stands."""
    command, configs, rest = list(words[:1]), list[str](), list[str]()
    remaining = iter(words[1:])
    for word in remaining:
        if word in ("-c", "--config"):
            configs += [word, *islice(remaining, 1)]
        else:
            (configs if word.startswith("--config=") else rest).append(word)
    return command + configs + rest


def value_of(words: Sequence[str], option: str) -> str | None:
    """The last value of an option on a command line, ``--x v`` or ``--x=v``; null is none."""
    value = None
    for i, word in enumerate(words):
        if word == option and i + 1 < len(words):
            value = words[i + 1]
        elif word.startswith(f"{option}="):
            value = word.partition("=")[2]
    return None if value in (None, "null", "") else value


def check_against_checkpoint(ours: dict[str, Any], trained: dict[str, Any]) -> None:
    """Model options given beside a checkpoint agree with it, but for those that are free at test time.

    Raises:
        InputError: one differs.
    """
    for key in (k for k in ours if k not in FREE_AT_TEST and k in trained):
        for name, new, old in differences(ours[key], trained[key], key):
            raise InputError(
                f"--model.{name} is {new!r}, but the checkpoint was trained with {old!r}: leave it out, or train again "
                "with it"
            )


def differences(new: Any, old: Any, name: str) -> Iterator[tuple[str, Any, Any]]:
    """Where two plain values differ: dotted name, new, old. Keys that only one of two mappings has do not count."""
    if isinstance(new, dict) and isinstance(old, dict):
        for key in new.keys() & old.keys():
            yield from differences(new[key], old[key], f"{name}.{key}")
    elif (list(new) if isinstance(new, tuple) else new) != (list(old) if isinstance(old, tuple) else old):
        yield name, new, old


def run_folder(root: Path, command: str) -> Path:
    """The run's folder, made by the first process and named to the others by an environment variable."""
    if process_rank() != 0:
        return Path(os.environ.get(RUN_FOLDER, root / command))
    folder = new_run_folder(root, command)
    os.environ[RUN_FOLDER] = str(folder.absolute())
    return folder


class ParserOnly(ClipOSCLI):
    """The parser of fit, validate and test alone: nothing is parsed, instantiated or run."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """No command and no seed."""
        self.config = Namespace(subcommand=None, seed_everything=False)

    def before_instantiate_classes(self) -> None:
        """Nothing is instantiated."""

    def instantiate_classes(self) -> None:
        """Nothing is instantiated."""


def trainer_parsers() -> dict[str, LightningArgumentParser]:
    """The parsers of fit, validate and test."""
    return start([], ParserOnly)._subcommand_parsers


def start(arguments: Sequence[str], cli: type[ClipOSCLI] = ClipOSCLI) -> ClipOSCLI:
    """Build the command line and run the command."""
    return cli(
        ClipOS,
        FewShotOOD,
        args=list(arguments),
        parser_class=TrainerParser,
        save_config_callback=SaveConfig,
        seed_everything_default=1,
        trainer_defaults={"default_root_dir": "runs", "log_every_n_steps": 1, "enable_model_summary": False},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def main(arguments: Sequence[str]) -> None:
    """Run fit, validate or test.

    Args:
        arguments: the command and its options.

    Raises:
        InputError: whatever is wrong with them.
    """
    silence_libraries()
    try:
        start(arguments)
    except MisconfigurationException as error:  # Lightning's own word for trainer options that cannot be
        raise InputError(f"trainer: {' '.join(str(error).split())}") from error
    sys.stdout.flush()
