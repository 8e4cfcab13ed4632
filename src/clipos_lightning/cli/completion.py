"""``clipos completion SHELL``: a static completion script; and misspelt options, said without importing torch."""

import ast
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import InputError
from ..options.configs import shipped_configs, shipped_grids
from .commands import COMMANDS, TRAINER_COMMANDS

PACKAGE = Path(__file__).parents[1]
JUDGING = ("batch_size", "num_workers", "pretrained", "device", "trust")
GROUPS = ("trainer", "model", "data")
COMMON = ("config", "c", "help", "h", "print_config", "seed_everything", "ckpt_path", "weights_only", *GROUPS)
OPTIONS = {  # of the commands with parsers of their own
    "benchmark": ("config", "seeds", "shard", "out", "wandb"),
    "report": ("out", "wandb"),
    "calibrate": ("recall", "out", "views", "root", *JUDGING),
    "predict": ("out", "format", "resume", "explain", "devices", *JUDGING),
    "explain": ("out", "class", "top", "pretrained", "device", "trust"),
    "export": ("out", "pretrained", "trust"),
    "data": ("root", "num_workers"),
}
TRAINER = (
    *("accelerator", "devices", "strategy", "precision", "max_epochs", "max_steps", "logger", "callbacks"),
    *("default_root_dir", "enable_progress_bar", "gradient_clip_val", "accumulate_grad_batches"),
)
WORDS = {"data": ("list", "download", "verify", "info"), "completion": ("bash", "zsh", "fish")}
BASH = """# clipos completion bash: put `eval "$(clipos completion bash)"` into ~/.bashrc
_clipos() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} command=${{COMP_WORDS[1]}} words=
    if [ "$COMP_CWORD" = 1 ]; then
        words="{commands}"
    elif [ "$before" = -c ] || [ "$before" = --config ]; then
        words="{configs}"
    else
        case $command in
{cases}
        esac
        case $word in -*) ;; *) words=$(for w in $words; do case $w in -*) ;; *) echo "$w";; esac; done);; esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    case $word in -*) ;; *) [ "$COMP_CWORD" = 1 ] || COMPREPLY+=($(compgen -f -- "$word"));; esac
}}
complete -o filenames -F _clipos clipos
"""


def main(arguments: Sequence[str]) -> int:
    """Print the script of a shell; returns the exit code."""
    shells = {"bash": bash, "zsh": zsh, "fish": fish}
    if len(arguments) != 1 or arguments[0] not in shells:
        raise InputError(f"completion takes one shell: {', '.join(shells)}")
    print(shells[arguments[0]](), end="")
    return 0


def words_of(command: str) -> list[str]:
    """What may follow a command: its options, and its words where it has some."""
    if command in TRAINER_COMMANDS:
        names = ["config", "print_config", "seed_everything", "ckpt_path", *(f"trainer.{name}" for name in TRAINER)]
        names += [f"model.{name}" for name in signature(PACKAGE / "training" / "module.py", "ClipOS")]
        names += [f"data.{name}" for name in signature(PACKAGE / "data" / "datamodule.py", "FewShotOOD")]
    else:
        names = list(OPTIONS.get(command, ()))
    grids = [Path(name).stem for name in shipped_grids()] if command == "benchmark" else []
    return [*WORDS.get(command, ()), *grids, *(f"--{name}" for name in [*names, "help"])]


def signature(path: Path, name: str) -> list[str]:
    """The options of a class, read from its source, which need not be imported."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef) and node.name == name:
            start = next(f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__")
            linked = ("self", "class_names", "class_wordings") if name == "ClipOS" else ("self",)
            return [a.arg for a in start.args.args if a.arg not in linked]
    raise LookupError(f"{path} has no class {name}")


def bash() -> str:
    """For bash."""
    cases = "\n".join(f'            {command}) words="{" ".join(words_of(command))}";;' for command in COMMANDS)
    return BASH.format(commands=" ".join(COMMANDS), configs=" ".join(shipped_configs()), cases=cases)


def zsh() -> str:
    """For zsh, which runs bash's."""
    return f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{bash()}"


def fish() -> str:
    """For fish."""
    return "".join(f"{line}\n" for line in fish_lines())


def fish_lines() -> Iterator[str]:
    """One ``complete`` for each command, word and option."""
    yield "# clipos completion fish: clipos completion fish > ~/.config/fish/completions/clipos.fish"
    for command, text in COMMANDS.items():
        yield f'complete -c clipos -n __fish_use_subcommand -f -a {command} -d "{text}"'
        seen = f'complete -c clipos -n "__fish_seen_subcommand_from {command}"'
        for word in words_of(command):
            more = f' -r -a "{" ".join(shipped_configs())}"' if word == "--config" else ""
            yield f"{seen} -l {word[2:]}{more}" if word.startswith("--") else f"{seen} -a {word}"


def check_options(command: str, arguments: Sequence[str]) -> None:
    """The first part of every option of fit, validate and test is one that there is.

    Raises:
        InputError: it is not.
    """
    known = [*COMMON, *(("verbose",) if command != "fit" else ())]
    for word in arguments:
        name = word.lstrip("-").partition("=")[0].rstrip("+")
        first, dot, rest = name.partition(".")
        if word.startswith("-") and len(name) > 1 and not name[0].isdigit() and first not in known:
            close = difflib.get_close_matches(first, known, 1)
            hint = f"; did you mean --{close[0]}{dot}{rest}?" if close else "."
            raise InputError(f"{command} has no option --{name}{hint} See clipos {command} --help")
