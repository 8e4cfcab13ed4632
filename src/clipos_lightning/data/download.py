"""Resumable downloads with checksums, which are atomic (no torch).

A file's lock lets one process at a time download and unpack it; others wait.
"""

import glob
import hashlib
import http.client
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from ..errors import InputError
from ..utils.files import make_folder, replace_synced
from ..utils.locks import hold_lock
from ..utils.progress import BYTES, open_bar

BLOCK_BYTES = 1 << 18
MAX_TRIES = 4  # consecutive attempts without a new byte before giving up
RETRY_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 60.0  # seconds without data
WAIT_SECONDS = 0.5  # between attempts to get the lock of an archive
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}


class ConnectionLost(Exception):
    """The connection failed or was interrupted; another attempt may succeed."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until no other process downloads or unpacks a file, then remove what a killed one has left unpacked.

    Args:
        path: of the downloaded file; its folder is created.

    Raises:
        InputError: the folder cannot be created, or is not writable.
    """

    def wait(holder: str) -> None:
        if holder not in told:
            print(f"waiting for {holder}, which downloads {path}", file=sys.stderr, flush=True)
            told.add(holder)
        time.sleep(WAIT_SECONDS)

    told = set[str]()
    with ExitStack() as stack:
        try:
            make_folder(path.parent)
            locked = stack.enter_context(hold_lock(path, wait))
        except OSError as error:
            raise cannot_write(path, error) from error
        for old in path.parent.glob(f".{glob.escape(path.name)}.*unpacking") if locked else ():
            shutil.rmtree(old, ignore_errors=True)
        yield


def cannot_write(path: Path, error: OSError) -> InputError:
    """Build the error for a file that the file system refuses."""
    return InputError(f"cannot write {path}: {error.strerror or error}. Free some space, or use another --root")


def download(url: str, path: Path, md5: str | None, progress: bool = True) -> bool:
    """Download a file: it appears at ``path`` once it is complete and its checksum is right.

    An incomplete file is kept as ``<name>.partial`` in the same folder, and the next call resumes it.

    Args:
        url: http or https.
        path: the target; an existing file is verified and never replaced.
        md5: the file's MD5; None: not verified.
        progress: show it on stderr: a bar on a terminal, otherwise a line every 30 s.

    Returns:
        True if the file was downloaded, False if it existed.

    Raises:
        InputError: the server cannot be reached or does not have the file, the checksum is wrong, or the file cannot be
            written.
    """
    if path.exists():
        check_existing(path, md5, progress)
        return False
    partial = path.with_name(f"{path.name}.partial")
    try:
        make_folder(path.parent)
        receive_with_retries(url, path, partial, progress)
        found = file_md5(partial, progress) if md5 else None
        if found != md5:
            size = file_size(partial)
            partial.unlink()
            raise InputError(
                f"{url} sent {size:,} bytes with the wrong checksum (md5 {found}, expected {md5}), now removed: run "
                f"the command again, or download the file by hand and put it at {path}"
            )
        replace_synced(partial, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return True


def check_existing(path: Path, md5: str | None, progress: bool = True) -> None:
    """Verify an existing file; it is never changed.

    Raises:
        InputError: it cannot be read, or its checksum is wrong.
    """
    try:
        found = file_md5(path, progress) if md5 else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}. Remove it, and download it again") from error
    if found != md5:
        raise InputError(
            f"{path} has the wrong checksum (md5 {found}, expected {md5}): it is damaged, or another file. Remove it, "
            "and download it again"
        )


def receive_with_retries(url: str, path: Path, partial: Path, progress: bool) -> None:
    """Attempt the download until the partial file is complete.

    Raises:
        InputError: ``MAX_TRIES`` consecutive attempts brought no new byte; the partial file is kept.
    """
    tries, most = 0, file_size(partial)
    while True:
        try:
            return receive(url, path, partial, progress)
        except ConnectionLost as error:
            arrived = file_size(partial)
            tries, most = (1 if arrived > most else tries + 1), max(most, arrived)
            if tries >= MAX_TRIES:
                kept = f"; the {arrived:,} bytes that arrived are kept" if arrived else ""
                raise download_error(url, path, f"{error}{kept}") from error
            time.sleep(RETRY_PAUSE * 2 ** (tries - 1))


def receive(url: str, path: Path, partial: Path, progress: bool) -> None:
    """One attempt: resume at the end of the partial file, or start over if the server does not support ranges.

    Raises:
        ConnectionLost: the connection failed or ended early.
        InputError: the server does not have the file.
    """
    start = file_size(partial)
    response = connect(url, path, start)
    if response is None:  # the partial file is complete
        return
    with response:
        if response.status == 206 and not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            partial.unlink(missing_ok=True)
            raise ConnectionLost("the server sent another range than requested")
        start = start if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(partial, "ab" if start else "wb") as file,
            open_bar(path.name, total, BYTES, start, shown=progress) as shown,
        ):
            while piece := read_piece(response):
                file.write(piece)
                shown.update(len(piece))
    if total is not None and file_size(partial) < total:
        raise ConnectionLost(f"the connection ended after {file_size(partial):,} of {total:,} bytes")


def connect(url: str, path: Path, start: int) -> http.client.HTTPResponse | None:
    """Request the file from byte ``start`` on; None if the file has exactly ``start`` bytes."""
    headers = {"User-Agent": "clipos-lightning"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        request = urllib.request.Request(url, headers=headers)
        return urllib.request.urlopen(request, timeout=TIMEOUT)  # a URL of sources.py  # nosec B310
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                if error.headers.get("Content-Range") == f"bytes */{start}":
                    return None
                path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
                raise ConnectionLost("the partial file does not match the server's file") from error
            if error.code in RETRY_STATUS:
                raise ConnectionLost(f"the server answers {error.code} {error.reason}") from error
            raise download_error(url, path, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise ConnectionLost(f"not reachable ({getattr(error, 'reason', None) or error})") from error


def read_piece(response: http.client.HTTPResponse) -> bytes:
    """The bytes that have arrived, at most ``BLOCK_BYTES``; empty at the end."""
    try:
        return response.read1(BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionLost(f"the connection was lost ({error})") from error


def download_error(url: str, path: Path, reason: str) -> InputError:
    """Build the error for a failed download."""
    return InputError(
        f"cannot fetch {url}: {' '.join(reason.split())}. Run the command again, or download the file by hand and put "
        f"it at {path}"
    )


def file_size(path: Path) -> int:
    """Size in bytes; 0 for a file that does not exist."""
    return path.stat().st_size if path.exists() else 0


def file_md5(path: Path, progress: bool = True) -> str:
    """MD5 of a file as hexadecimal."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, open_bar(f"checking {path.name}", file_size(path), BYTES, shown=progress) as shown:
        while piece := file.read(BLOCK_BYTES):
            digest.update(piece)
            shown.update(len(piece))
    return digest.hexdigest()
