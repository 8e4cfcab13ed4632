"""Signing in to W&B: every state of a login against a stand-in server, and what follows from it."""

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from running import PHOTO_OPTIONS, clipos, done, refused
from wandb_server import KEY, StandIn, wandb_server

from clipos_lightning.errors import InputError
from clipos_lightning.reporting import wandb_session
from clipos_lightning.reporting.wandb_artifacts import use_detector
from clipos_lightning.reporting.wandb_log import Dashboard, start_wandb
from clipos_lightning.reporting.wandb_session import NO_CREDENTIALS, choose_mode, one_line, open_run, upload, within

RECENT = "prompt" in inspect.signature(wandb.login).parameters  # a recent W&B
NOWHERE = "http://127.0.0.1:9"  # no server listens there


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of nobody, on a terminal whose questions nobody answers."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("NETRC", str(folder / ".netrc"))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CREDENTIALS_FILE", str(folder / "credentials.json"))
    monkeypatch.chdir(tmp_path)
    if hasattr(wandb.api, "is_authenticated"):
        monkeypatch.setattr(wandb, "api", type(wandb.api)())  # it keeps the settings of its first use

    def asked(*_: Any, **__: Any) -> str:
        raise AssertionError("a question was asked")

    for question in ("builtins.input", "click.prompt", "getpass.getpass"):
        monkeypatch.setattr(question, asked)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True, readline=asked, read=asked, fileno=asked))
    return folder


@pytest.fixture
def server() -> Iterator[StandIn]:
    with wandb_server() as running:
        yield running


def settings_file(home: Path, text: str) -> None:
    path = home / ".config/wandb/settings"
    path.parent.mkdir(parents=True)
    path.write_text(f"[default]\n{text}\n")


def netrc(home: Path, url: str, key: str = KEY) -> None:
    (home / ".netrc").write_text(f"machine {url.removeprefix('http://')}\n  login user\n  password {key}\n")


def token(home: Path) -> str:
    path = home / "token.jwt"
    path.write_text("header.payload.signature")
    return str(path)


