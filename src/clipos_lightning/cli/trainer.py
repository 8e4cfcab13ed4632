"""``clipos fit``, ``validate`` and ``test``: LightningCLI with shipped configs, run folders and one-line errors."""

import os
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveFloat
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, Logger

from ..data.datamodule import FewShotOOD
from ..data.image_files import count_other_suffixes, describe_left_out
from ..data.image_sets import FolderSet
from ..errors import InputError, printable
from ..options.checkpoint_options import check_against_checkpoint
from ..options.class_paths import plateau_in_words
from ..options.command_line import configs_first, option_value
from ..options.parser import LINKED, PackagedConfig, TrainerParser
from ..options.refusals import report_refusals
from ..options.short_help import CHECKPOINT_HELP, REPLACED_HELP, VERBOSE_HELP, HelpAction
from ..options.trainer_checks import (
    check_precision,
    check_seed,
    check_trainer,
    check_whole_test,
    describe_unwritable,
    report_failed_restore,
)
from ..reporting.callback import TestReport
from ..training.callbacks import LastCheckpoint, Progress, ShotsManifest
from ..training.checkpoint import as_config, model_options, read_checkpoint
from ..training.checkpoint_io import WholeCheckpointIO
from ..training.module import ClipOS
from ..training.negatives import negatives_name, read_negatives_option
from ..training.resuming import check_draw, choose_length
from ..utils.files import expand_home
from ..utils.launcher import is_helper
from ..utils.progress import print_once, set_process_rank, silence_libraries
from .commands import TRAINER_COMMANDS
from .launch import follow_trainer, join_processes, leave_processes
from .run_folder import SaveConfig, root_argument, run_folder
from .signals import advise, resume_advice


