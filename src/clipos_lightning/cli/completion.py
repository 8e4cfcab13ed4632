"""``clipos completion SHELL``: a static completion script, made by shtab from the commands' own parsers."""

import argparse
from collections.abc import Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import shtab

from .. import __version__
from ..data.sources import SOURCES
from ..options.configs import shipped_configs, shipped_grids
from ..options.messages import CommandParser
from .commands import COMMANDS, OWN_PARSERS

DESCRIPTION = """Print a script that completes commands, options, shipped configs and data sets. Write it once to where
the shell finds it:

  clipos completion bash > ~/.local/share/bash-completion/completions/clipos
  clipos completion zsh > ~/.zfunc/_clipos        (~/.zfunc: any folder of $fpath)
  clipos completion fish > ~/.config/fish/completions/clipos.fish"""


def completion_parser() -> CommandParser:
    """The options of ``clipos completion``."""
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = CommandParser(prog="clipos completion", description=DESCRIPTION, formatter_class=as_it_is)
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def main(arguments: Sequence[str]) -> int:
    """Print the script of a shell; returns the exit code."""
    shell = completion_parser().parse_args(list(arguments)).shell
    print(shtab.complete(make_root(), shell))
    return 0


def make_root() -> argparse.ArgumentParser:
    """One parser with every command's own as a subcommand."""
    from .trainer import trainer_parsers  # imports torch

    root = argparse.ArgumentParser(prog="clipos")
    root.add_argument("-V", "--version", action="version", version=__version__, help="print the version")
    commands = root.add_subparsers(dest="command")
    parsers: dict[str, argparse.ArgumentParser] = {**trainer_parsers()}
    parsers |= {command: parser_of(command) for command in OWN_PARSERS}
    for command, text in COMMANDS.items():
        commands.add_parser(command, help=text)
        if command in parsers:  # all but configs, which takes no options
            commands.choices[command] = parsers[command]
        commands.choices[command].description = text  # what zsh and fish show
    add_completions(root)
    return root


def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser of a command that is not Lightning's."""
    module = import_module(f"{__package__}.{OWN_PARSERS[command].partition(':')[0]}")
    return getattr(module, f"{command}_parser")()


def add_completions(parser: argparse.ArgumentParser) -> None:
    """Set what shtab offers as values: names of shipped configs, grids and data sets; files for everything else."""
    for place, action in enumerate(parser._actions):
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                add_completions(command)
        elif any(not option.startswith("-") for option in action.option_strings):
            action.help = argparse.SUPPRESS  # a link between two options
        elif action.dest == "config":
            parser._actions[place] = repeatable(action)
        elif action.dest == "grid":
            offer(action, words_or_files("grid", (Path(name).stem for name in shipped_grids())))
        elif action.dest == "names":
            action.choices = list(SOURCES)
        elif action.nargs != 0 and not action.choices:
            offer(action, shtab.FILE)


def offer(action: argparse.Action, complete: dict[str, Any]) -> None:
    """Set an action's values as shtab expects them."""
    action.complete = complete  # type: ignore[attr-defined]


def repeatable(config: argparse.Action) -> argparse.Action:
    """``--config`` as an action that may be given several times, which shtab recognises by its class."""
    action = argparse._AppendAction(config.option_strings, config.dest, help=config.help)
    offer(action, words_or_files("config", shipped_configs()))
    return action


def words_or_files(name: str, words: Iterable[str]) -> dict[str, Any]:
    """Values for shtab: these words, or a file."""
    function, listed = f"_clipos_{name}_or_file", " ".join(words)
    bodies = {
        "bash": f'{function}() {{ compgen -W "{listed}" -- "$1"; compgen -f -- "$1"; }}',
        "zsh": f"{function}() {{ _alternative 'words:shipped {name}:({listed})' 'files:file:_files' }}",
        "fish": f"function {function}; string split ' ' '{listed}'; __fish_complete_path (commandline -ct); end",
    }
    return {"bash": function, "zsh": function, "fish": f"({function})", "preamble": bodies}
