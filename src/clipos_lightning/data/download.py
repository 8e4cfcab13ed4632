"""Resumable downloads with checksums, and safe extraction of archives; both are atomic (no torch)."""

import hashlib
import http.client
import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import InputError
from ..utils.progress import BYTES, open_bar

BLOCK_BYTES = 1 << 18
MAX_TRIES = 4  # consecutive attempts without a new byte before giving up
RETRY_PAUSE = 1.0  # seconds before the second attempt; doubled before each further one
TIMEOUT = 60.0  # seconds without data
RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
ARCHIVE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError),  # the last two: encrypted zips, unknown compression
)


class ConnectionLost(Exception):
    """The connection failed or was interrupted; another attempt may succeed."""


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
        path.parent.mkdir(parents=True, exist_ok=True)
        receive_with_retries(url, path, partial, progress)
        found = file_md5(partial, progress) if md5 else None
        if found != md5:
            size = file_size(partial)
            partial.unlink()
            raise InputError(
                f"{url} sent {size:,} bytes with the wrong checksum (md5 {found}, expected {md5}), now removed: run "
                f"the command again, or download the file by hand and put it at {path}"
            )
        os.rename(partial, path)
    except OSError as error:
        raise InputError(
            f"cannot write {partial}: {error.strerror or error}. Free some space, or use another --root"
        ) from error
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
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
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


def extract(archive: Path, folder: Path, parts: Sequence[str], progress: bool = True) -> bool:
    """Unpack a tar or zip archive: its ``parts`` appear in the folder once everything is unpacked.

    Args:
        archive: the file.
        folder: where the parts go.
        parts: names at the archive's top level; an existing one is never replaced.
        progress: show it on stderr: a bar on a terminal, otherwise a line every 30 s.

    Returns:
        True if the archive was unpacked, False if all parts existed.

    Raises:
        InputError: a member or link points out of the folder, a member is a device, the archive is damaged, a part is
            not in it, or the folder is not writable.
    """
    missing = [part for part in parts if not os.path.lexists(folder / part)]
    if not missing:
        return False
    scratch = folder / f".{archive.name}.unpacking"
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # left by an interrupted run
        scratch.mkdir(parents=True)
        (unpack_zip if archive.suffix.lower() == ".zip" else unpack_tar)(archive, scratch, progress)
        absent = [part for part in missing if not os.path.lexists(scratch / part)]
        if absent:
            raise InputError(
                f"{archive} does not contain {', '.join(absent)}: is it another archive? Remove it, and download it "
                "again"
            )
        for part in missing:
            os.rename(scratch / part, folder / part)
    except tarfile.FilterError as error:
        raise unsafe_archive(archive, str(error)) from error
    except ARCHIVE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        # the file system sets errno (disk full, no permission), a damaged archive does not
        file_system = isinstance(error, OSError) and error.errno
        remedy = "Free some space, or use another --root" if file_system else "Remove it, and download it again"
        raise InputError(f"cannot unpack {archive}: {reason}. {remedy}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def unpack_tar(archive: Path, folder: Path, progress: bool) -> None:
    """Unpack the members in order with tarfile's ``data`` filter, after :func:`check_member`."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"cannot unpack {archive} safely with this version of Python: use 3.11.4 or newer")
    links: set[str] = set()
    with (
        open(archive, "rb") as raw,
        open_bar(f"unpacking {archive.name}", file_size(archive), BYTES, shown=progress) as shown,
    ):
        with tarfile.open(fileobj=raw, mode="r:*", errorlevel=1) as tar:
            for member in tar:
                check_member(archive, member, links)
                tar.extract(member, folder, filter="data")
                shown.update(max(0, raw.tell() - shown.n))


def check_member(archive: Path, member: tarfile.TarInfo, links: set[str]) -> None:
    """Reject members that tarfile's ``data`` filter may miss in some versions of Python.

    These are absolute names, paths through a link, and links whose target contains ``..`` after a folder name. Without
    them, the text of a path determines where it leads.

    Args:
        archive: the file, for error messages.
        member: the member to check.
        links: names of the links so far; a link is added.

    Raises:
        InputError: the member is unsafe.
    """
    check_name(archive, member.name)
    name = posixpath.normpath(member.name)
    if {above.casefold() for above in (name, *map(str, PurePosixPath(name).parents))} & links:
        raise unsafe_archive(archive, f"{member.name!r} goes through a link")
    if member.issym() or member.islnk():
        start = posixpath.dirname(name) if member.issym() else ""  # a hard link's target is below the archive's top
        steps = [step for step in re.split(r"[/\\]", member.linkname) if step not in ("", ".")]
        ups = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
        depth = len(start.split("/")) if start else 0
        if re.match(r"[/\\]|[A-Za-z]:", member.linkname) or ups > depth or ".." in steps[ups:]:
            raise unsafe_archive(archive, f"the link {member.name!r} points out of the folder, to {member.linkname!r}")
        links.add(name.casefold())


def unpack_zip(archive: Path, folder: Path, progress: bool) -> None:
    """Unpack files and folders, after checking all members; links and devices are rejected."""
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            check_name(archive, member.filename)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise unsafe_archive(archive, f"{member.filename!r} is a link or a device")
        total = sum(member.file_size for member in members)
        with open_bar(f"unpacking {archive.name}", total, BYTES, shown=progress) as shown:
            for member in members:
                packed.extract(member, folder)
                shown.update(member.file_size)


def check_name(archive: Path, name: str) -> None:
    """Reject absolute paths, drive letters and ``..``."""
    if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise unsafe_archive(archive, f"{name!r} would leave the folder")


def unsafe_archive(archive: Path, reason: str) -> InputError:
    """Build the error for an archive that would write outside of its folder."""
    return InputError(f"refused to unpack {archive}: {reason}. Nothing was unpacked; do not use this file")
