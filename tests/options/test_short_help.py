"""The short help of fit, validate and test: every option of ours once, by purpose, in lines that fit."""

import re

import pytest
from running import clipos, refused

from clipos_lightning.cli.trainer import trainer_parsers
from clipos_lightning.options.parser import LINKED
from clipos_lightning.options.short_help import MAIN_OPTIONS, shortened

COMMANDS = ("fit", "validate", "test")


def help_of(*words: str, columns: int = 100) -> str:
    run = clipos(*words, env={"COLUMNS": str(columns)})
    assert (run.code, run.err) == (0, "")
    return run.out


def listed(text: str) -> list[str]:
    """The options that start a line, in their order."""
    return re.findall(r"^  (--[\w.]+)", text, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_then_six_options_then_every_other_one_of_ours(command: str) -> None:
    text = help_of(command, "--help")
    assert len(text.splitlines()) <= 105
    assert max(map(len, text.splitlines())) <= 100
    assert len(re.findall(rf"^  clipos {command} --", text, re.MULTILINE)) == 3
    found = listed(text)
    assert found[:6] == [f"--{name}" for name in MAIN_OPTIONS[command]]
    assert len(found) == len(set(found))
    options = {name for name in trainer_parsers()[command]._option_string_actions if name.startswith("--")}
    skipped = {name for name in options if name.endswith(("+", ".help")) or name.startswith("--trainer")}
    skipped |= {f"--model.{name}" for name in LINKED}
    sections = {"--model", "--data", *(f"--model.{part}" for part in "surgery mask synthesis context scoring".split())}
    assert {*found} - skipped == options - skipped - sections


def test_what_an_option_s_line_says() -> None:
    text = help_of("fit", "--help")
    for line in (
        "  --data.shots 1                       labelled training images per class, or all",
        "  --model.surgery.attention vv         vv|qk: vv: v-v attention",
        "  --data.validate false                fit validates on held-out training images, every …",
        "  --model.template                     frozen prompt of a class, with {} for its name, or several, …",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("words", [("help", "fit"), ("fit", "-h"), ("fit", "--help", "--data.shots", "2")])
def test_other_ways_to_ask(words: tuple[str, ...]) -> None:
    assert help_of(*words) == help_of("fit", "--help")


def test_all_shows_every_option_and_its_full_text() -> None:
    text = help_of("fit", "--help", "all")
    assert text == help_of("help", "fit", "all")
    for part in (
        "--trainer.accumulate_grad_batches",
        "--model.surgery CONFIG",
        "trainer.check_val_every_n_epoch epochs",
    ):
        assert part in " ".join(text.split()), part
    refused(clipos("fit", "--help", "everything"), "'everything'", "all")


def test_lines_are_as_wide_as_the_terminal() -> None:
    widths = [max(map(len, help_of("fit", "--help", columns=columns).splitlines())) for columns in (40, 110, 300)]
    assert widths[0] < 110 and 100 < widths[1] <= 110 and 110 < widths[2] <= 120


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short.", "short"),
        ("a number; null: none", "a number"),
        ("a number of images; 0: none; more", "a number of images; 0: none"),
        ("a number of images that is longer", "a number of images that …"),
        ("images of the ID-relevant-patches", "images of the …"),
    ],
)
def test_texts_are_cut_at_clauses_or_words(text: str, expected: str) -> None:
    assert shortened(text, 27) == expected
