"""``clipos dashboard``: the specification without a network, and what is reported where it cannot be uploaded."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from running import clipos, refused
from wandb_server import KEY, wandb_server

from clipos_lightning.cli import dashboard
from clipos_lightning.cli.dashboard import call_wandb
from clipos_lightning.errors import InputError
from clipos_lightning.reporting import wandb_session


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connected(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", connected)


def test_the_specification_is_written_without_a_network(tmp_path: Path, no_network: None) -> None:
    pytest.importorskip("wandb_workspaces")
    out = tmp_path / "dashboard.json"
    run = clipos("dashboard", "clipos", "--scores", "mcm", "--out", out)
    assert (run.code, run.out) == (0, f"dashboard: {out}\n"), run.err
    plain = json.loads(out.read_text())
    assert plain["schema"] == 1 and plain["workspace"]["project"] == "clipos"
    text = json.dumps(plain)
    assert "average/mcm/auroc" in text and "average/energy/auroc" not in text
    refused(clipos("dashboard", "clipos", "--out", out), f"{out} exists")


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("words", "piece"),
    [
        (("--out", "dashboard.txt"), "the name must end in .json"),
        (("--out", "none/dashboard.json"), "no folder"),
        ((), "its mode is offline: --out FILE.json writes the specification without a network"),
    ],
)
def test_one_line_for_what_is_wrong(words: tuple[str, ...], piece: str) -> None:
    pytest.importorskip("wandb_workspaces")
    refused(clipos("dashboard", "clipos", *words, env={"WANDB_MODE": "offline"}), piece)


@pytest.mark.badinput
def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(clipos("dashboard", "clipos"), "pip install 'clipos-lightning[wandb]'")


@pytest.mark.badinput
def test_without_a_login_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(wandb_session, "sign_in_problem", lambda: wandb_session.NO_CREDENTIALS)
    refused(clipos("dashboard", "clipos", env={"WANDB_MODE": "online"}), "no credentials found: wandb login, or --out")


def test_workspace_and_report_are_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr(wandb, "api", type(wandb.api)())  # it keeps the settings of its first use
    with wandb_server() as server:
        env = {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc"), "WANDB_ERROR_REPORTING": "false"}
        env |= {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online"}
        run = clipos("dashboard", "p", "--scores", "mcm", env=env)
        assert run.code == 0, run.err
        saved = [given for query, given in server.queries if "upsertView" in query]
        report = f"{server.url}/me/p/reports/Few-shot-OOD-detection--view"
        assert run.lines[1] == f"report: {report}" and run.lines[0].startswith(f"workspace: {server.url}/me/p?nw=")
        assert [(given["entityName"], given["projectName"]) for given in saved] == [("me", "p")] * 2
        assert all("average/mcm/auroc" in given["spec"] for given in saved)
        server.state = "denied"
        refused(clipos("dashboard", "p", env=env), "dashboard: W&B: ")


def test_what_the_server_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise ValueError("no team\n")

    with pytest.raises(InputError, match="dashboard: W&B: no team"):
        call_wandb(refuse)
    monkeypatch.setattr(dashboard, "SAVE_SECONDS", 0.01)
    with pytest.raises(InputError, match="W&B did not answer within"):
        call_wandb(lambda: time.sleep(1))
