"""Sign in to Weights & Biases without a prompt, record offline where that fails, and end in bounded time."""

import atexit
import importlib
import inspect
import io
import logging
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import redirect_stderr, suppress
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import wandb

from ..errors import InputError, message_of, printable
from ..utils.progress import print_once

ResultT = TypeVar("ResultT")
SIGN_IN_SECONDS = 9.0  # for finding the server and checking the key
UPLOAD_SECONDS = 60.0  # for what is left to upload at the end, unless W&B's settings have a limit
FINISH_GRACE = 15.0  # until we end what W&B's own limit has not ended
NO_UPLOAD = ("offline", "dryrun", "disabled")  # values of WANDB_MODE
NO_CREDENTIALS = "no credentials found"
LONGEST = 200  # characters of a message of W&B's client


def within(seconds: float, work: Callable[[], ResultT]) -> ResultT:
    """Run a function in a thread that is left behind if it takes too long.

    Args:
        seconds: the limit.
        work: its result is returned and its exceptions are raised.

    Raises:
        TimeoutError: it has not ended.

    Example:
        >>> within(10, lambda: 6 * 7)
        42
    """
    outcome: Future[ResultT] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    Thread(target=run, daemon=True).start()
    return outcome.result(timeout=seconds)


def one_line(error: BaseException) -> str:
    """An exception of W&B's client in one line, without the values that it may quote, such as a key.

    Example:
        >>> one_line(ValueError("API key must have 40+ characters."))
        'API key must have 40+ characters'
    """
    problems = getattr(error, "errors", None)  # of pydantic, which checks W&B's settings
    if callable(problems):
        text = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in problems())
    else:
        text = message_of(error)
    return printable(text[:LONGEST].rstrip("."))


def wandb_settings() -> Any:
    """W&B's own settings, from its files and the environment; the time for the last uploads is limited in them.

    Raises:
        InputError: W&B refuses one of them.
    """
    try:
        settings = wandb.setup().settings
        if getattr(settings, "finish_timeout", None) == 0:  # no limit; unknown to old versions, see stop_service
            settings = wandb.setup(wandb.Settings(finish_timeout=UPLOAD_SECONDS)).settings
    except (ValueError, wandb.Error) as error:
        raise InputError(f"W&B's settings (WANDB_… variables, ~/.config/wandb/settings): {one_line(error)}") from error
    return settings


def log_in() -> bool:
    """Let W&B's client find the user's credentials, without a prompt, and check them with its server.

    Returns:
        Whether there are any.
    """
    if "prompt" in inspect.signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=True))
    return bool(wandb.api.is_authenticated and wandb.login(verify=True))  # without a key, login() would ask for one


def sign_in_problem() -> str | None:
    """Sign in to the server of W&B's settings. Its client's messages are shown if that succeeds.

    Returns:
        Why runs cannot be uploaded; None: they can.
    """
    server, messages = wandb_settings().base_url, io.StringIO()
    telemetry = logging.getLogger("opentelemetry")  # W&B's own, which fails as the sign-in does
    telemetry.setLevel(logging.CRITICAL)
    try:
        with redirect_stderr(messages):
            found = within(SIGN_IN_SECONDS, log_in)
    except TimeoutError:
        return f"{server} did not answer within {SIGN_IN_SECONDS:.0f} s"
    except Exception as error:  # of W&B's client, which raises those of its parts too
        return one_line(error)
    sys.stderr.write(messages.getvalue())
    return None if found else NO_CREDENTIALS


def record_offline(options: dict[str, Any], folder: Path, problem: str) -> None:
    """Set the mode of the runs to come to offline, and print why and how to upload them.

    Args:
        options: for ``wandb.init``; changed.
        folder: in which W&B writes.
        problem: from :func:`sign_in_problem`.
    """
    options["mode"] = "offline"
    login = "wandb login; " if problem == NO_CREDENTIALS else ""
    print_once(
        f"W&B: {problem}, so it records offline; to upload later: {login}wandb sync {folder}/wandb/offline-run-*"
    )


def choose_mode(options: dict[str, Any], folder: Path) -> None:
    """Upload if W&B's settings allow it and its server accepts the credentials, otherwise record offline.

    Args:
        options: for ``wandb.init``; changed.
        folder: in which W&B writes.

    Raises:
        InputError: W&B refuses its settings.
    """
    if (options.get("mode") or wandb_settings().mode) not in NO_UPLOAD:
        problem = sign_in_problem()
        if problem is not None:
            record_offline(options, folder, problem)


def open_run(start: Callable[[], ResultT], options: dict[str, Any], folder: Path) -> ResultT:
    """Start a run, offline if the server refuses it.

    Args:
        start: starts the run with ``options``.
        options: for ``wandb.init``; changed if the run is recorded offline.
        folder: in which W&B writes.

    Raises:
        InputError: W&B refuses the options of an offline run too.
    """
    try:
        return start()
    except Exception as error:  # of W&B's client, which raises those of its parts too
        if (options.get("mode") or wandb_settings().mode) in NO_UPLOAD:
            raise InputError(f"W&B: {one_line(error)}") from error
        if not hasattr(wandb_settings(), "finish_timeout"):
            atexit.register(end_refused_run)
        record_offline(options, folder, one_line(error))
    return open_run(start, options, folder)


def upload(work: Callable[[], object], folder: Path) -> None:
    """Log or finish, and say so if it fails or takes too long: what W&B recorded stays in the run's folder.

    Args:
        work: calls of W&B's client only.
        folder: in which W&B writes.
    """
    limit = getattr(wandb_settings(), "finish_timeout", UPLOAD_SECONDS)
    try:
        within(limit + FINISH_GRACE, work)
        return
    except TimeoutError:
        problem = "the server does not answer"
        stop_service()
    except Exception as error:  # of W&B's client, which raises those of its parts too
        problem = one_line(error)
    print_once(f"W&B: not everything is uploaded: {problem}; to upload later: wandb sync {folder}/wandb/*run-*")


def end_refused_run() -> None:
    """At the exit: finish the run that is recorded, and end W&B's service, which never gives up the refused one."""
    with suppress(Exception):  # of W&B's client, which raises those of its parts too
        within(FINISH_GRACE, wandb.finish)
    stop_service()


def stop_service() -> None:
    """Kill W&B's process for uploads, for whose end the interpreter would wait without limit.

    Versions of W&B without ``finish_timeout`` need it. They depend on psutil.
    """
    with suppress(ImportError):
        psutil = importlib.import_module("psutil")
        for child in psutil.Process().children():
            if "wandb" in child.name() or "gpu_stats" in child.name():
                child.kill()