class ClipOSCLI(LightningCLI):
    """LightningCLI with a folder per run, CSV logs always on, and the checkpoint's options as the first config."""

    folder: Path
    checkpoint: dict[str, Any] | None = None

    def __init__(self, arguments: Sequence[str], **settings: Any) -> None:
        """Build the parser of the command that is run and no other (0.1 s each), and run it."""
        self.commands = [name for name in TRAINER_COMMANDS if not arguments or name == arguments[0]]
        super().__init__(ClipOS, FewShotOOD, args=list(arguments), **settings)

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # Lightning's is static, called on self
        """The command that is run; without one fit, validate and test."""
        return {name: skipped for name, skipped in LightningCLI.subcommands().items() if name in self.commands}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Create a parser whose ``--config`` also takes the names of shipped configs."""
        parser = self.parser_class(add_help=False, **kwargs)
        parser.add_argument("-h", "--help", action=HelpAction)
        help_text = "config file, or name of a shipped config (`clipos configs`); later ones override earlier ones"
        parser.add_argument("-c", "--config", action=PackagedConfig, help=help_text)
        return parser

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Set the description, and switch off Lightning's own tables of results."""
        text = TRAINER_COMMANDS[subcommand]
        parser = super()._prepare_subcommand_parser(klass, subcommand, description=f"{text[0].upper()}{text[1:]}.")
        parser.add_argument(
            "--checkpoint_every_n_seconds", type=PositiveFloat | None, default=30.0, help=CHECKPOINT_HELP
        )
        parser.set_defaults({"weights_only": True} if subcommand == "fit" else {"weights_only": True, "verbose": False})
        for option in REPLACED_HELP.keys() & parser._option_string_actions.keys():
            parser._option_string_actions[option].help = REPLACED_HELP[option]
        if subcommand != "fit":
            flag = parser._option_string_actions["--verbose"]
            flag.help, flag.nargs, flag.const = VERBOSE_HELP[subcommand], "?", True  # --verbose alone means true
        for group in parser._action_groups:
            if any(action.dest == "ckpt_path" for action in group._group_actions):
                group.title = "Checkpoint"
        parser._action_groups.sort(key=lambda group: "every aspect of training" in str(group.title))  # Trainer: last
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Shorten the usage, which would list all options before their descriptions."""
        super()._add_subcommands(parser, **kwargs)
        for name, subparser in self._subcommand_parsers.items():
            subparser.usage = f"clipos {name} [-c CONFIG ...] [OPTION ...]"

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the class names of the data to the model."""
        for name in LINKED:
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the options on top of the checkpoint's, and check them.

        Raises:
            InputError: an option is wrong.
        """
        words = plateau_in_words(configs_first(args))
        self.command = shlex.join(["clipos", *args])
        path = option_value(words, "--ckpt_path")
        if path is not None:
            self.checkpoint = read_checkpoint(path, resume=words[0] == "fit")
            base = yaml.safe_dump(as_config(self.checkpoint, words[0] == "fit"), sort_keys=False)
            words = [words[0], "--config", base, *words[1:]]
        try:
            self.config = parser.parse_args(words)
        except (OverflowError, UnicodeDecodeError) as error:
            what = "a number is too large" if isinstance(error, OverflowError) else "a file is not UTF-8 text"
            raise InputError(f"{what} among the options: {error}") from error
        check_seed(self.config[self.config.subcommand].seed_everything)
        given = self.config[self.config.subcommand].ckpt_path
        if given is not None and path is None:
            raise InputError(
                f"ckpt_path {given} is set in a config: give it on the command line instead, as --ckpt_path {given}"
            )
        trainer = self.config[self.config.subcommand].trainer
        check_precision(trainer.precision)
        check_trainer(trainer.as_dict())
        if self.config.subcommand == "test":
            check_whole_test(trainer.fast_dev_run, trainer.limit_test_batches)
        if self.config.subcommand == "fit" and self.checkpoint is not None:
            recorded, limited = self.checkpoint["clipos"].get("trainer", {}), trainer.max_time is not None
            given = (trainer.max_epochs, trainer.max_steps, limited)
            trainer.max_epochs, trainer.max_steps = choose_length(*given, recorded)

    def _parse_ckpt_path(self) -> None:
        """Disable Lightning's version, where the checkpoint overrides the command line; see parse_arguments."""

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """The arguments of the Trainer's method; a test's --verbose is for TestReport, not for Lightning."""
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        return {**arguments, "verbose": False} if subcommand == "test" else arguments

    def before_instantiate_classes(self) -> None:
        """Set the seeds, and compare the model options with the checkpoint's."""
        config = self.config[self.subcommand]
        seed = config.seed_everything if not isinstance(config.seed_everything, bool) else 1
        for part in (config.data, config.model):
            part.seed = seed if part.seed is None else part.seed
        for part, option in ((config.trainer, "default_root_dir"), (config.model, "pretrained")):
            part[option] = part[option] and expand_home(str(part[option]))
        try:
            self._dump_config()
        except (ValueError, yaml.YAMLError) as error:
            raise InputError(f"trainer: {describe_unwritable(error)}") from error
        if self.checkpoint is not None:
            named = any(f"--model.{option}" in self.command for option in ("optimizer", "lr_scheduler"))
            trained = model_options(self.checkpoint, named or self.subcommand == "fit")
            model = self.config_dump["model"]
            given = {"negatives": negatives_name(read_negatives_option(model["negatives"]))}
            check_against_checkpoint(model | given, trained | {"negatives": negatives_name(trained["negatives"])})
            config.model.negatives = trained["negatives"]

    def instantiate_classes(self) -> None:
        """Instantiate data, model and trainer; the model keeps its optimizer options for the checkpoints."""
        self.config_init = self.parser.instantiate_classes(self.config)
        self.datamodule, self.model = self._get(self.config_init, "data"), self._get(self.config_init, "model")
        self.model.recipe = {k: self.config_dump["model"].get(k) for k in ("optimizer", "lr_scheduler")}
        if self.checkpoint is not None and self.subcommand != "test":
            self.datamodule.setup("fit")
            check_draw(self.checkpoint, self.datamodule, training=self.subcommand == "fit")
        self.trainer = self.instantiate_trainer()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Create the run's folder, and the trainer with the loggers and callbacks that write into it.

        A folder without files is removed if Lightning refuses an option.
        """
        trainer = self._get(self.config_init, "trainer")
        plugins, peers = join_processes(vars(trainer))
        self.folder = run_folder(Path(trainer.get("default_root_dir") or "runs"), str(self.subcommand), peers)
        if self.subcommand == "fit":
            advise(lambda: resume_advice(self.folder, root_argument(self.datamodule.root)))
        given = trainer.get("logger")
        loggers: list[Logger] = [CSVLogger(self.folder, name="", version="")]
        loggers += given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
        last = LastCheckpoint(self.folder, self._get(self.config_init, "checkpoint_every_n_seconds"))
        callbacks: list[Any] = [
            last,
            ShotsManifest(self.folder),
            TestReport(self.folder, self.config_dump, self.command, self.config_dump.get("verbose", False)),
        ]
        callbacks += [Progress()] if trainer.get("enable_progress_bar") is not False else []
        if len(loggers) > 1:
            from ..reporting.wandb_log import Dashboard, start_wandb  # imports wandb, which is slow

            callbacks.append(Dashboard(self.folder))
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": callbacks}
        self.save_config_kwargs = {"folder": self.folder, "plain": self.config_dump, "command": self.command}
        try:
            own = {"logger": loggers, "default_root_dir": str(self.folder), "plugins": plugins}
            trainer = super().instantiate_trainer(**own, **kwargs)
        except Exception:
            with suppress(OSError):
                self.folder.rmdir()  # it is empty
            raise
        trainer.callbacks.insert(0, last.snapshots)  # type: ignore[attr-defined]  # before others change the state
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = WholeCheckpointIO()
        follow_trainer(trainer)
        for logger in loggers[1:]:
            start_wandb(logger, self.folder, str(self.subcommand), self.config_dump, self.tested_checkpoint())
        return trainer

    def tested_checkpoint(self) -> Path | None:
        """The checkpoint of a validation or a test; None: there is none, or it is trained further."""
        path = self.config_dump.get("ckpt_path")
        return Path(path) if path and self.subcommand != "fit" else None

    def before_fit(self) -> None:
        """Warn about non-image files in a user's folder."""
        images = self.datamodule.id_set.train
        if self.datamodule.hparams["id"].startswith("folder:") and isinstance(images, FolderSet):
            others: Counter[str] = sum(
                (count_other_suffixes(images.root / name) for name in self.datamodule.id_set.class_keys), Counter()
            )
            if others:
                print_once(printable(f"note: {describe_left_out(others)}"), sys.stderr)

    def after_fit(self) -> None:
        """Print the module's notes and the commands to run next.

        Raises:
            InputError: no step was trained.
        """
        if self.trainer.is_global_zero and not (self.folder / "last.ckpt").exists():
            raise InputError(
                "fit ran 0 steps: --trainer.max_steps, max_epochs, max_time or limit_train_batches is 0, or the "
                "checkpoint has already reached it; increase it"
            )
        advise(lambda: f"the training is complete: {self.folder / 'last.ckpt'}")
        for note in self.model.notes:
            print_once(note, sys.stderr if note.startswith("warning:") else sys.stdout)
        for spec in self.datamodule.ood_specs:
            if spec.folder is not None and not (self.datamodule.root / spec.folder).is_dir():
                print_once(
                    f"note: the folder of OOD set {spec.name!r} is missing, and test needs it: "
                    f"{self.datamodule.root / spec.folder}"
                )
        self.print_validation()
        checkpoint = shlex.quote(str(self.folder / "last.ckpt"))
        has_test = self.datamodule.id_set.test is not None
        root = root_argument(self.datamodule.root)
        print_once(
            f"{'to predict' if has_test else 'next'}: clipos calibrate {checkpoint} IMAGES{root and f' --root {root}'}"
        )
        if has_test:
            print_once(f"next: clipos test --ckpt_path {checkpoint}{root and f' --data.root {root}'}")
        self.print_run_folder()

    def after_validate(self) -> None:
        """Print the metrics and the run's folder."""
        self.print_validation()
        self.print_run_folder()

    def print_validation(self) -> None:
        """Print the metrics of the last validation, if there was one."""
        for name, value in self.trainer.callback_metrics.items():
            if name.startswith("val/"):
                print_once(f"{name:<28}{float(value):7.2f}")

    def after_test(self) -> None:
        """Print the mined words, the report's file and the run's folder."""
        for line in self.model.describe_negatives():
            print_once(line)
        if self.datamodule.ood_specs and not self.config_dump["verbose"]:
            print_once("every score: in the report, or here with --verbose")
        print_once(f"report: {self.folder / 'report.html'}")
        self.print_run_folder()

    def print_run_folder(self) -> None:
        """Print the run's folder, always the last line; before it, on stderr, what is not known about new weights."""
        if self.model.backbone.note and self.checkpoint is None:
            print_once(f"note: {self.model.backbone.note}", sys.stderr)
        print_once(f"run: {self.folder}")


