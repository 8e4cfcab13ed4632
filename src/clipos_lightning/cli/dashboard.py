"""``clipos dashboard``: lay out a workspace and a report of Weights & Biases for the runs of a project."""

import importlib.util
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import InputError
from ..options.messages import CommandParser
from ..utils.files import check_parent, write_json

SCORES = ("energy_region", "energy", "mcm", "gl_mcm")  # compared by default
SAVE_SECONDS = 60.0  # for workspace and report


def dashboard_parser() -> CommandParser:
    """The parser of ``clipos dashboard``."""
    text = "Lay out a W&B workspace and a report for the runs of a project: training, results, sweeps, images."
    parser = CommandParser(prog="clipos dashboard", description=text)
    parser.add_argument("project", metavar="PROJECT", help="the W&B project, such as clipos")
    parser.add_argument("--entity", metavar="NAME", help="its user or team (default: W&B's default entity)")
    text = f"scores to compare (default: {' '.join(SCORES)})"
    parser.add_argument("--scores", nargs="+", default=list(SCORES), metavar="SCORE", help=text)
    text = "write the specification to this .json file, which must not exist, and upload nothing; needs no network"
    parser.add_argument("--out", metavar="FILE", help=text)
    return parser


def check_out_file(out: Path) -> None:
    """Check ``--out`` before anything is built.

    Raises:
        InputError: it exists, cannot be written, or is not called .json.
    """
    if out.suffix != ".json":
        raise InputError(f"dashboard: --out {out}: the name must end in .json")
    if out.exists():
        raise InputError(f"dashboard: {out} exists: give another --out, or remove it")
    check_parent(out)


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos dashboard``; returns the exit code.

    Raises:
        InputError: an option is wrong, the extra ``wandb`` is missing, or W&B cannot be reached.
    """
    given = dashboard_parser().parse_args(list(arguments))
    if given.out is not None:
        check_out_file(Path(given.out))
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise InputError("dashboard: the package wandb-workspaces is missing: pip install 'clipos-lightning[wandb]'")
    if given.out is None:
        for line in upload_dashboard(given.project, given.entity, given.scores):
            print(line)
        return 0
    from ..reporting.wandb_dashboard import make_report, make_workspace, specification

    parts = (make(given.project, given.entity or "", given.scores) for make in (make_workspace, make_report))
    write_json(Path(given.out), {"schema": 1, "version": __version__, **specification(*parts)})
    print(f"dashboard: {given.out}")
    return 0


def upload_dashboard(project: str, entity: str | None, scores: Sequence[str]) -> list[str]:
    """Save workspace and report in the project; returns lines with their addresses.

    Raises:
        InputError: W&B is set to offline, cannot be signed in to, or refuses them.
    """
    import wandb

    from ..reporting.wandb_dashboard import make_report, make_workspace
    from ..reporting.wandb_session import NO_CREDENTIALS, NO_UPLOAD, sign_in_problem, wandb_settings

    offline = wandb_settings().mode in NO_UPLOAD
    with redirect_stderr(StringIO()):  # of W&B's messages
        problem = f"its mode is {wandb_settings().mode}" if offline else sign_in_problem()
    if problem is not None:
        cure = "wandb login, or " if problem == NO_CREDENTIALS else ""
        raise InputError(f"dashboard: W&B: {problem}: {cure}--out FILE.json writes the specification without a network")
    owner = entity or call_wandb(lambda: wandb.Api().default_entity)
    if not owner:
        raise InputError("dashboard: W&B has no default entity: give the user or team as --entity")
    saved = [call_wandb(make(project, owner, scores).save) for make in (make_workspace, make_report)]
    return [f"{name}: {part.url}" for name, part in zip(("workspace", "report"), saved, strict=True)]


def call_wandb(work: Callable[[], Any]) -> Any:
    """The result of calls of W&B's client, without its messages.

    Raises:
        InputError: they fail, or take too long.
    """
    from ..reporting.wandb_session import one_line, within

    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return within(SAVE_SECONDS, work)
    except TimeoutError as error:
        raise InputError(f"dashboard: W&B did not answer within {SAVE_SECONDS:.0f} s: try again later") from error
    except Exception as error:  # of W&B's client, which raises those of its parts too
        raise InputError(f"dashboard: W&B: {one_line(error)}") from error