State = tuple[Callable[[Path, str], dict[str, str]], str | None]
# what is in the home folder, and the environment -> a part of the problem; None: signed in
LOGINS: dict[str, State] = {
    "nothing": (lambda home, url: {}, NO_CREDENTIALS),
    "own server without a key": (lambda home, url: {"WANDB_BASE_URL": url}, NO_CREDENTIALS),
    "key": (lambda home, url: {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY}, None),
    "key and WANDB_MODE=online": (
        lambda home, url: {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"},
        None,
    ),
    "key, server in the settings file": (
        lambda home, url: settings_file(home, f"base_url = {url}") or {"WANDB_API_KEY": KEY},
        None,
    ),
    "identity token": (lambda home, url: {"WANDB_BASE_URL": url, "WANDB_IDENTITY_TOKEN_FILE": token(home)}, None),
    "no token file": (
        lambda home, url: {"WANDB_BASE_URL": url, "WANDB_IDENTITY_TOKEN_FILE": str(home / "none.jwt")},
        "",
    ),
    "netrc of another server": (lambda home, url: netrc(home, NOWHERE) or {"WANDB_BASE_URL": url}, NO_CREDENTIALS),
    "key of wrong length": (lambda home, url: {"WANDB_BASE_URL": url, "WANDB_API_KEY": "abc"}, "API key"),
    "key of nobody": (lambda home, url: {"WANDB_BASE_URL": url, "WANDB_API_KEY": KEY[::-1]}, ""),
    "no server": (lambda home, url: {"WANDB_BASE_URL": NOWHERE, "WANDB_API_KEY": KEY}, ""),
}


@pytest.mark.parametrize("state", LOGINS)
def test_every_state_of_a_login(
    state: str, home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare, expected = LOGINS[state]
    for name, value in prepare(home, server.url).items():
        monkeypatch.setenv(name, value)
    if state == "no server":
        monkeypatch.setattr(wandb_session, "SIGN_IN_SECONDS", 1.0)
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    options: dict[str, Any] = {}
    choose_mode(options, home)
    printed = capfd.readouterr().out
    if expected is None:
        assert options == {} and not printed
        assert {"/graphql", "/oidc/token"} & {*server.paths}  # it was asked
    else:
        assert options == {"mode": "offline"}
        (line,) = printed.splitlines()
        assert line.startswith("W&B: ") and expected in line and KEY not in line
        assert f"wandb sync {home}/wandb/offline-run-*" in line
        assert ("wandb login" in line) == (expected == NO_CREDENTIALS)
    assert all(path.read_bytes() == content for path, content in before.items())  # nothing of the user's is changed


def test_a_key_that_wandb_login_stored_is_found(
    home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    login = f"import wandb; wandb.login(key={KEY!r}, host={server.url!r})"
    subprocess.run([sys.executable, "-c", login], check=True, capture_output=True, timeout=60)
    assert KEY in (home / ".netrc").read_text()
    if not RECENT:
        pytest.skip("W&B 0.19 looks for the server's name without its port, which it has stored with it")
    options: dict[str, Any] = {}
    choose_mode(options, home)
    assert options == {}, capfd.readouterr().out


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("state", "words"),
    [("denied", "user is not logged in"), ("broken", ""), ("portal", ""), ("silent", "did not answer within 1 s")],
)
def test_a_server_that_does_not_accept_the_key_in_time(
    state: str, words: str, home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_session, "SIGN_IN_SECONDS", 1.0)
    server.state = state
    start = time.monotonic()
    problem = wandb_session.sign_in_problem()
    assert problem is not None and time.monotonic() - start < 15
    assert words in problem or not RECENT  # 0.19 has one message for all answers


@pytest.mark.parametrize(
    ("environment", "options", "settings", "signs_in"),
    [
        ({}, {}, "", True),
        ({"WANDB_MODE": "online"}, {}, "", True),
        ({"WANDB_MODE": "offline"}, {}, "", False),
        ({"WANDB_MODE": "dryrun"}, {}, "", False),
        ({"WANDB_MODE": "disabled"}, {}, "", False),
        ({}, {"mode": "offline"}, "", False),
        ({"WANDB_MODE": "offline"}, {"mode": "online"}, "", True),  # as in wandb.init, the option wins
        ({}, {}, "mode = offline", False),
        ({"WANDB_MODE": "online"}, {}, "mode = offline", True),
    ],
)
def test_the_mode_decides_whether_w_and_b_is_signed_in_to(
    environment: dict[str, str],
    options: dict[str, Any],
    settings: str,
    signs_in: bool,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if settings:
        settings_file(home, settings)
    monkeypatch.setattr(wandb_session, "sign_in_problem", lambda: "asked")
    given = dict(options)
    choose_mode(options, home)
    assert options == ({"mode": "offline"} if signs_in else given)
    assert ("asked" in capfd.readouterr().out) == signs_in


@pytest.mark.parametrize(
    ("name", "value", "piece"),
    [
        ("WANDB_MODE", "nonsense", "mode: Input should be 'online'"),
        ("WANDB_BASE_URL", "nonsense", "base_url"),
        ("WANDB_API_KEY", f" {KEY}", "API key cannot start or end with whitespace"),
    ],
)
def test_settings_that_w_and_b_refuses(
    name: str, value: str, piece: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError) as error:
        choose_mode({}, home)
    assert piece in str(error.value) and KEY not in str(error.value) and "W&B's settings" in str(error.value)


def test_a_run_that_the_server_refuses_is_recorded_offline(
    home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    server.refuses_runs = True
    registered: list[Callable[[], None]] = []
    monkeypatch.setattr(wandb_session, "atexit", SimpleNamespace(register=registered.append))
    logger = WandbLogger(project="p")
    start_wandb(logger, home, "fit")
    assert "permission denied" in capfd.readouterr().out
    assert logger.experiment.settings.mode == "offline"
    assert registered == ([] if RECENT else [wandb_session.end_refused_run])
    wandb_session.end_refused_run()
    assert list(home.glob("wandb/offline-run-*/*.wandb"))
    with suppress(SystemExit, ConnectionError):  # the service was killed
        wandb.teardown()  # would wait without limit for it otherwise


def test_a_run_is_uploaded_from_the_folder_with_its_kind(
    home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    logger = WandbLogger(project="p", group="g")
    start_wandb(logger, home / "run", "fit")
    upload(wandb.finish, home)
    (created,) = [variables for query, variables in server.queries if "upsertBucket" in query][:1]
    assert (created["jobType"], created["groupName"], created["project"]) == ("fit", "g", "p")
    assert list((home / "run").glob("wandb/run-*/*.wandb"))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("options", "variable", "expected"), [({"job_type": "mine"}, "", "mine"), ({}, "theirs", "theirs"), ({}, "", "fit")]
)
def test_a_kind_that_is_given_is_kept(
    options: dict[str, Any], variable: str, expected: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable:
        monkeypatch.setenv("WANDB_JOB_TYPE", variable)
    monkeypatch.setattr(WandbLogger, "experiment", None)  # starts no run
    logger = WandbLogger(project="p", mode="offline", **options)
    start_wandb(logger, home, "fit")
    assert logger._wandb_init["job_type"] == expected


@pytest.mark.parametrize("given", ["logger", "settings", "nothing"])
def test_group_and_tags_that_are_given_are_kept(given: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if given == "settings":
        monkeypatch.setenv("WANDB_TAGS", "mine,ours")
        monkeypatch.setenv("WANDB_RUN_GROUP", "study")
    monkeypatch.setattr(WandbLogger, "experiment", None)  # starts no run
    own = {"group": "study", "tags": ["mine", "ours"]} if given == "logger" else {}
    logger = WandbLogger(project="p", mode="offline", **own)
    model, data = {"objective": "unknown", "backbone": "MicroCLIP"}, {"id": "scenes", "shots": 2}
    start_wandb(logger, home, "fit", {"model": model, "data": data, "trainer": {}})
    group, tags = logger._wandb_init["group"], list(logger._wandb_init["tags"])
    if given == "nothing":
        assert group.startswith("scenes unknown 2-shot ")
        assert tags == ["objective:unknown", "MicroCLIP", "scenes", "2-shot"]
    else:
        assert (group, tags) == ("study", ["mine", "ours"])


def test_a_test_uses_the_artifact_of_its_fit_and_goes_on_without_an_answer(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used: list[Any] = []
    run = SimpleNamespace(settings=SimpleNamespace(mode="online"), use_artifact=used.append)
    record = {"entity": "me", "project": "p", "run": "x1"}
    use_detector(run, None, record)
    assert used == ["me/p/detector:run-x1"] and not capsys.readouterr().out

    def refuse(_: Any) -> None:
        raise wandb.errors.CommError("artifact not found")

    run.use_artifact = refuse
    use_detector(run, None, record)
    assert (
        capsys.readouterr().out == "W&B: the run does not use the artifact me/p/detector:run-x1: artifact not found\n"
    )
    file = home / "detector.safetensors"
    file.write_bytes(b"weights")
    run.use_artifact = used.append
    use_detector(run, file, None)
    assert used[-1].type == "detector" and list(used[-1].manifest.entries) == ["detector.safetensors"]
    run.settings.mode = "offline"
    run.use_artifact = refuse
    use_detector(run, file, record)
    assert not capsys.readouterr().out


def test_options_that_an_offline_run_refuses_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")  # restored after Lightning has changed it
    logger = WandbLogger(project="p", resume="nonsense", offline=True)
    with pytest.raises(InputError, match="W&B: resume: Input should be"):
        start_wandb(logger, home, "fit")


@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_the_summary_keeps_the_best_value_of_each_validation_metric(
    stage: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    defined: dict[str, Any] = {}
    run = SimpleNamespace(define_metric=lambda name, **how: defined.update({name: how.get("summary")}))
    monkeypatch.setattr(WandbLogger, "experiment", run)
    trainer = Trainer(accelerator="cpu", logger=WandbLogger(project="p"), enable_checkpointing=False)
    Dashboard(home).setup(trainer, LightningModule(), stage)
    lowest = {"val/outliers/fpr95": "min", "val/outliers/fpr95_ood_pos": "min"}
    names = ("accuracy", "outliers/auroc", "outliers/aupr_in", "outliers/aupr_out")
    highest = {f"val/{name}": "max" for name in names}
    assert defined == {"trainer/global_step": None, "train/*": None, **highest, **lowest}


def test_a_logger_that_is_offline_asks_no_server(
    home: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")  # restored after Lightning has changed it
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    logger = WandbLogger(project="p", offline=True)
    start_wandb(logger, home, "fit")
    assert logger.experiment.settings.mode == "offline"
    wandb.finish()
    assert capfd.readouterr().out == "" and "/graphql" not in server.paths


def test_open_run_tries_offline_once(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {}
    modes = []

    def start() -> str:
        modes.append(options.get("mode"))
        if modes[-1] is None:
            raise wandb.errors.CommError("no such team.\n")
        return "run"

    assert open_run(start, options, home) == "run"
    assert modes == [None, "offline"]
    assert capsys.readouterr().out.startswith("W&B: no such team, so it records offline; to upload later: wandb sync")


def test_uploads_end_in_bounded_time(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wandb_session, "UPLOAD_SECONDS", 0.1)
    monkeypatch.setattr(wandb_session, "FINISH_GRACE", 0.0)
    stopped: list[bool] = []
    monkeypatch.setattr(wandb_session, "stop_service", lambda: stopped.append(True))
    upload(lambda: time.sleep(20), home)
    assert stopped == [True]  # after 0.1 s
    assert "the server does not answer; to upload later: wandb sync" in capsys.readouterr().out
    monkeypatch.undo()

    def fail() -> None:
        raise wandb.errors.CommError("gone")

    upload(fail, home)
    assert "W&B: not everything is uploaded: gone;" in capsys.readouterr().out


def test_the_limit_of_the_last_upload_is_one_of_w_and_b(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = wandb_session.wandb_settings()
    if not hasattr(settings, "finish_timeout"):
        pytest.skip("this version of W&B has no such limit")
    assert settings.finish_timeout == wandb_session.UPLOAD_SECONDS
    wandb.teardown()
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "600")
    assert wandb_session.wandb_settings().finish_timeout == 600


def test_stop_service_kills_the_process_of_w_and_b_only(monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[str] = []

    def child(name: str) -> SimpleNamespace:
        return SimpleNamespace(name=lambda: name, kill=lambda: killed.append(name))

    process = SimpleNamespace(children=lambda: [child("wandb-core"), child("python"), child("gpu_stats")])
    monkeypatch.setitem(sys.modules, "psutil", SimpleNamespace(Process=lambda: process))
    wandb_session.stop_service()
    assert killed == ["wandb-core", "gpu_stats"]


def test_within_passes_results_and_errors_on() -> None:
    assert within(5, lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 // 0)
    with pytest.raises(TimeoutError):
        within(0.01, lambda: time.sleep(1))
    assert one_line(ValueError()) == "ValueError"


@pytest.mark.badinput
def test_fit_trains_on_without_a_network(tiny_folder: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", NOWHERE)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_session, "SIGN_IN_SECONDS", 1.0)
    overlay = ("--config", "demo.yaml", "--config", "wandb.yaml", "--data.root", tiny_folder, *PHOTO_OPTIONS)
    run = done("fit", *overlay, "--trainer.max_steps", 2)
    (line,) = [line for line in run.lines if line.startswith("W&B: ")]
    assert f"wandb sync {run.folder}/wandb/offline-run-*" in line
    assert Path(run.checkpoint).is_file() and list(run.folder.glob("wandb/offline-run-*/*.wandb"))


def test_a_bad_mode_is_one_line_of_the_command(tiny_folder: Path, home: Path) -> None:
    overlay = ("--config", "demo.yaml", "--config", "wandb.yaml", "--data.root", tiny_folder, *PHOTO_OPTIONS)
    run = clipos("fit", *overlay, "--trainer.accelerator", "cpu", env={"WANDB_MODE": "nonsense"})
    refused(run, "mode: Input should be 'online'")
