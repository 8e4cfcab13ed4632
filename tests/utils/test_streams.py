"""Standard streams that are closed or full, whose reader has left, or whose encoding lacks a character."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import done, save_noise

from clipos_lightning.cli.predict import print_rows, row_of
from clipos_lightning.detector.decisions import Decision
from clipos_lightning.utils.streams import LOSSY, LenientStream, OutputStream

CLIPOS = f"{sys.executable} -m clipos_lightning"
FULL = "clipos: error: cannot write to stdout: No space left on device\n"
pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a shell and /dev/full")


def shell(line: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    """Run a line of bash."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    return subprocess.run(["bash", "-c", line], capture_output=True, timeout=240, check=False, env=environment)


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("configs >&-", 0, ""),
        ("configs >&- 2>&- <&-", 0, ""),
        ("nosuch 2>&-", 2, ""),
        ("nosuch 2>/dev/full", 2, ""),
        ("configs >/dev/full", 2, FULL),
        ("--help >/dev/full", 2, FULL),
        ("configs >/dev/full 2>/dev/full", 2, ""),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_closed_and_full_streams(line: str, code: int, err: str, unbuffered: str) -> None:
    run = shell(f"{CLIPOS} {line}", PYTHONUNBUFFERED=unbuffered)
    assert (run.returncode, run.stderr.decode()) == (code, err)


def test_a_reader_that_leaves_ends_the_command_like_sigpipe() -> None:
    run = shell(f"{CLIPOS} configs | true; exit ${{PIPESTATUS[0]}}", PYTHONUNBUFFERED="1")
    assert (run.returncode, run.stderr) == (141, b"")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_encodings_that_lack_characters(encoding: str) -> None:
    run = shell(f"{CLIPOS} --help; {CLIPOS} nosuch-→", PYTHONIOENCODING=encoding)
    assert run.returncode == 2 and b"Traceback" not in run.stderr
    out, err = run.stdout.decode(encoding), run.stderr.decode(encoding)
    assert ("runs/fit-…" if encoding in ("cp1252", "utf-8") else "runs/fit-...") in out
    assert ("nosuch-→" if encoding == "utf-8" else "nosuch-->") in err


def test_a_name_that_is_no_text_keeps_its_bytes() -> None:
    assert "caf\udce9 é →".encode("ascii", LOSSY) == b"caf\xe9 ? ->"


def test_errors_of_writing_are_kept_or_dropped() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        out, err = OutputStream(full, "utf-8", write_through=True), LenientStream(full, "utf-8", write_through=True)
        with pytest.raises(OSError, match="No space"):
            out.write("text\n")
        assert out.failure is not None and "No space" in str(out.failure)
        assert err.write("text\n") == 5


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
@pytest.mark.parametrize("form", ["csv", "jsonl", "table"])
def test_rows_on_stdout(form: str, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON lines lose nothing in any encoding; a score that is not finite makes the row an unreadable one."""
    stream = OutputStream(buffer := io.BytesIO(), encoding, LOSSY)
    monkeypatch.setattr(sys, "stdout", stream)
    found = Decision("犬", "犬", 0.5, 1.0, 0.0)
    rows = [row_of("é→.png", "", found), row_of("b.png", "", Decision("犬", "犬", 0.5, float("nan"), 0.0))]
    print_rows(iter([rows]), form, ["犬"])
    lines = buffer.getvalue().decode(encoding).splitlines()
    assert ("é→.png" if encoding == "utf-8" else "?->.png") in lines[-2] or form == "jsonl"
    assert "not finite" in lines[-1]
    if form == "jsonl":
        first, second = map(json.loads, lines)
        assert (first["path"], first["class"], second["score"]) == ("é→.png", "犬", None)


@pytest.mark.slow
def test_every_command_with_closed_and_full_streams(tmp_path: Path) -> None:
    """It does its work, or reports that stdout is full; nothing is a defect."""
    checkpoint = done("fit", "--config", "demo.yaml", "--trainer.max_steps", 1, "--trainer.default_root_dir", tmp_path)
    save_noise(tmp_path / "images" / "=1.png", 1)
    cpu = "--trainer.accelerator cpu --data.num_workers 0"
    commands = {
        "fit": f"fit --config demo.yaml --trainer.max_steps 1 {cpu}",
        "test": f"test --ckpt_path {checkpoint.checkpoint} --data.limit_per_set 5 {cpu}",
        "predict": f"predict {checkpoint.checkpoint} images --num_workers 0 --device cpu",
        "data": "data list",
        "help": "fit --help all",
        "completion": "completion bash",
    }
    for name, words in commands.items():
        for streams, code in ((">&- 2>&- <&-", 0), (">/dev/full", 2), ("2>/dev/full >out.txt", 0)):
            run = shell(f"cd {tmp_path} && {CLIPOS} {words} {streams}")
            assert (run.returncode, run.stderr[-300:]) == (code, run.stderr[-300:]), (name, streams)
            assert b"Traceback" not in run.stderr, (name, streams)
