"""Fast start: help, version, configs and wrong commands do not import torch."""

import signal
import subprocess
import sys

import pytest

from clipos_lightning import __version__
from clipos_lightning.options.configs import shipped_configs, shipped_grids

HEAVY = ("torch", "lightning", "open_clip", "numpy", "wandb", "matplotlib")
SCRIPT = f"""
import sys
from clipos_lightning.cli.main import main
code = main(sys.argv[1:])
heavy = [name for name in {HEAVY} if name in sys.modules]
sys.exit(f"imported: {{heavy}}" if heavy else code)
"""
SENDER = """
import importlib.abc
import os
import sys
from clipos_lightning.__main__ import run_clipos

class Sender(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.endswith("options.configs"):
            os.kill(os.getpid(), {})

sys.meta_path.insert(0, Sender())
run_clipos()
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        ([], 0, "usage: clipos COMMAND", ""),
        (["--help"], 0, "clipos fit --config demo.yaml", ""),
        (["-h"], 0, "predict", ""),
        (["--version"], 0, f"clipos {__version__}\n", ""),
        (["configs"], 0, "demo.yaml", ""),
        (["ift"], 2, "", "did you mean 'fit'"),
        (["fit", "--modle.score", "mcm"], 2, "", "did you mean --model.score?"),
        (["test", "--cpkt_path=x"], 2, "", "did you mean --ckpt_path?"),
        (["completion", "--help"], 0, "bash-completion/completions/clipos", ""),
        (["completion", "tcsh"], 2, "", "invalid choice: 'tcsh'"),
        (["fit", "--config", "nowhere.yaml"], 2, "", "'nowhere.yaml'"),
    ],
)
def test_it_answers_without_importing_torch(words: list[str], code: int, out: str, err: str) -> None:
    run = python("-c", SCRIPT, *words)
    assert run.returncode == code, run.stderr
    assert out in run.stdout
    assert err in run.stderr
    assert len(run.stderr.splitlines()) == (code != 0)


def test_the_module_is_the_command() -> None:
    run = python("-X", "importtime", "-m", "clipos_lightning", "configs")
    assert run.returncode == 0
    imported = {line.rsplit("|", 1)[-1].strip() for line in run.stderr.splitlines()}
    assert "clipos_lightning.options.configs" in imported and not imported & {*HEAVY}
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*shipped_configs(), *shipped_grids()]
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines)  # each says what it is


def test_importing_the_package_is_light_and_its_names_are_there() -> None:
    run = python(
        "-c", "import sys, clipos_lightning as c; assert 'torch' not in sys.modules; print(c.InputError, c.__all__)"
    )
    assert run.returncode == 0, run.stderr
    import clipos_lightning

    for name in clipos_lightning.__all__:
        assert getattr(clipos_lightning, name)
    with pytest.raises(AttributeError, match="nothing"):
        _ = clipos_lightning.nothing


def test_configs_come_first_so_that_a_flag_wins_wherever_it_stands() -> None:
    from clipos_lightning.options.command_line import configs_first

    words = "fit --data.shots 2 -c a.yaml --model.score mcm --config=b.yaml --config c.yaml".split()
    expected = "fit -c a.yaml --config=b.yaml --config c.yaml --data.shots 2 --model.score mcm"
    assert configs_first(words) == expected.split()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_line_is_imported(signum: int) -> None:
    """It waits until there is a handler, which ends the process with one line."""
    run = python("-c", SENDER.format(int(signum)), "configs")
    line = "clipos: interrupted\n" if signum == signal.SIGINT else "clipos: terminated\n"
    assert (run.returncode, run.stdout, run.stderr) == (128 + signum, "", line)
