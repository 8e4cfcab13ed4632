"""``clipos app``: a page in the browser on which a detector is tried on images, for this machine only by default."""

import argparse
import importlib.util
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event
from typing import Any

from ..detector.detector import Detector
from ..errors import InputError
from ..options.messages import DETECTOR_HELP, CommandParser
from ..utils.progress import silence_libraries
from ..utils.quiet import quiet
from .inference import add_loading_options, add_max_pixels, decoding_for

LOCAL = "127.0.0.1"
LOOPBACK = (LOCAL, "localhost", "::1")
PORT, PORTS = 7860, 100  # the first port, and the number of ports that are tried
LOOP_SECONDS = 0.5
CONNECTION_SECONDS = 1  # for the connections of open pages
SETTINGS = {  # of Gradio, before it is imported: nothing leaves the machine, nothing is recorded
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_RUN_HISTORY": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def app_parser() -> CommandParser:
    """The parser of ``clipos app``."""
    text = (
        "Open a page in the browser on which a detector is tried: drop an image to see its class or unknown, its score "
        "and its maps; several images or a folder give a table."
    )
    parser = CommandParser(prog="clipos app", description=text)
    parser.add_argument("file", metavar="FILE", help=DETECTOR_HELP)
    text = f"port of the page (default: {PORT}, or the next free one)"
    parser.add_argument("--port", type=int, metavar="N", help=text)
    text = "address to listen on; any other than the default lets other machines use the page (default: %(default)s)"
    parser.add_argument("--host", default=LOCAL, metavar="ADDRESS", help=text)
    parser.add_argument("--browser", action="store_true", help="open the page in the browser")
    add_max_pixels(parser)
    add_loading_options(parser)
    return parser


def choose_port(host: str, port: int | None) -> int:
    """The port to listen on: the given one, or the first free one of those that are tried.

    Raises:
        InputError: it is taken or not a port, all are taken, or the machine does not have the address.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"app: --port is {port}: it must be from 1 to 65535")
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise InputError(f"app: --host {host}: {error.strerror or error}: give an address of this machine") from error
    failure = OSError()
    for candidate in range(PORT, PORT + PORTS) if port is None else [port]:
        with closing(socket.socket(family)) as listener:
            if os.name == "posix":  # as servers do: a port whose connections have just ended is free
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((host, candidate))
                return candidate
            except OSError as error:
                failure = error
    where = f"--port {port}" if port is not None else f"--host {host}, ports {PORT} to {PORT + PORTS - 1}"
    raise InputError(f"app: {where}: {(failure.strerror or str(failure)).lower()}: give another --port or --host")


def prepare_gradio(scratch: str, host: str) -> None:
    """Set Gradio's environment: uploads in ``scratch``, no telemetry, and no proxy between it and its own page."""
    os.environ.update(SETTINGS, GRADIO_TEMP_DIR=scratch)
    former = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    os.environ["no_proxy"] = ",".join(filter(None, (former, *LOOPBACK, host)))


def main(arguments: Sequence[str]) -> int:
    """Run ``clipos app`` until it is interrupted.

    Raises:
        InputError: an option is wrong, the extra ``app`` is missing, or the port is taken.
    """
    silence_libraries()
    given = app_parser().parse_args(list(arguments))
    if importlib.util.find_spec("gradio") is None:
        raise InputError("app: the package gradio is missing: pip install 'clipos-lightning[app]'")
    choose_port(given.host, given.port)  # wrong options are reported before the detector is loaded
    detector = Detector.load(given.file, given.device, given.pretrained, given.trust)
    port = choose_port(given.host, given.port)
    if given.host not in LOOPBACK:
        print(f"warning: --host {given.host}: whoever reaches this machine can use the page", file=sys.stderr)
    with serve(detector, given, port) as url:
        print(f"app: {url} (Ctrl-C ends it)", flush=True)
        while True:
            Event().wait(LOOP_SECONDS)


@contextmanager
def serve(detector: Detector, given: argparse.Namespace, port: int) -> Iterator[str]:
    """Serve the page inside a ``with`` block; afterwards the port is free, and the uploaded files are deleted.

    Yields:
        The address of the page.
    """
    stopped = Event()
    with TemporaryDirectory(prefix="clipos-app-") as scratch:
        prepare_gradio(scratch, given.host)
        from .app_page import AppPage, build_page, page_theme  # Gradio reads the environment when it is imported

        blocks = build_page(AppPage(detector, given.file, decoding_for(detector, given), Path(scratch), stopped))
        try:
            yield launch_page(blocks, given, port, page_theme())
        finally:
            stopped.set()
            end_page(blocks)


def launch_page(blocks: Any, given: argparse.Namespace, port: int, theme: Any) -> str:
    """Start the server of the page; returns its address."""
    from ..reporting.html import read_template

    name = f"[{given.host}]" if ":" in given.host else given.host
    try:
        blocks.launch(
            server_name=name,
            server_port=port,
            inbrowser=given.browser,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            prevent_thread_lock=True,
            quiet=True,
            show_error=True,
            footer_links=[],
            theme=theme,
            css=read_template("app.css"),
        )
    except OSError as error:  # taken while the detector was loaded
        raise InputError(f"app: port {port} has just been taken: give another --port, or run it again") from error
    return f"http://{'localhost' if name in ('0.0.0.0', '[::]') else name}:{port}"


def end_page(blocks: Any) -> None:
    """Stop the server, without waiting long for the connections of open pages."""
    server = getattr(blocks, "server", None)
    if server is not None:
        server.config.timeout_graceful_shutdown = CONNECTION_SECONDS
    with quiet():  # uvicorn reports the connections that it closes
        blocks.close(verbose=False)
