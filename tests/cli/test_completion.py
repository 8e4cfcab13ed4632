"""The completion script in bash, and that it knows every option that there is."""

import re
import shutil
import subprocess

import pytest
from running import clipos

from clipos_lightning.cli import completion
from clipos_lightning.cli.commands import COMMANDS, OWN_PARSERS, TRAINER_COMMANDS
from clipos_lightning.data.datamodule import FewShotOOD
from clipos_lightning.errors import InputError
from clipos_lightning.options.configs import shipped_configs
from clipos_lightning.training.module import ClipOS


def complete(*words: str) -> list[str]:
    """What bash offers after these words, the last of which is being written."""
    line = " ".join(f"'{word}'" for word in words)
    script = f"{completion.bash()}\nCOMP_WORDS=(clipos {line}) COMP_CWORD={len(words)}\n_clipos\n"
    run = subprocess.run(
        ["bash", "-c", script + 'printf "%s\\n" "${COMPREPLY[@]}"'], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    return run.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_configs_and_words(tmp_path, monkeypatch):
    (tmp_path / "mine.ckpt").touch()
    monkeypatch.chdir(tmp_path)
    assert complete("") == list(COMMANDS)
    assert complete("pre") == ["predict"]
    assert complete("fit", "--config", "dem") == ["demo.yaml"]
    assert complete("fit", "-c", "") == [*shipped_configs(), "mine.ckpt"]
    assert complete("test", "--ckpt") == ["--ckpt_path"]
    assert complete("fit", "--model.sco") == ["--model.score", "--model.scores", "--model.scoring"]
    assert complete("predict", "mi") == ["mine.ckpt"]
    assert complete("predict", "--res") == ["--resume"]
    assert complete("data", "d") == ["download"]
    assert complete("benchmark", "mai") == ["main"]
    assert complete("completion", "b") == ["bash"]


@pytest.mark.parametrize("command", completion.OPTIONS)
def test_the_options_are_those_of_the_commands_help(command):
    calls = [[command, word] for word in completion.WORDS.get(command, ())] or [[command]]
    text = "".join(clipos(*call, "--help").out for call in calls)
    assert set(re.findall(r"^  (?:-\w, |-\w \w+, )?--(\w+)", text, re.MULTILINE)) == {
        "help",
        *completion.OPTIONS[command],
    }


def test_the_models_and_the_datas_options_are_read_from_their_source():
    words = completion.words_of("fit")
    assert set(TRAINER_COMMANDS) | set(OWN_PARSERS) | {"configs"} == set(COMMANDS)
    assert {f"--model.{name}" for name in ("score", "surgery", "compile", "optimizer")} <= set(words)
    assert len([w for w in words if w.startswith("--model.")]) == ClipOS.__init__.__code__.co_argcount - 3
    assert len([w for w in words if w.startswith("--data.")]) == FewShotOOD.__init__.__code__.co_argcount - 1


def test_every_shell_has_every_command():
    for text in (completion.bash(), completion.zsh(), completion.fish()):
        assert all(command in text for command in COMMANDS)
        assert text.endswith("\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "demo.yaml", "--model.score=mcm", "--data.root", "-", "--trainer.max_epochs", "-1"],
        ["-c=demo.yaml", "--trainer.callbacks+=x", "--print_config=skip_null", "--seed_everything", "3", "-h"],
    ],
)
def test_options_that_there_are_pass(words):
    completion.check_options("fit", words)


@pytest.mark.parametrize("word", ["--verbose", "--modell.score=1", "-x.y", "--checkpoint"])
def test_others_do_not(word):
    with pytest.raises(InputError, match="has no option --"):
        completion.check_options("fit", [word, "1"])
