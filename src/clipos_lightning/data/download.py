"""Downloads that resume and are checked, archives that unpack safely: whole, or not there. No torch."""

import hashlib
import http.client
import lzma
import os
import posixpath
import re
import shutil
import stat
import sys
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from tqdm import tqdm

from ..errors import InputError

BLOCK_BYTES = 1 << 18
TRIES = 4  # that bring no byte more, before giving up
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
TIMEOUT = 60.0  # seconds without a byte
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError),  # the last two: an encrypted zip, a method unknown to us
)


class Dropped(Exception):
    """The connection ended, or never was; another try may help."""


def download(url: str, path: Path, md5: str | None, progress: bool = True) -> bool:
    """Fetch a file: it appears at ``path`` when it is whole and its checksum is right, and not before.

    What has arrived stays in ``<name>.partial`` beside it, and the next call goes on from there.

    Args:
        url: http or https.
        path: where it goes; a file that is there is checked and never replaced.
        md5: its checksum; None: not known, the file is taken as it comes.
        progress: a bar on stderr, where that is a terminal.

    Returns:
        True: fetched. False: it was there already.

    Raises:
        InputError: not reachable, not there, another checksum, no room.
    """
    if path.exists():
        check_present(path, md5, progress)
        return False
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        receive_all(url, path, partial, progress)
        found = file_md5(partial, progress) if md5 else None
        if found != md5:
            size = size_of(partial)
            partial.unlink()
            raise InputError(
                f"{url} sent {size:,} bytes with the wrong checksum (md5 {found}, it must be {md5}), now removed: run "
                f"it again, or download it by hand and put it at {path}"
            )
        os.rename(partial, path)
    except OSError as error:
        raise InputError(
            f"cannot write {partial}: {error.strerror or error}. Make room or give another root"
        ) from error
    return True


def check_present(path: Path, md5: str | None, progress: bool = True) -> None:
    """Accept the file that is there.

    Raises:
        InputError: it has another checksum; it is the user's, and stays as it is.
    """
    try:
        found = file_md5(path, progress) if md5 else None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}. Remove it, and download it again") from error
    if found != md5:
        raise InputError(
            f"{path} has the wrong checksum (md5 {found}, it must be {md5}): it is broken, or another file. Remove it, "
            "and download it again"
        )


def receive_all(url: str, path: Path, partial: Path, progress: bool) -> None:
    """Try until the partial file is whole; only tries that bring nothing new count.

    Raises:
        InputError: given up; what has arrived stays.
    """
    tries, most = 0, size_of(partial)
    while True:
        try:
            return receive(url, path, partial, progress)
        except Dropped as error:
            arrived = size_of(partial)
            tries, most = (1 if arrived > most else tries + 1), max(most, arrived)
            if tries >= TRIES:
                kept = f"; the {arrived:,} bytes that arrived are kept" if arrived else ""
                raise by_hand(url, path, f"{error}{kept}") from error
            time.sleep(PAUSE * 2 ** (tries - 1))


def receive(url: str, path: Path, partial: Path, progress: bool) -> None:
    """One try: go on from the partial file's end, or from the start where the server cannot.

    Raises:
        Dropped: the connection ended early.
        InputError: the server does not have the file.
    """
    start = size_of(partial)
    response = connect(url, path, start)
    if response is None:  # the server has nothing after the partial file's end
        return
    with response:
        if response.status == 206 and not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            partial.unlink(missing_ok=True)
            raise Dropped("the server sent another range than was asked for")
        start = start if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with open(partial, "ab" if start else "wb") as file, bar(path.name, total, start, progress) as shown:
            while piece := read_piece(response):
                file.write(piece)
                shown.update(len(piece))
    if total is not None and size_of(partial) < total:
        raise Dropped(f"the connection ended after {size_of(partial):,} of {total:,} bytes")


