"""The parser of ``fit``, ``validate``, ``test`` and of grids: shipped configs by name, one-line errors."""

import argparse
import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace, get_loader, set_loader
from jsonargparse.typing import Path_fr
from lightning.pytorch.cli import LightningArgumentParser

from ..errors import InputError
from ..utils.imports import describe_failure
from .class_paths import check_class_paths, import_modules, name_plateau, options_of_command
from .command_line import option_pairs
from .configs import find_config, with_bases
from .finite import check_finite
from .messages import describe_class_problem, reword
from .objective_option import merge_objective, objective_as_configs
from .text_files import read_text_file
from .yaml_files import MAX_MIB, check_yaml

YAML_SUFFIXES = (".yaml", ".yml")
LINKED = ("class_names", "class_wordings")  # model options that are set from the data
STRUCTURE = re.compile(r"[:?&*\[{]|-(\s|$)")  # without these, YAML is one value
parse_value = get_loader("yaml")  # jsonargparse's own, which sets the types of values


def load_checked(text: str) -> Any:
    """Load YAML as jsonargparse does, after :func:`check_yaml`: values on the command line, configs in configs.

    Raises:
        InputError: a key is given twice, or the value is too large or too deeply nested.
        yaml.YAMLError: it is not YAML.
    """
    try:
        if STRUCTURE.search(text):
            check_yaml(text, "cannot read the value of an option")
        return parse_value(text)
    except InputError as error:
        if isinstance(error.__cause__, yaml.YAMLError | ValueError):  # jsonargparse takes it as a plain string
            raise yaml.YAMLError(str(error)) from error
        raise


set_loader("yaml", load_checked, (yaml.YAMLError,))


class PackagedConfig(ActionConfigFile):
    """``--config`` by path or by the name of a shipped config, applied after the configs its ``base`` refers to."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Apply the bases, then the config itself."""
        if not isinstance(values, str):
            super().__call__(parser, cfg, values, option_string)
            return
        if "\n" in values:  # a checkpoint's options, or an objective, as YAML text
            self.apply(parser, cfg, yaml.safe_load(values), option_string)
            return
        for path, options in with_bases(find_config(values)):
            refuse_linked(path, options)
            model = options.get("model")
            if isinstance(model, dict) and "lr_scheduler" in model:
                options = {**options, "model": {**model, "lr_scheduler": name_plateau(model["lr_scheduler"])}}
            for section, value in options.items():
                check_named_files(value, f"{path}: {section}", path.parent)
                for name, item in value.items() if isinstance(value, dict) else ():
                    import_modules(item, f"{path}: {section}.{name}")
            if options:
                with Path_fr(str(path)).relative_path_context():  # files named in a config are relative to it
                    self.apply(parser, cfg, options, option_string)

    def apply(self, parser: Any, cfg: Any, options: dict[str, Any], option_string: str | None) -> None:
        """Apply options; the arguments of an objective join those of the same objective before."""
        model: Any = options.get("model")
        objective = model.get("objective") if isinstance(model, dict) and "model.objective" in cfg else None
        merges = isinstance(objective, str | dict)  # others are left to the parser
        if merges:
            options = {**options, "model": {key: value for key, value in model.items() if key != "objective"}}
        super().__call__(parser, cfg, yaml.safe_dump(options, sort_keys=False), option_string)
        if merges:
            before = cfg.get("model.objective")
            before = before.as_dict() if isinstance(before, Namespace) else before
            cfg["model.objective"] = merge_objective(before, objective)


def check_named_files(value: Any, where: str, folder: Path = Path()) -> None:
    """Check the YAML files that options name, such as ``model.surgery: surgery.yaml``; other values are left alone.

    Args:
        value: plain data.
        where: the option, for the message. Files of class names are left to their reader.
        folder: the folder that relative paths start from.

    Raises:
        InputError: a file is not YAML, or has a key twice.
    """
    if isinstance(value, dict):
        for name, item in value.items():
            check_named_files(item, f"{where}.{name}", folder)
    elif isinstance(value, str) and value.endswith(YAML_SUFFIXES) and not where.endswith("class_names"):
        path = folder / value
        if "\n" not in value and path.is_file():
            what = f"{where}: cannot read"
            check_yaml(read_text_file(path, what, MAX_MIB), f"{what} {path}")


def as_data(text: str) -> Any:
    """The value of an option on the command line as plain data; if it is neither a mapping nor a list, the text."""
    if not text.startswith(("{", "[")):
        return text
    try:
        return load_checked(text)
    except (InputError, yaml.YAMLError, ValueError):
        return text  # the parser reports it


def refuse_linked(path: Path, options: dict[str, Any]) -> None:
    """Check that a config does not set the linked model options, which jsonargparse would silently ignore.

    Raises:
        InputError: it does.
    """
    for name in LINKED:
        if name in (options.get("model") or {}):
            raise InputError(f"{path}: model.{name} is set from the data: set data.class_names to a YAML file instead")


class TrainerParser(LightningArgumentParser):
    """LightningCLI's parser with one-line errors and without the usage in front."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Raise an InputError with a plain message."""
        if isinstance(ex, InputError):
            raise ex
        text = reword(" ".join(str(message).split()))
        wrong = re.match(r"unrecognized arguments: (--[^\s=]+)", text)
        if wrong:
            known = {option for parser in self.every_parser() for option in parser._option_string_actions}
            found = difflib.get_close_matches(wrong[1], known, 1)
            text = f"no option {wrong[1]}" + (f"; did you mean {found[0]}?" if found else f" ({text})")
        raise InputError(text if len(text) <= 400 else text[:397] + "...") from ex

    def parse_args(self, args: Any = None, *more: Any, **kwargs: Any) -> Any:
        """Parse options after checking the files and importing the modules that they name.

        Raises:
            InputError: an option is wrong, or a module cannot be imported.
        """
        for option, value in option_pairs(args or []):
            check_named_files(value, option)
            if option.startswith(("--model.", "--trainer.", "--data.")):
                import_modules(as_data(value), option)
        if args is not None:
            args = objective_as_configs(args, load_checked)
        return super().parse_args(args, *more, **kwargs)

    def instantiate_classes(self, cfg: Any, **kwargs: Any) -> Any:
        """Instantiate the classes of a config after checking what they are, and that its numbers are finite.

        Raises:
            InputError: the optimizer or the scheduler is none of torch's classes, a number is not finite or too large,
                or a class cannot be instantiated.
        """
        plain = cfg.as_dict()
        check_class_paths(plain)
        options = options_of_command(plain)
        for part in ("model", "data"):
            check_finite(options.get(part), f"--{part}")
        try:
            return super().instantiate_classes(cfg, **kwargs)
        except ValueError as error:
            problem = describe_class_problem(str(error), dict(options))
            if problem is None:
                raise
            raise InputError(problem) from error
        except SystemExit as error:  # of a user's class
            raise InputError(f"a class of the options ended the program: {describe_failure(error)}") from error

    def every_parser(self) -> Iterator[Any]:
        """This parser and the parsers of its subcommands."""
        yield self
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from action.choices.values()
