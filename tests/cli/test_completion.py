"""The completion scripts, run by the shells; they contain every option of the parsers."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from running import clipos, refused

from clipos_lightning.cli import completion
from clipos_lightning.cli.commands import COMMANDS, OWN_PARSERS, TRAINER_COMMANDS
from clipos_lightning.cli.main import TRAINER_OPTIONS, check_options
from clipos_lightning.data.sources import SOURCES
from clipos_lightning.errors import InputError
from clipos_lightning.options.configs import shipped_configs

SHELLS = ("bash", "zsh", "fish")
DATA_COMMANDS = ("list", "download", "verify", "info")


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each shell's script, in a file."""
    folder = tmp_path_factory.mktemp("scripts")
    for shell in SHELLS:
        run = clipos("completion", shell)
        assert run.code == 0, run.err
        (folder / shell).write_text(run.out)
    return {shell: folder / shell for shell in SHELLS}


def run_in(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stderr == ""
    return run.stdout


def bash(script: Path, words: tuple[str, ...]) -> list[str]:
    """bash's completions of the last of these words."""
    line = " ".join(f"'{word}'" for word in words)
    call = f"source {script}\nCOMP_WORDS=(clipos {line}) COMP_CWORD={len(words)}\n_shtab_clipos\n"
    return run_in("bash", "-c", call + 'printf "%s\\n" "${COMPREPLY[@]}"').split()


def fish(script: Path, words: tuple[str, ...]) -> list[str]:
    """fish's completions of the last of these words."""
    call = f"source {script}; complete -C 'clipos {' '.join(words)}'"
    return [line.split("\t")[0] for line in run_in("fish", "--no-config", "-c", call).splitlines()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("",), [*COMMANDS]),
        (("pre",), ["predict"]),
        (("fit", "--config", "dem"), ["demo.yaml"]),
        (("fit", "-c", ""), [*shipped_configs(), "mine.ckpt"]),
        (("fit", "--config", "demo.yaml", "--config", "wan"), ["wandb.yaml"]),
        (("test", "--ckpt"), ["--ckpt_path"]),
        (("test", "--ckpt_path", "mi"), ["mine.ckpt"]),
        (("fit", "--model.synthesis.p"), ["--model.synthesis.patches", "--model.synthesis.path"]),
        (("predict", "mi"), ["mine.ckpt"]),
        (("predict", "--res"), ["--resume"]),
        (("predict", "--format", ""), ["csv", "jsonl", "table"]),
        (("data", "d"), ["download"]),
        (("data", "download", "cifar10", "tex"), ["textures"]),
        (("data", "info", ""), [*SOURCES]),
        (("benchmark", "mai"), ["main"]),
        (("benchmark", "main", "--config", "demo"), ["demo.yaml"]),
        (("report", "--o"), ["--out"]),
        (("completion", ""), [*SHELLS]),
    ],
)
@pytest.mark.parametrize("ask", [bash, fish])
def test_what_is_offered(
    ask: Callable[[Path, tuple[str, ...]], list[str]],
    words: tuple[str, ...],
    expected: list[str],
    scripts: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shell = ask.__name__
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    (tmp_path / "mine.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    assert sorted(ask(scripts[shell], words)) == sorted(expected)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_valid_static_and_complete(shell: str, scripts: dict[str, Path]) -> None:
    text = scripts[shell].read_text()
    assert all(command in text for command in COMMANDS)
    assert "-->" not in text  # a link between two options is no option
    assert "python" not in text  # nothing of clipos runs when a word is completed
    if shutil.which(shell):
        run_in(shell, "-n", str(scripts[shell]))


def options_in(command: str, scripts: dict[str, Path]) -> set[str]:
    """A command's options in the script for bash."""
    (line,) = re.findall(
        rf"^_shtab_clipos_{command}_option_strings=\((.*)\)$", scripts["bash"].read_text(), re.MULTILINE
    )
    return set(line.split())


@pytest.mark.parametrize("command", [*COMMANDS, *(f"data {word}" for word in DATA_COMMANDS)])
def test_the_options_are_those_of_the_commands_help(command: str, scripts: dict[str, Path]) -> None:
    if command == "configs":
        assert options_in(command, scripts) == {"-h", "--help"}
        return
    text = clipos(*command.split(), "--help").out
    shown = re.findall(r"^  (?:-\w, |-\w \w+, )?(--[\w.]+)", text, re.MULTILINE)
    assert {o for o in options_in(command.replace(" ", "_"), scripts) if o.startswith("--")} >= set(shown)
    assert "--help" in shown


def test_every_command_has_its_parser() -> None:
    assert set(TRAINER_COMMANDS) | set(OWN_PARSERS) | {"configs"} == set(COMMANDS)
    for command in OWN_PARSERS:
        assert completion.parser_of(command).prog == f"clipos {command}"


def test_a_shell_that_there_is_no_script_for() -> None:
    refused(clipos("completion", "tcsh"), "completion: ", "'tcsh'", "fish")
    refused(clipos("completion"), "completion: ", "shell")


# ---- misspelt options of fit, validate and test, found before anything is imported


@pytest.mark.parametrize("command", TRAINER_COMMANDS)
def test_the_front_door_knows_what_the_parsers_options_start_with(command: str, scripts: dict[str, Path]) -> None:
    starts = {option.lstrip("-").split(".")[0] for option in options_in(command, scripts)}
    assert starts == {*TRAINER_OPTIONS, *(["verbose"] if command != "fit" else [])}


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "demo.yaml", "--model.score=mcm", "--data.root", "-", "--trainer.max_epochs", "-1"],
        ["-c=demo.yaml", "--trainer.callbacks+=x", "--print_config=skip_null", "--seed_everything", "3", "-h"],
    ],
)
def test_options_that_there_are_pass(words: list[str]) -> None:
    check_options("fit", words)


@pytest.mark.parametrize("word", ["--verbose", "--modell.score=1", "-x.y", "--checkpoint"])
def test_others_do_not(word: str) -> None:
    with pytest.raises(InputError, match="has no option --"):
        check_options("fit", [word, "1"])
