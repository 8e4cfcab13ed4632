"""A web server on loopback for a folder that mirrors the web; it answers as file servers and the Hugging Face hub do.

It knows ranges, the hub's headers, and the faults of a first run: a slow line, and a server that never answers.
"""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

BLOCK = 1 << 18
HUB = "/huggingface.co/"


@dataclass
class Web:
    """A running server.

    Attributes:
        folder: what it serves, as ``<host>/<path>``.
        address: ``http://127.0.0.1:PORT``.
        rate: bytes per second of each answer; None: as fast as it can.
        silent: accept connections and never answer.
    """

    folder: Path
    address: str = ""
    rate: float | None = None
    silent: bool = False

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer HEAD or GET."""
        while self.silent:
            time.sleep(0.05)
        path = self.folder / unquote(urlsplit(handler.path).path).lstrip("/")
        on_hub = handler.path.startswith(HUB)
        if not path.is_file():
            handler.send_response(404)
            headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "0" * 40} if on_hub else {}
            return send_headers(handler, {**headers, "Content-Length": "0"})
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "")
        start = int(asked[1]) if asked else 0
        headers = {"Content-Length": str(size - start), "Accept-Ranges": "bytes"}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if on_hub:
            etag = hashlib.sha256(f"{path} {size}".encode()).hexdigest()
            headers |= {"ETag": f'"{etag}"', "X-Repo-Commit": "0" * 40}
        handler.send_response(206 if asked else 200)
        send_headers(handler, headers)
        if handler.command == "GET":
            self.send(path, start, handler)

    def send(self, path: Path, start: int, handler: BaseHTTPRequestHandler) -> None:
        """Send a file from a byte on, at ``rate``."""
        rate = self.rate
        with open(path, "rb") as file:
            file.seek(start)
            while block := file.read(BLOCK):
                handler.wfile.write(block)
                time.sleep(len(block) / rate if rate else 0)


def send_headers(handler: BaseHTTPRequestHandler, headers: dict[str, str]) -> None:
    """Send the headers of an answer."""
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.end_headers()


@contextmanager
def serve_web(folder: Path) -> Iterator[Web]:
    """Serve a folder on loopback until the end of the body."""
    web = Web(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                web.answer(self)
            except (BrokenPipeError, ConnectionResetError):  # the client was stopped
                self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    class Threads(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False  # silent answers never end

    with Threads(("127.0.0.1", 0), Handler) as server:
        web.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield web
        finally:
            web.silent = False
            server.shutdown()
            thread.join()
