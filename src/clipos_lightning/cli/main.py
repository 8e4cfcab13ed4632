"""Entry point: help, version, list of configs, and errors in command or config names, all without importing torch."""

import atexit
import difflib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from signal import SIGINT
from types import ModuleType

from .. import __version__
from ..errors import InputError, printable
from ..options.command_line import configs_in
from ..options.configs import find_config, shipped_configs, shipped_grids, with_bases
from ..utils.launcher import find_launch, forget_non_numbers, forget_ranks
from ..utils.streams import output_failure, prepare_streams
from .commands import COMMANDS, OWN_PARSERS, TRAINER_COMMANDS
from .file_errors import describe_file_error
from .signals import ignore_when_stopped, install_handlers, report_stop, start_work, stoppable

OUT_OF_MEMORY = re.compile(
    "(?i)can't allocate memory|not enough memory|out of memory|storage size calculation overflow"
)
ALLOCATION = re.compile(r"(?i)allocate (\d[\d.,]* (?:bytes|[KMGTPE]i?B))")
BROKEN_PIPE = 141  # exit code of a program that SIGPIPE ends
TRAINER_OPTIONS = (  # options of fit, validate and test, up to the first dot
    *("config", "c", "help", "h", "print_config", "seed_everything", "ckpt_path", "weights_only"),
    "checkpoint_every_n_seconds",
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
  clipos app detector.safetensors                  try the detector on a page in the browser
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
        The exit code: 0 success, 1 a bug in clipos, 2 wrong input or a missing file, 128 + N stopped by
        signal N (130 Ctrl-C, 143 SIGTERM, 129 SIGHUP), 141 if the reader of stdout has left.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")  # reproducible: CPU sums do not depend on threads or batch size
    forget_non_numbers(os.environ)
    if find_launch(os.environ) or "MASTER_ADDR" in os.environ:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it would print stack traces for processes that ended
    with stoppable() as stop:
        failure: BaseException | None = None
        try:
            code = dispatch(arguments)
            sys.stdout.flush()
        except BaseException as error:
            failure = error

        def report() -> int:
            if stop.signum:
                return report_stop(stop.signum)
            return code if failure is None else exit_code(failure, *arguments[:1])

        if failure is None and not stop.signum:
            return code
        if arguments[:1] and arguments[0] in TRAINER_COMMANDS and find_launch(os.environ):
            import_heavy("launch")  # other processes of the run exist
        launch = sys.modules.get(f"{__package__}.launch")
        return report() if launch is None else launch.end_together(report, failure, stop.signum)


def exit_code(error: BaseException, command: str = "") -> int:
    """Report what ended the command; returns the exit code."""
    if isinstance(error, InputError):
        return report_error(str(error))
    cause = error.__context__ if isinstance(error, SystemExit) else error  # Lightning exits after Ctrl-C
    if isinstance(cause, KeyboardInterrupt):
        return report_stop(SIGINT)
    failure = output_failure() if isinstance(error, OSError | SystemExit) else None
    if isinstance(failure, BrokenPipeError):  # whoever read stdout has left, as in `clipos configs | head`; rich exits
        return BROKEN_PIPE
    if failure is not None:
        return report_error(f"cannot write to stdout: {failure.strerror}")
    if isinstance(error, SystemExit):  # from argparse after --help
        return error.code if isinstance(error.code, int) else int(error.code is not None)  # sys.exit("text") is 1
    message = describe_environment(error, command)
    if message:
        return report_error(message)
    traceback.print_exception(error)
    return 1


def run() -> None:
    """Entry point of the ``clipos`` command."""
    prepare_streams()
    install_handlers()
    atexit.register(ignore_when_stopped)  # before all others, so it runs last
    code = main()
    output_failure()
    sys.exit(code)


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
        forget_ranks(os.environ)
        execute = getattr(import_heavy(name), function or "main")
        start_work(command)
        return execute(rest)
    elif command in TRAINER_COMMANDS:
        check_options(command, rest)
        for name in configs_in(rest):
            with_bases(find_config(name))
        execute = import_heavy("trainer").main
        start_work(command)
        execute([command, *rest])
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
        if word.startswith("-") and len(name) > 1 and name[0] not in "0123456789." and first not in known:
            close = difflib.get_close_matches(first, known, 1)
            hint = f"; did you mean --{close[0]}{dot}{rest}?" if close else "."
            raise InputError(f"{command} has no option --{name}{hint} See clipos {command} --help")


def report_error(message: str) -> int:
    """Print an error of the user's as one line; returns 2."""
    print(f"clipos: error: {printable(message)}", file=sys.stderr)
    return 2


def describe_environment(error: BaseException, command: str = "") -> str | None:
    """What is wrong with files, memory or packages of the user's machine; None if the error is a bug in clipos.

    Example:
        >>> describe_environment(PermissionError(13, "Permission denied", "runs"))
        'runs: Permission denied'
    """
    file_error = describe_file_error(error, command) if isinstance(error, OSError) else None
    if file_error:
        return file_error
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and "embedded null" in text:  # of Python's functions that take a path
        return "a path among the options holds a null character (\\0)"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text)):
        size = ALLOCATION.search(text)
        tried = f" ({size[1]} requested at once)" if size else ""
        return f"not enough memory{tried}: lower the batch size, or the option that makes it large"
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("clipos_lightning"):
        return f"a package is missing: {text}"
    return None
