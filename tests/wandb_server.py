"""A local stand-in for W&B's server, for tests: it accepts one key, records requests, and can fail in several ways."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"  # 40 characters, as W&B's keys have
ACCEPTED = ("Basic " + base64.b64encode(f"api:{KEY}".encode()).decode(), "Bearer access")
VIEWER = {"id": "1", "flags": "{}", "entity": "me", "username": "me", "email": "a@b.c", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "clipos", "entity": {"id": "e", "name": "me"}}
FAILURES: dict[str, tuple[int, bytes]] = {
    "broken": (500, b"{}"),
    "denied": (401, b'{"errors": [{"message": "user is not logged in"}]}'),
    "portal": (200, b"<html>log in to this network first</html>"),
}


@dataclass
class StandIn:
    """Its address, what it does, and the requests that it got: paths; (query, variables) of those to GraphQL."""

    url: str
    state: str = "well"  # or silent, or one of FAILURES
    refuses_runs: bool = False
    paths: list[str] = field(default_factory=list)
    queries: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def answer(self, path: str, authorization: str | None, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a POST or PUT."""
        self.paths.append(path)
        if self.state == "silent":
            time.sleep(30)
        if self.state in FAILURES:
            return FAILURES[self.state]
        if path == "/oidc/token":
            return 200, json.dumps({"access_token": "access", "expires_in": 3600}).encode()
        if path != "/graphql":
            return 200, b"{}"
        if authorization not in ACCEPTED:
            return FAILURES["denied"]
        request = json.loads(body)
        query, variables = request["query"], request.get("variables") or {}
        self.queries.append((query, variables))
        if self.refuses_runs and "upsertBucket" in query:
            return 403, b'{"errors": [{"message": "permission denied"}]}'
        return 200, json.dumps({"data": self.data(query, variables)}).encode()

    def data(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """As much of W&B's answers as its client needs for a run."""
        bucket = {"id": "b", "name": variables.get("name", "run"), "displayName": "run", "config": "{}"}
        parts: dict[str, Any] = {
            "viewer": VIEWER,
            "serverInfo": {"cliVersionInfo": {"max_cli_version": "9.9"}, "features": []},
            "models": {"pageInfo": {"endCursor": None, "hasNextPage": False}, "edges": []},
            "upsertModel": {"model": PROJECT, "project": PROJECT, "inserted": True},
            "upsertView": {"view": view_of(variables), "inserted": True},
            "upsertBucket": {"bucket": bucket | {"historyLineCount": 0, "project": PROJECT}, "inserted": True},
            "createRunFiles": {
                "runID": "b",
                "uploadHeaders": [],
                "files": [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in variables.get("files", [])],
            },
        }
        return {name: part for name, part in parts.items() if name in query}


def view_of(variables: dict[str, Any]) -> dict[str, Any]:
    """A workspace or report as W&B returns it after it was saved."""
    name, spec = variables.get("name", "view"), json.loads(variables.get("spec") or "{}")
    project = {"name": variables.get("projectName"), "entityName": variables.get("entityName")}
    text = {key: variables.get(key) or "" for key in ("displayName", "description")}
    return {"id": "view", "name": name, "type": variables.get("type"), **text, "project": project, "spec": spec}


@contextmanager
def wandb_server(state: str = "well") -> Iterator[StandIn]:
    """Run the stand-in on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = stand_in.answer(self.path, self.headers.get("Authorization"), body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_PUT = do_POST

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Clients that have left are no error."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    stand_in = StandIn(f"http://127.0.0.1:{server.server_port}", state)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield stand_in
    finally:
        server.shutdown()
        server.server_close()
