"""Safe and atomic extraction of archives (no torch)."""

import lzma
import os
import posixpath
import re
import shutil
import stat
import tarfile
import uuid
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..errors import InputError, message_of
from ..utils.files import sync_folder
from ..utils.progress import BYTES, open_bar

ARCHIVE_ERRORS = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
    *(EOFError, OSError, RuntimeError, NotImplementedError),  # the last two: encrypted zips, unknown compression
)


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
    scratch = folder / f".{archive.name}.{uuid.uuid4().hex[:12]}.unpacking"
    try:
        scratch.mkdir(parents=True)
        unpack = unpack_zip if archive.suffix.lower() == ".zip" else unpack_tar
        check_unpacked(archive, scratch, unpack(archive, scratch, progress), missing)
        for part in missing:
            os.rename(scratch / part, folder / part)
        sync_folder(folder)
    except tarfile.FilterError as error:
        raise unsafe_archive(archive, str(error)) from error
    except ARCHIVE_ERRORS as error:
        reason = message_of(error)
        # the file system sets errno (disk full, no permission), a damaged archive does not
        file_system = isinstance(error, OSError) and error.errno
        remedy = "Free some space, or use another --root" if file_system else "Remove it, and download it again"
        raise InputError(f"cannot unpack {archive}: {reason}. {remedy}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def check_unpacked(archive: Path, folder: Path, members: Sequence[str], parts: Sequence[str]) -> None:
    """Check that everything was unpacked, and write it to the disk where the operating system can.

    Args:
        archive: the file, for error messages.
        folder: where it was unpacked.
        members: names of the archive's members.
        parts: names at the archive's top level that it must contain.

    Raises:
        InputError: a part is not in the archive, or a member is not in the folder.
    """
    absent = [part for part in parts if not os.path.lexists(folder / part)]
    if absent:
        raise InputError(
            f"{archive} does not contain {', '.join(absent)}: is it another archive? Remove it, and download it again"
        )
    lost = sum(not os.path.lexists(folder / name) for name in members)
    if lost:
        raise InputError(f"{lost:,} of {len(members):,} files of {archive} vanished while it was unpacked: try again")
    if hasattr(os, "sync"):
        os.sync()


def unpack_tar(archive: Path, folder: Path, progress: bool) -> list[str]:
    """Unpack the members in order with tarfile's ``data`` filter, after :func:`check_member`; returns their names."""
    if not hasattr(tarfile, "data_filter"):
        raise InputError(f"cannot unpack {archive} safely with this version of Python: use 3.11.4 or newer")
    links: set[str] = set()
    with (
        open(archive, "rb") as raw,
        open_bar(f"unpacking {archive.name}", archive.stat().st_size, BYTES, shown=progress) as shown,
    ):
        with tarfile.open(fileobj=raw, mode="r:*", errorlevel=1) as tar:
            for member in tar:
                check_member(archive, member, links)
                tar.extract(member, folder, filter="data")
                shown.update(max(0, raw.tell() - shown.n))
            return tar.getnames()


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


def unpack_zip(archive: Path, folder: Path, progress: bool) -> list[str]:
    """Unpack files and folders, after checking all members; links and devices are rejected; returns their names."""
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
        return packed.namelist()


def check_name(archive: Path, name: str) -> None:
    """Reject absolute paths, drive letters and ``..``."""
    if re.match(r"[/\\]|[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        raise unsafe_archive(archive, f"{name!r} would leave the folder")


def unsafe_archive(archive: Path, reason: str) -> InputError:
    """Build the error for an archive that would write outside of its folder."""
    return InputError(f"refused to unpack {archive}: {reason}. Nothing was unpacked; do not use this file")
