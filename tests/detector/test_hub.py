"""Detectors on the hub: upload, download, revisions, caches and refusals, with a server that speaks its API."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import constants
from running import clipos, make_photos

from clipos_lightning import ClipOS, ContextOptions, Detector, InputError

Commits = list[tuple[str, dict[str, bytes]]]


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's API that uploads and downloads use; repositories are lists of (commit, files)."""

    repos: ClassVar[dict[str, Commits]] = {}

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def reply(self, status: int, content: Any = b"", **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_HEAD(self) -> None:
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        commits = self.repos.get(found[1]) if found else None
        if found is None or commits is None:
            return self.reply(404, X_Error_Code="RepoNotFound")
        known = dict(commits)
        if found[2] != "main" and found[2] not in known:
            return self.reply(404, X_Error_Code="RevisionNotFound")
        latest = commits[-1] if commits else ("0" * 40, {})
        commit, files = latest if found[2] == "main" else (found[2], known[found[2]])
        if found[3] not in files:
            return self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        content = files[found[3]]
        self.reply(200, content, X_Repo_Commit=commit, ETag=f'"{hashlib.sha1(content).hexdigest()}"')

    do_GET = do_HEAD

    def do_POST(self) -> None:
        given = self.body()
        if self.path == "/api/repos/create":
            made = json.loads(given)
            repo = f"{made.get('organization') or 'me'}/{made['name'].split('/')[-1]}"
            self.repos.setdefault(repo, [])
            return self.reply(200, {"url": f"https://huggingface.co/{repo}"})
        if self.path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/main", self.path)
        if found is None:
            return self.reply(404)
        if found[2] == "preupload":
            files = [file["path"] for file in json.loads(given)["files"]]
            known = {"shouldIgnore": False, "uploadMode": "regular"}
            return self.reply(200, {"files": [{"path": name, **known} for name in files]})
        commits = self.repos[found[1]]
        files = dict(commits[-1][1]) if commits else {}
        for line in map(json.loads, given.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        commit = hashlib.sha1(given + str(len(commits)).encode()).hexdigest()
        commits.append((commit, files))
        self.reply(
            200,
            {"success": True, "commitOid": commit, "commitUrl": f"https://huggingface.co/{found[1]}/commit/{commit}"},
        )


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Commits]]:
    """An empty hub, an empty cache and a token."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    Hub.repos = {}
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield Hub.repos
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def detector() -> Detector:
    words = ContextOptions(words="a photo of")
    model = ClipOS(["red|wine", "green"], backbone="MicroCLIP", score="energy", context=words)
    detector = Detector.of(model)
    detector.threshold = 8.0
    return detector


def test_a_detector_goes_to_the_hub_and_back(hub, detector, tmp_path) -> None:
    (tmp_path / "shots.json").write_text("{}")
    name = detector.push_to_hub("me/wine", tmp_path / "shots.json")
    commit, files = hub["me/wine"][0]
    assert name == f"hf:me/wine@{commit}" and set(files) == {"detector.safetensors", "README.md", "shots.json"}
    front, card = files["README.md"].decode().split("---\n")[1:]
    assert yaml.safe_load(front)["library_name"] == "clipos-lightning"
    assert r"red\|wine, green" in card and 'Detector.load("hf:me/wine")' in card and "| threshold | 8 |" in card
    for given in ("hf:me/wine", name):
        loaded = Detector.load(given, "cpu")
        assert loaded.threshold == 8.0 and torch.equal(loaded.head.text, detector.head.text)


def test_a_card_that_exists_stays_and_a_revision_is_pinned(hub, detector) -> None:
    first = detector.push_to_hub("me/wine")
    hub["me/wine"][-1][1]["README.md"] = b"mine"
    changed = Detector.load("hf:me/wine", "cpu")
    changed.threshold = 9.0
    changed.push_to_hub("me/wine")
    assert hub["me/wine"][-1][1]["README.md"] == b"mine"
    assert [Detector.load(name, "cpu").threshold for name in (first, "hf:me/wine")] == [8.0, 9.0]


def test_without_a_network_the_copy_in_the_cache_is_used(hub, detector, monkeypatch, capsys) -> None:
    name = detector.push_to_hub("me/wine")
    Detector.load("hf:me/wine", "cpu")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/{revision}/{filename}")
    capsys.readouterr()
    assert Detector.load(name, "cpu").threshold == 8.0 and not capsys.readouterr().err  # a commit never changes
    assert Detector.load("hf:me/wine", "cpu").threshold == 8.0
    assert "the hub cannot be reached" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"hf:me/other: the hub cannot be reached .*no copy: copy detector"):
        Detector.load("hf:me/other")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:wine", "name a detector on the hub as hf:owner/name"),
        ("hf:me/wine@", "name a detector on the hub as hf:owner/name"),
        ("hf:me/w ne", "hf:me/w ne: "),
        ("hf:me/none", "the hub has no me/none, or it is private"),
        ("hf:me/wine@v9", "me/wine has no revision 'v9'"),
        ("hf:me/empty", "me/empty has no detector.safetensors"),
    ],
)
def test_what_is_not_a_detector_on_the_hub(hub, detector, name, message) -> None:
    detector.push_to_hub("me/wine")
    hub["me/empty"] = [("0" * 40, {})]
    with pytest.raises(InputError, match=re.escape(message)):
        Detector.load(name)


def test_what_cannot_be_uploaded(hub, detector, tmp_path, monkeypatch) -> None:
    with pytest.raises(InputError, match=r"no file .*none\.json"):
        detector.push_to_hub("me/wine", tmp_path / "none.json")
    with pytest.raises(InputError, match="name a detector on the hub"):
        detector.push_to_hub("wine")
    monkeypatch.setattr(Hub, "do_POST", lambda self: self.reply(403, {"error": "no write access"}))
    with pytest.raises(InputError, match=r"the hub did not take the detector \(.*your token"):
        detector.push_to_hub("me/wine")
    assert hub == {}


def test_commands_take_a_detector_of_the_hub(hub, detector, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path)
    detector.push_to_hub("me/wine")
    photos = next((tmp_path / "photos").rglob("*.png")).parent
    run = clipos("predict", "hf:me/wine", photos, "--device", "cpu")
    assert run.code == 0 and len(run.out.splitlines()) > 1, run.err
    words = ("hf:me/wine", photos, "--out", "own.safetensors", "--recall", "0.5", "--device", "cpu")
    assert clipos("calibrate", *words).code == 0
    assert Detector.load("own.safetensors", "cpu").calibration["source"] == "images"
    run = clipos("predict", "hf:me/none", photos)
    assert run.code == 2 and "the hub has no me/none" in run.err


def test_the_hub_s_client_is_the_installed_one() -> None:
    assert tuple(map(int, huggingface_hub.__version__.split(".")[:2])) >= (0, 34)
