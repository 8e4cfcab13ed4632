"""Entry point: help, version, list of configs, and errors in command or config names, all without importing torch."""

import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from errno import EBADF, ENOSPC
from importlib import import_module
from types import ModuleType

from .. import __version__
from ..errors import InputError, printable
from ..options.command_line import configs_in
from ..options.configs import find_config, shipped_configs, shipped_grids, with_bases
from .commands import COMMANDS, OWN_PARSERS, TRAINER_COMMANDS

OUT_OF_MEMORY = re.compile(
    "(?i)can't allocate memory|not enough memory|out of memory|storage size calculation overflow"
)
ALLOCATION = re.compile(r"(?i)allocate (\d[\d.,]* (?:bytes|[KMGTPE]i?B))")
TRAINER_OPTIONS = (  # options of fit, validate and test, up to the first dot
    *("config", "c", "help", "h", "print_config", "seed_everything", "ckpt_path", "weights_only"),
    *("trainer", "model", "data"),
)
HELP = f"""clipos {__version__}: few-shot out-of-distribution detection with CLIP (CLIP-OS, arXiv:2404.00323)

usage: clipos COMMAND [OPTIONS]

commands:
{chr(10).join(f"  {name:<12}{text}" for name, text in COMMANDS.items())}

examples:
  clipos fit --config demo.yaml                    train on the embedded data set; prints the next command
  clipos test --ckpt_path runs/fit-…/last.ckpt     AUROC, FPR95 and AUPR per OOD set and score, with an HTML report
  clipos test --config demo.yaml                   test the zero-shot detector, without training
  clipos calibrate runs/fit-…/last.ckpt known/     set the threshold for 95 % ID recall; writes detector.safetensors
  clipos predict detector.safetensors photos/      the class of each image, or unknown; --out FILE.csv or FILE.jsonl
  clipos explain detector.safetensors a.jpg        a figure of the similarity maps and the decision for an image
  clipos benchmark main                            compare methods on the embedded data set
  clipos data list                                 the data sets that can be downloaded

`clipos COMMAND --help` shows the options of a command; for fit, validate and test, `--help all` shows Lightning's, too.
`--config` takes a file or the name of a shipped config.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        The exit code: 0 success, 1 a bug in clipos, 2 wrong input or a missing file, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # reproducible: CPU sums do not depend on threads or batch size
    try:
        return dispatch(arguments)
    except InputError as error:
        return report_error(str(error))
    except KeyboardInterrupt:
        return interrupted()
    except SystemExit as stop:  # from argparse after --help, or from Lightning after Ctrl-C
        if isinstance(stop.__context__, KeyboardInterrupt):
            return interrupted()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)  # sys.exit("text") is 1
    except BrokenPipeError:  # stdout was closed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = describe_environment(error)
        if message:
            return report_error(message)
        traceback.print_exc()
        return 1


def run() -> None:
    """Entry point of the ``clipos`` command."""
    sys.exit(main())


def dispatch(arguments: list[str]) -> int:
    """Run the command; its module and torch are imported only here.

    Raises:
        InputError: no such command, or the command's input is wrong.
    """
    command, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if command == "help" and rest:
        command, rest = rest[0], ["--help", *rest[1:]]
    if command in ("-h", "--help", "help"):
        print(HELP, end="")
    elif command in ("-V", "--version", "version"):
        print(f"clipos {__version__}")
    elif command == "configs" and rest in (["-h"], ["--help"]):
        print(f"usage: clipos configs\n\n{COMMANDS['configs']}: names that --config and benchmark take")
    elif command == "configs":
        if rest:
            raise InputError(f"configs takes no arguments: leave out {' '.join(rest)}")
        for name, text in {**shipped_configs(), **shipped_grids()}.items():
            print(f"{name:<28}{text}")
    elif command in OWN_PARSERS:
        name, _, function = OWN_PARSERS[command].partition(":")
        return getattr(import_heavy(name), function or "main")(rest)
    elif command in TRAINER_COMMANDS:
        check_options(command, rest)
        for name in configs_in(rest):
            with_bases(find_config(name))
        import_heavy("trainer").main([command, *rest])
    else:
        close = difflib.get_close_matches(command, COMMANDS, 1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise InputError(f"no command {command!r}{hint} Commands: {', '.join(COMMANDS)}; see clipos --help")
    return 0


def import_heavy(name: str) -> ModuleType:
    """Import a command's module; on a terminal, a message shows what takes so long."""
    from ..utils.progress import notify_if_slow

    with notify_if_slow("loading PyTorch and open_clip …", seconds=2.0, temporary=True):
        return import_module(f"{__package__}.{name}")


def check_options(command: str, arguments: Sequence[str]) -> None:
    """Check the options of fit, validate or test up to their first dot, to report a misspelt one before torch loads.

    Raises:
        InputError: the command has no such option.
    """
    known = [*TRAINER_OPTIONS, *(("verbose",) if command != "fit" else ())]
    for word in arguments:
        name = word.lstrip("-").partition("=")[0].rstrip("+")
        first, dot, rest = name.partition(".")
        if word.startswith("-") and len(name) > 1 and not name[0].isdigit() and first not in known:
            close = difflib.get_close_matches(first, known, 1)
            hint = f"; did you mean --{close[0]}{dot}{rest}?" if close else "."
            raise InputError(f"{command} has no option --{name}{hint} See clipos {command} --help")


def report_error(message: str) -> int:
    """Print an error of the user's as one line; returns 2."""
    print(f"clipos: error: {printable(message)}", file=sys.stderr)
    return 2


def describe_environment(error: Exception) -> str | None:
    """What is wrong with files, memory or packages of the user's machine; None if the error is a bug in clipos.

    Example:
        >>> describe_environment(PermissionError(13, "Permission denied", "runs"))
        'runs: Permission denied'
    """
    closed = isinstance(error, OSError) and error.errno == EBADF  # not a mistake of the user's
    if isinstance(error, OSError) and not closed and (error.filename or error.errno == ENOSPC):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text)):
        size = ALLOCATION.search(text)
        tried = f" ({size[1]} requested at once)" if size else ""
        return f"not enough memory{tried}: lower the batch size, or the option that makes it large"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("clipos_lightning"):
        return f"a package is missing: {text}"
    return None


def interrupted() -> int:
    """Report the interruption; returns 130, like a shell."""
    print("clipos: interrupted", file=sys.stderr)
    return 130
