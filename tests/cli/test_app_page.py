"""The page of ``clipos app`` in a headless browser: an image, the slider, several images, the CSV, and Ctrl-C."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import CHROMIUM, Browser
from running import clipos, inside, save_classes, save_detector, save_noise, save_scene

pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
SECONDS = 120.0  # for anything to happen on a busy machine
SETTLE = 2  # the components' handlers are attached after they are drawn
DEAD_PROXY = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector calibrated for a recall of 90 %, and images, one broken."""
    pytest.importorskip("gradio")
    root = tmp_path_factory.mktemp("page")
    save_detector(root / "plain.safetensors")
    save_classes(root / "more", 9)
    save_scene(root / "images/star.png", "star", 2)
    save_noise(root / "images/noise.png", 3)
    (root / "images/broken.png").write_bytes(b"no image")
    (root / "images/notes.txt").write_bytes(b"text")
    with inside(root):
        words = ("--recall", 0.9, "--num_workers", 0, "--device", "cpu")
        assert clipos("calibrate", "plain.safetensors", "more", *words).code == 0
    return root


class Server:
    """``clipos app`` as a process."""

    def __init__(self, place: Path, *words: str) -> None:
        command = [sys.executable, "-m", "clipos_lightning", "app", *words, "--device", "cpu"]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=place, env={**os.environ, **DEAD_PROXY}, **pipes)
        self.line = self.process.stdout.readline() if self.process.stdout else ""

    @property
    def url(self) -> str:
        return self.line.split()[1]

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; returns the exit code and stderr."""
        self.process.send_signal(signal.SIGINT)
        err = self.process.communicate(timeout=SECONDS)[1]
        return self.process.returncode, err


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    server = Server(place, "detector.safetensors")
    yield server
    server.process.kill()
    server.process.wait()


def wait(browser: Browser, expression: str) -> Any:
    """The value of a JavaScript expression as soon as it is true."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        value = browser.run(f"(() => {{ try {{ return {expression} }} catch {{ return null }} }})()")  # no element
        if value:
            return value
        time.sleep(0.2)
    raise AssertionError(f"{expression} is never true: {browser.run('document.body.innerText')}")


def give(browser: Browser, selector: str, *paths: Path) -> None:
    """Give files, or a folder, to an input."""
    root = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])


def download(browser: Browser, folder: Path, button: str) -> str:
    """The text of the file that a button gives."""
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
    browser.run(
        f"[...document.querySelectorAll('button')].find(b => b.innerText.includes({json.dumps(button)})).click()"
    )
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        files = [path for path in folder.glob("*") if path.suffix != ".crdownload"]
        if files:
            return files[0].read_text(encoding="utf-8")
        time.sleep(0.2)
    raise AssertionError("nothing was downloaded")


def open_page(browser: Browser, url: str) -> None:
    browser.call("Page.navigate", url=url)
    wait(browser, "document.querySelectorAll('input[type=file], [role=tab]').length >= 3")
    time.sleep(SETTLE)


def text_of(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)}).innerText"


def test_an_image_the_slider_and_a_table(place: Path, server: Server, tmp_path: Path) -> None:
    expected = clipos("predict", place / "detector.safetensors", place / "images", "--format", "csv", "--device", "cpu")
    rows = {Path(line.split(",")[0]).name: line.split(",") for line in expected.out.splitlines()[1:]}
    with Browser(tmp_path, timeout=SECONDS) as browser:
        browser.size(1280, 900)
        open_page(browser, server.url)
        give(browser, "input[accept='image/*']", place / "images/noise.png")
        assert wait(browser, text_of(".decision .label")) == rows["noise.png"][5] == "unknown"
        assert wait(browser, text_of(".decision .score")).startswith(f"energy {float(rows['noise.png'][3]):.4g} < ")
        assert wait(browser, "document.querySelectorAll('.maps img').length") == 5

        browser.run("document.querySelector('input[type=range]').focus()")
        for _ in range(3):
            browser.press("ArrowRight", 39)
        assert wait(browser, text_of("p.note") + ".includes('at least 93 %')")
        threshold = wait(browser, text_of("p.note b")).removeprefix("energy ≥ ")

        browser.run("[...document.querySelectorAll('[role=tab]')].at(-1).click()")
        wait(browser, "document.querySelectorAll('input[webkitdirectory]').length")
        time.sleep(SETTLE)
        give(browser, "input[multiple]", place / "images/star.png", place / "images/broken.png")
        assert wait(browser, "document.body.innerText.includes('2 images, 0 unknown, 1 unreadable')")
        give(browser, "input[webkitdirectory]", place / "images")
        assert wait(browser, "document.body.innerText.includes('left out 1 file with other suffixes (.txt)')")
        table = wait(browser, "document.body.innerText.split('probability, %').at(-1)")
        assert "unreadable" in table and "unknown image format" in table and "star.png" in table
        csv = download(browser, tmp_path / "downloads", "Download as CSV")
        found = {line.split(",")[0]: line.split(",") for line in csv.splitlines()[1:]}
        assert found.keys() == rows.keys() == {"star.png", "noise.png", "broken.png"}
        for name in ("star.png", "noise.png"):
            assert found[name][1:4] == rows[name][1:4] and float(found[name][6]) == pytest.approx(
                float(threshold), abs=1e-4
            )

        browser.size(400, 800)
        wait(browser, "document.documentElement.scrollWidth <= 400")
        own = server.url.removeprefix("http://")
        others = [url for url in browser.requests if not url.startswith(("data:", "blob:", f"http://{own}"))]
        assert others == [] and browser.problems == []


def test_a_broken_image_is_reported_on_the_page(place: Path, server: Server, tmp_path: Path) -> None:
    with Browser(tmp_path, timeout=SECONDS) as browser:
        open_page(browser, server.url)
        give(browser, "input[accept='image/*']", place / "images/broken.png")
        assert wait(browser, text_of(".message.problem")).startswith("No decision")
        assert "cannot read image broken.png: unknown image format" in browser.run(text_of(".message.problem"))


def test_ctrl_c_frees_the_port_while_a_page_is_open(place: Path, server: Server, tmp_path: Path) -> None:
    port = int(server.url.rpartition(":")[2])
    with Browser(tmp_path, timeout=SECONDS) as browser:
        open_page(browser, server.url)
        assert server.interrupt() == (130, "clipos: interrupted\n")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))


def test_without_a_threshold_there_is_no_slider_but_the_command(place: Path, tmp_path: Path) -> None:
    server = Server(place, "plain.safetensors", "--host", "localhost")
    try:
        with Browser(tmp_path, timeout=SECONDS) as browser:
            open_page(browser, server.url)
            assert "clipos calibrate plain.safetensors IMAGES" in wait(browser, text_of("p.note"))
            assert browser.run("document.querySelector('input[type=range]')") is None
    finally:
        server.process.kill()
        server.process.wait()
