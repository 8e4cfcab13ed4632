"""The short ``--help`` of fit, validate and test: examples, six options, then the others by purpose. No torch."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any, Literal, get_args, get_origin

EXAMPLES = {
    "fit": (
        ("--config demo.yaml", "the embedded data set, minutes on a CPU"),
        ("--config own.yaml --data.id folder:photos", "your own classes, photos/<class>/"),
        ("--config cifar10_1shot.yaml --data.root DATA", "a benchmark, see `clipos configs`"),
    ),
    "validate": (
        ("--ckpt_path runs/fit-…/last.ckpt", "a trained detector"),
        ("--ckpt_path runs/fit-…/last.ckpt --model.score mcm", "another of its scores"),
        ("--config demo.yaml", "the zero-shot detector"),
    ),
    "test": (
        ("--ckpt_path runs/fit-…/last.ckpt", "on the data of fit"),
        ("--ckpt_path runs/fit-…/last.ckpt --data.ood_sets '[folder:X]'", "on another OOD set"),
        ("--config demo.yaml", "the zero-shot detector"),
    ),
}
MAIN_OPTIONS = {
    "fit": ("config", "data.id", "data.shots", "data.ood_sets", "data.root", "trainer.max_epochs"),
    "validate": ("ckpt_path", "config", "data.id", "data.root", "data.limit_per_set", "model.score"),
    "test": ("ckpt_path", "config", "data.ood_sets", "data.root", "data.limit_per_set", "model.score"),
}
PURPOSES = {  # heading to options; with a dot at the end: all that start so. Options of no heading are under "run"
    "data": ("data.",),
    "backbone": ("model.backbone", "model.pretrained", "model.image_size", "model.compile"),
    "surgery: the second path through the image tower": ("model.surgery.",),
    "mask: which patches are ID-relevant": ("model.mask.",),
    "synthesis: how outliers are made": ("model.synthesis.",),
    "objective": ("model.objective", "model.outlier_weight", "model.energy_margins"),
    "prompts": ("model.context.", "model.unknown_word", "model.template", "model.zero_shot_unknown"),
    "scores": ("model.score", "model.scores", "model.scoring.", "model.image_weight", "model.negatives"),
    "optimisation": ("model.optimizer", "model.lr_scheduler", "model.feature_budget_mb", "model.seed"),
}
REPLACED_HELP = {  # Lightning's texts are long, or name what a run of ours does not take
    "--ckpt_path": "last.ckpt of a clipos fit run, a local file; fit resumes it, test and validate load it",
    "--weights_only": "checkpoints are loaded without unpickling anything but tensors and plain data (default: true)",
    "--seed_everything": "seed of the data and the model; true: a random one",
    "--print_config": "print the configuration with all options applied, and exit",
    "--trainer.max_epochs": "epochs in all; with --ckpt_path: those of its run; --trainer.max_steps N stops earlier",
}
CHECKPOINT_HELP = (
    "seconds between two writes of last.ckpt on the way, so that a killed fit can go on; null: only at its end"
)
VERBOSE_HELP = {
    "validate": "also print Lightning's own table of results",
    "test": "print the tables of every score, not only the headline score",
}
MORE = """Values are the defaults. `clipos {command} --help all`: full texts, and Lightning's Trainer options
(--trainer.devices, .precision, .callbacks, …). `--model.optimizer.help AdamW`: those of a class."""
LEFT = 37  # columns of an option and its default


class HelpAction(argparse._HelpAction):
    """``--help``: the short help; ``--help all``: every option of the command and of Lightning's Trainer."""

    def __init__(self, option_strings: Any, dest: str, **kwargs: Any) -> None:
        super().__init__(option_strings, dest, help="this help; `--help all`: every option, Lightning's too")
        self.nargs, self.choices = "?", ("all",)

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Print the help and exit."""
        print(parser.format_help() if values == "all" else short_help(parser), end="")
        parser.exit()


def short_help(parser: argparse.ArgumentParser) -> str:
    """The short help of fit, validate or test, at the terminal's width, but between 80 and 120 columns.

    Args:
        parser: of the command, whose name is the last word of ``prog``.
    """
    command = parser.prog.split()[-1]
    width = min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
    options = [action for action in parser._actions if is_listed(action)]
    main = [action for name in MAIN_OPTIONS[command] for action in options if action.dest == name]
    parts = [
        f"usage: {parser.usage}\n\n{parser.description}",
        example_lines(command),
        section("most used", main, width),
    ]
    rest = [action for action in options if action not in main and not action.dest.startswith("trainer.")]
    for heading, names in PURPOSES.items():
        prefixes = tuple(name for name in names if name.endswith("."))
        found = [action for action in rest if action.dest in names or action.dest.startswith(prefixes)]
        rest = [action for action in rest if action not in found]
        parts.append(section(heading, found, width))
    parts.append(section("run", rest, width))
    parts.append(MORE.format(command=command))
    return "\n\n".join(parts) + "\n"


def example_lines(command: str) -> str:
    """The examples of a command, a line each."""
    longest = max(len(words) for words, _ in EXAMPLES[command])
    return "\n".join(f"  clipos {command} {words:<{longest}}   {what}" for words, what in EXAMPLES[command])


def is_listed(action: argparse.Action) -> bool:
    """Whether an option is one of a value: not a whole section (``--model CONFIG``), a link, or a class's help."""
    names = action.option_strings
    section_file = type(action).__name__ == "_ActionConfigLoad"
    return bool(names) and names[0].startswith("-") and not section_file and not action.dest.endswith(".help")


def section(heading: str, options: Iterable[argparse.Action], width: int) -> str:
    """A heading and a line for each option."""
    return "\n".join([heading, *(option_line(option, width) for option in options)])


def option_line(option: argparse.Action, width: int) -> str:
    """An option with its default if that is one short word, its choices, and as much of its help text as fits."""
    name = next((n for n in option.option_strings if n.startswith("--")), option.option_strings[0])
    left = f"{name} {plain_default(option.default)}".rstrip()
    left = left if len(left) < LEFT and left.count(" ") < 2 else name
    kind = getattr(option, "_typehint", None)
    choices = "|".join(get_args(kind)) + ": " if get_origin(kind) is Literal else ""
    return f"  {left:<{LEFT}}{shortened(choices + ' '.join(str(option.help).split()), width - LEFT - 2)}"


def plain_default(value: Any) -> str:
    """A number, word or switch as it is written in YAML; "" for other defaults."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float | str) and value != argparse.SUPPRESS else ""


def shortened(text: str, width: int) -> str:
    """A help text cut to one line: to its first clauses, as many as fit, or if the first one is too long to words.

    Example:
        >>> shortened("images per step, at least 1; all processes together.", 30)
        'images per step, at least 1'
        >>> shortened("images per step, over all processes", 24)
        'images per step, over …'
    """
    text = re.sub(r"; null: [^;]*", "", text).removesuffix(".")
    ends = [found.start() for found in re.finditer(r"[.;] |$", text) if found.start() <= width]
    return text[: ends[-1]] if ends else textwrap.shorten(text, width, break_on_hyphens=False, placeholder=" …")