class ParserOnly(ClipOSCLI):
    """Builds the parsers of fit, validate and test, but parses, instantiates and runs nothing."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Set a config without command and seed."""
        self.config = Namespace(subcommand=None, seed_everything=False)

    def before_instantiate_classes(self) -> None:
        """Nothing is instantiated."""

    def instantiate_classes(self) -> None:
        """Nothing is instantiated."""


def trainer_parsers() -> dict[str, LightningArgumentParser]:
    """The parsers of fit, validate and test."""
    return start([], ParserOnly)._subcommand_parsers


def start(arguments: Sequence[str], cli: type[ClipOSCLI] = ClipOSCLI) -> ClipOSCLI:
    """Parse the arguments and run the command."""
    return cli(
        arguments,
        parser_class=TrainerParser,
        save_config_callback=SaveConfig,
        seed_everything_default=1,
        trainer_defaults={"default_root_dir": "runs", "log_every_n_steps": 1, "enable_model_summary": False},
        auto_configure_optimizers=False,
        load_from_checkpoint_support=False,
    )


def main(arguments: Sequence[str]) -> Path:
    """Run ``clipos fit``, ``validate`` or ``test``; returns the run's folder.

    Args:
        arguments: the command and its options.

    Raises:
        InputError: the options or the data are wrong.
    """
    silence_libraries()
    set_process_rank(int(is_helper(os.environ)))
    if arguments[0] != "fit":  # EarlyStopping and others, which the checkpoint names, are for training
        warnings.filterwarnings("ignore", "Be aware that when using `ckpt_path`, callbacks used")
    checkpoint = option_value(configs_first(arguments), "--ckpt_path")
    with report_refusals(arguments), report_failed_restore(checkpoint):
        folder = start(arguments).folder
    sys.stdout.flush()
    leave_processes()
    return folder
