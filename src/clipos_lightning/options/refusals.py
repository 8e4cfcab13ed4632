"""Errors that Lightning, jsonargparse or torch's optimizers raise because of an option's value, as one line. No torch.

They are told from defects of this package by where their frames are: the user's options are called through by the
command line alone, without a function of the method or the data in between.
"""

import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError
from .command_line import option_pairs
from .trainer_checks import PACKAGE

DOORS = (
    *("cli/launch.py", "cli/main.py", "cli/trainer.py"),
    *("options/parser.py", "options/refusals.py", "options/trainer_checks.py"),
)
PASSED_ON = ("configure_optimizers", "planned_epochs")  # functions of ours that only pass a user's options on
LIBRARIES = ("/lightning/", "/lightning_utilities/", "/jsonargparse/")
OPTIMIZERS = {"/torch/optim/lr_scheduler.py": "--model.lr_scheduler", "/torch/optim/": "--model.optimizer"}
PLUG_INS = {  # what a user adds to the Trainer
    "/callbacks/": "--trainer.callbacks",
    "/loggers/": "--trainer.logger",
    "/profilers/": "--trainer.profiler",
    "/tuner/": "--trainer.callbacks",
}
PARTS = {
    **OPTIMIZERS,
    **PLUG_INS,
    "/accelerators/": "--trainer.accelerator",
    "/plugins/precision/": "--trainer.precision",
    "/plugins/": "--trainer.plugins",
    "/strategies/": "--trainer.strategy",
}
LONGEST_REFUSAL = 500  # characters of a message
REFUSALS = (ValueError, TypeError, RuntimeError, ImportError)  # and Lightning's MisconfigurationException


@contextmanager
def report_refusals(arguments: Sequence[str]) -> Iterator[None]:
    """Report what a library refuses as an InputError of one line that names the option; other errors pass.

    Args:
        arguments: the command and its options.
    """
    try:
        yield
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        option = refused_option(error, [(Path(frame.filename), frame.name) for frame in frames])
        if option is None:
            raise
        message = " ".join(str(error).split())
        given = {name.rstrip("+"): value for name, value in option_pairs(arguments) if name.startswith("--trainer.")}
        of_plug_in = option in PLUG_INS.values() and option in given
        named = option if of_plug_in else named_option(message, given) or option
        value = given.get(named)
        plain = message and (isinstance(error, REFUSALS) or type(error).__name__ == "MisconfigurationException")
        text = message if plain else f"{type(error).__name__} {message}".strip()
        line = f"{named}{f' {value}' if value else ''}: {text}"
        raise InputError(line if len(line) <= LONGEST_REFUSAL else f"{line[:LONGEST_REFUSAL]}…") from error


def refused_option(error: Exception, frames: Sequence[tuple[Path, str]]) -> str | None:
    """The option whose value a library refused, by the library's part that raised; None: a defect, or a user's code.

    Args:
        error: what was raised.
        frames: file and function of each frame of its traceback, the innermost last.
    """
    files = [file.as_posix() for file, _ in frames]
    libraries = [i for i, file in enumerate(files) if any(part in file for part in (*LIBRARIES, *OPTIMIZERS))]
    if not libraries or not all(passes_on(*frame) for frame in frames):
        return None
    last = libraries[-1]
    of_optimizer = any(part in files[last] for part in OPTIMIZERS)
    of_plug_in = any(part in files[last] for part in PLUG_INS)
    refuses = isinstance(error, REFUSALS) or type(error).__name__ == "MisconfigurationException"
    if not of_plug_in and (last < len(files) - 1 or not (of_optimizer or refuses)):
        return None
    inside_out = [files[i] for i in reversed(libraries)]
    return next((option for file in inside_out for part, option in PARTS.items() if part in file), "trainer")


def passes_on(file: Path, function: str) -> bool:
    """Whether a frame is not of this package, or of its command line, or only passes a user's option on."""
    if PACKAGE not in file.parents:
        return True
    return file.relative_to(PACKAGE).as_posix() in DOORS or function in PASSED_ON


def named_option(message: str, given: Mapping[str, str]) -> str | None:
    """The option that a message is about: one on the command line whose name or value it holds, or one it sets.

    Args:
        message: of the error.
        given: the options of the Trainer on the command line, with their values.

    Example:
        >>> named_option("`max_epochs` must be at least -1", {"--trainer.devices": "1", "--trainer.max_epochs": "-2"})
        '--trainer.max_epochs'
        >>> named_option("no gpu backend found", {"--trainer.accelerator": "gpu"})
        '--trainer.accelerator'
    """
    if "lr scheduler" in message:
        return "--model.lr_scheduler"
    words = re.findall(r"\w+", message)
    names = [name for name in given if name.removeprefix("--trainer.") in words]
    if names:
        return min(names, key=lambda name: words.index(name.removeprefix("--trainer.")))
    for name, value in given.items():
        if repr(value) in message or (len(value) > 2 and value in words):
            return name
    found = re.search(r"`(?:Trainer\()?(\w+)=", message)
    return f"--trainer.{found[1]}" if found else None
