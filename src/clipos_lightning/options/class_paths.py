"""Classes that options name by their path: what they are is checked before anything is called. No torch."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..utils.imports import import_users

CHECKED = ("optimizer", "lr_scheduler")  # options of the model whose type, a callable, lets any function pass
TAKE_PATHS = ("callbacks", "logger", "profiler", "plugins", *CHECKED)  # options that take a class path as plain text
SAFE = ("torch.optim.", "lightning.pytorch.", "clipos_lightning.")  # what a checkpoint may name

PLATEAU = "lightning.pytorch.cli.ReduceLROnPlateau"  # torch's own has no monitor
PLATEAU_NAMES = ("ReduceLROnPlateau", "torch.optim.lr_scheduler.ReduceLROnPlateau")

RENAMED = {  # prefixes of dotted paths in checkpoints of version 0.1.0: old to new
    "clipos_lightning.losses.": "clipos_lightning.method.objectives.",
    "clipos_lightning.schedule.WarmupCosine": "clipos_lightning.WarmupCosine",
    "clipos_lightning.scores.": "clipos_lightning.evaluation.scores.",
}


def check_class_paths(config: Mapping[str, Any]) -> None:
    """Check that the optimizer and the scheduler are subclasses of torch's; a function would be called as it is.

    Args:
        config: parsed options, of one command or with a key for the command.

    Raises:
        InputError: one is not a class, or not a subclass of torch's.
    """
    for option, path in named_classes(config):
        kind = import_class(path, option)
        if not (isinstance(kind, type) and issubclass(kind, base_classes(option))):
            what = "torch.optim.Optimizer" if option == "optimizer" else "torch.optim.lr_scheduler.LRScheduler"
            raise InputError(f"--model.{option} {path}: not a subclass of {what}")


def import_modules(value: Any, option: str) -> None:
    """Import the modules of the classes that an option names, which the parser would import without naming the option.

    Modules that do not exist are left to the parser.

    Args:
        value: of the option, as plain data.
        option: its name.

    Raises:
        InputError: importing a module fails, or ends the program.

    Example:
        >>> import_modules([{"class_path": "fractions.Fraction", "init_args": {}}], "--trainer.callbacks")
    """
    for path in paths_in(value, option.rstrip("+").rpartition(".")[2] in (*TAKE_PATHS, "class_path")):
        module = path.rpartition(".")[0]
        try:
            import_users(module, path, option.rstrip("+").removesuffix(".class_path"))
        except ModuleNotFoundError as error:
            if error.name is not None and not f"{module}.".startswith(f"{error.name}."):
                raise InputError(f"{option} {path}: no module {error.name!r}, which it imports: install it") from error


def paths_in(value: Any, plain: bool = False) -> Iterator[str]:
    """The class paths in plain data: values of ``class_path``, and text if ``plain``, with at least one dot."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from paths_in(item, key == "class_path")
    elif isinstance(value, list):
        for item in value:
            yield from paths_in(item, plain)
    elif plain and isinstance(value, str) and "." in value and all(map(str.isidentifier, value.split("."))):
        yield value


def name_plateau(given: Any) -> Any:
    """A value of ``lr_scheduler`` with Lightning's ReduceLROnPlateau, which takes a monitor, in place of torch's.

    Args:
        given: a class path, or a mapping with one; other values are returned as they are.

    Example:
        >>> name_plateau("ReduceLROnPlateau")
        'lightning.pytorch.cli.ReduceLROnPlateau'
    """
    if isinstance(given, dict) and "class_path" in given:
        return {**given, "class_path": name_plateau(given["class_path"])}
    return PLATEAU if given in PLATEAU_NAMES else given


def plateau_in_words(words: Sequence[str]) -> list[str]:
    """A command line with :func:`name_plateau` applied to ``--model.lr_scheduler``.

    Example:
        >>> plateau_in_words(["fit", "--model.lr_scheduler=ReduceLROnPlateau"])
        ['fit', '--model.lr_scheduler=lightning.pytorch.cli.ReduceLROnPlateau']
    """
    option = "--model.lr_scheduler"
    return [
        name_plateau(word)
        if before == option
        else f"{option}={name_plateau(word.removeprefix(f'{option}='))}"
        if word.startswith(f"{option}=")
        else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def options_of_command(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the command in a parsed config; a config without a command holds them itself."""
    command = config.get("subcommand")
    return config[command] if command else config


def named_classes(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The options of :data:`CHECKED` that name a class, with its path."""
    model = options_of_command(config).get("model") or {}
    for option in CHECKED:
        path = class_path(model.get(option))
        if isinstance(path, str):
            yield option, path


def class_path(given: Any) -> Any:
    """The class path in plain data: the data itself if it is text."""
    return given.get("class_path") if isinstance(given, Mapping) else given


def import_class(path: str, option: str) -> Any:
    """Import what a class path refers to, without calling it.

    Raises:
        InputError: there is no such object.
    """
    from jsonargparse.util import import_object

    try:
        return import_object(path)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"--model.{option} {path}: {error}") from error


def base_classes(option: str) -> tuple[type, ...]:
    """The classes that an option takes subclasses of."""
    import torch
    from lightning.pytorch.cli import ReduceLROnPlateau

    if option == "optimizer":
        return (torch.optim.Optimizer,)
    return (torch.optim.lr_scheduler.LRScheduler, ReduceLROnPlateau)


def check_recipe(recipe: Mapping[str, Any], source: str) -> None:
    """Check that a checkpoint's optimizer and scheduler are of torch, Lightning or this package, before any import.

    Args:
        recipe: ``optimizer`` and ``lr_scheduler`` as plain data.
        source: name of the file, for the message.

    Raises:
        InputError: another class is named, or the recipe is no plain data.

    Example:
        >>> check_recipe({"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}, "last.ckpt")
    """
    for option, given in recipe.items():
        path = class_path(given)
        if given is not None and (option not in CHECKED or not isinstance(path, str) or not path.startswith(SAFE)):
            raise InputError(
                f"{source} names {path!r} as its {option}, and importing it may run code: fit resumes with optimizers "
                "and schedulers of torch, lightning and clipos_lightning only; train again from the config"
            )


def refuse_imports(path: str | Path, names: Iterable[Any]) -> None:
    """Refuse a file that names user-defined scores or objectives: importing them runs code.

    Args:
        path: the file.
        names: the scores and objectives that it names; those with a dot are user-defined.

    Raises:
        InputError: a name has a dot.
    """
    dotted = [name for name in names if isinstance(name, str) and "." in name]
    if dotted:
        raise InputError(
            f"{path} imports {dotted[0]!r}, which runs code: if you trust the file, add --trust (in Python: trust=True)"
        )


def update_paths(value: Any) -> Any:
    """Plain data in which dotted paths of version 0.1.0 are replaced by the current ones.

    Example:
        >>> update_paths({"class_path": "clipos_lightning.schedule.WarmupCosine"})
        {'class_path': 'clipos_lightning.WarmupCosine'}
    """
    if isinstance(value, dict):
        return {key: update_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [update_paths(item) for item in value]
    if isinstance(value, str):
        for old, new in RENAMED.items():
            value = new + value.removeprefix(old) if value.startswith(old) else value
    return value