def connect(url: str, path: Path, start: int) -> http.client.HTTPResponse | None:
    """The answer to a request for the file from byte ``start`` on; None: that is where it ends."""
    headers = {"User-Agent": "clipos-lightning"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                if error.headers.get("Content-Range") == f"bytes */{start}":
                    return None
                path.with_name(f"{path.name}.partial").unlink(missing_ok=True)
                raise Dropped("the partial file does not fit the server's") from error
            if error.code in TRY_AGAIN:
                raise Dropped(f"the server answers {error.code} {error.reason}") from error
            raise by_hand(url, path, f"the server answers {error.code} {error.reason}") from error
    except (OSError, http.client.HTTPException) as error:  # URLError is an OSError
        raise Dropped(f"not reachable ({getattr(error, 'reason', None) or error})") from error


def read_piece(response: http.client.HTTPResponse) -> bytes:
    """What has arrived, at most a chunk; empty at the end."""
    try:
        return response.read1(BLOCK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise Dropped(f"the connection was lost ({error})") from error


def by_hand(url: str, path: Path, reason: str) -> InputError:
    """The error for a file that cannot be had this way."""
    return InputError(
        f"cannot fetch {url}: {' '.join(reason.split())}. Run it again, or download it by hand and put it at {path}"
    )


def size_of(path: Path) -> int:
    """Bytes; 0 for a file that is not there."""
    return path.stat().st_size if path.exists() else 0


def file_md5(path: Path, progress: bool = True) -> str:
    """A file's md5."""
    digest = hashlib.md5(usedforsecurity=False)
    with open(path, "rb") as file, bar(f"checking {path.name}", size_of(path), 0, progress) as shown:
        while piece := file.read(BLOCK_BYTES):
            digest.update(piece)
            shown.update(len(piece))
    return digest.hexdigest()


def bar(description: str, total: int | None, done: int, progress: bool) -> "tqdm[Any]":
    """A bar of bytes on stderr, which vanishes when done; only on a terminal."""
    return tqdm(
        desc=description,
        total=total,
        initial=done,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        leave=False,
        dynamic_ncols=True,
        disable=not progress or not sys.stderr.isatty(),
    )


def extract(archive: Path, folder: Path, parts: Sequence[str], progress: bool = True) -> bool:
    """Unpack a tar or zip: its ``parts`` appear in the folder when everything is unpacked, and not before.

    Args:
        archive: the file.
        folder: where the parts go.
        parts: names at the archive's top level; one that is in the folder already is never replaced.
        progress: a bar on stderr, where that is a terminal.

    Returns:
        True: unpacked. False: all parts were there already.

    Raises:
        InputError: a member that leaves the folder, a link out of it, a device; a broken archive; a part is not in it.
    """
    missing = [part for part in parts if not os.path.lexists(folder / part)]
    if not missing:
        return False
    scratch = folder / f".{archive.name}.unpacking"
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a run that was killed
        scratch.mkdir(parents=True)
        (unpack_zip if archive.suffix.lower() == ".zip" else unpack_tar)(archive, scratch, progress)
        absent = [part for part in missing if not os.path.lexists(scratch / part)]
        if absent:
            raise InputError(
                f"{archive} holds no {', '.join(absent)}: another archive? Remove it, and download it again"
            )
        for part in missing:
            os.rename(scratch / part, folder / part)
    except tarfile.FilterError as error:
        raise refused(archive, str(error)) from error
    except BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        ours = (
            isinstance(error, OSError) and error.errno
        )  # a full disk, a forbidden folder; a broken file has no number
        remedy = "Make room, or give another root" if ours else "Remove it, and download it again"
        raise InputError(f"cannot unpack {archive}: {reason}. {remedy}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def unpack_tar(archive: Path, folder: Path, progress: bool) -> None:
    """Members in order through tarfile's ``data`` filter, each checked by its name first."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"cannot unpack {archive} safely with this Python: 3.11.4 or newer is needed")
    links: set[str] = set()
    with open(archive, "rb") as raw, bar(f"unpacking {archive.name}", size_of(archive), 0, progress) as shown:
        with tarfile.open(fileobj=raw, mode="r:*", errorlevel=1) as tar:
            for member in tar:
                check_member(archive, member, links)
                tar.extract(member, folder, filter="data")
                shown.update(max(0, raw.tell() - shown.n))


def check_member(archive: Path, member: tarfile.TarInfo, links: set[str]) -> None:
    """Beyond the filter: no absolute names, nothing through a link, no link that goes down and up again.

    With these, a path's text says where it leads, whatever the version of Python's filter.
    """
    check_name(archive, member.name)
    name = posixpath.normpath(member.name)
    if {above.casefold() for above in (name, *parents(name))} & links:
        raise refused(archive, f"{member.name!r} goes through a link")
    if member.issym() or member.islnk():
        start = posixpath.dirname(name) if member.issym() else ""  # a hard link's target is below the archive's top
        steps = [step for step in re.split(r"[/\\]", member.linkname) if step not in ("", ".")]
        ups = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
        depth = len(start.split("/")) if start else 0
        if re.match(r"[/\\]|[A-Za-z]:", member.linkname) or ups > depth or ".." in steps[ups:]:
            raise refused(archive, f"the link {member.name!r} leads out of the folder, to {member.linkname!r}")
        links.add(name.casefold())


def parents(name: str) -> list[str]:
    """The folders above a path."""
    return [str(folder) for folder in PurePosixPath(name).parents]


def unpack_zip(archive: Path, folder: Path, progress: bool) -> None:
    """Files and folders alone; all are checked before the first is written."""
    with zipfile.ZipFile(archive) as packed:
        members = packed.infolist()
        for member in members:
            check_name(archive, member.filename)
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise refused(archive, f"{member.filename!r} is a link or a device")
        total = sum(member.file_size for member in members)
        with bar(f"unpacking {archive.name}", total, 0, progress) as shown:
            for member in members:
                packed.extract(member, folder)
                shown.update(member.file_size)


def check_name(archive: Path, name: str) -> None:
    """Refuse absolute paths, drives, and any step up."""
    if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise refused(archive, f"{name!r} would leave the folder")


def refused(archive: Path, reason: str) -> InputError:
    """The error for an archive that would write where it must not."""
    return InputError(f"refused to unpack {archive}: {reason}. Nothing was left behind; do not use this file")
