"""Locks between processes: who writes a file, and since when. The operating system frees those of dead processes."""

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import name_target

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, getattr(errno, "EOPNOTSUPP", errno.ENOSYS)}
LOCKED_BYTE = 1 << 30  # behind the text, which Windows could not read from a locked part


@contextmanager
def hold_lock(target: Path, busy: Callable[[str], object]) -> Iterator[bool]:
    """Hold the lock of a file that does not have to exist: ``.NAME.lock`` beside it, removed at the end.

    Args:
        target: the file to write.
        busy: called with a description of the process that holds the lock, before each further attempt; it raises an
            error to give up, or waits.

    Yields:
        True; False on file systems without locks, where nothing is locked.

    Raises:
        WriteError: the folder does not exist or is not writable.

    Example:
        >>> import tempfile
        >>> rows = Path(tempfile.mkdtemp()) / "rows.csv"
        >>> with hold_lock(rows, busy=print) as locked:
        ...     print(locked, [path.name for path in rows.parent.iterdir()])
        True ['.rows.csv.lock']
        >>> list(rows.parent.iterdir())
        []
    """
    path = target.with_name(f".{target.name}.lock")
    with name_target(target, path):
        file = acquire(path, busy)
    try:
        yield file is not None
    finally:
        if file is not None:
            release(path, file)


def acquire(path: Path, busy: Callable[[str], object]) -> int | None:
    """Lock a file, as :func:`hold_lock` says; returns its descriptor, or None on file systems without locks."""
    try:
        while (file := try_lock(path)) is None:
            busy(describe_holder(path))
        return file
    except OSError as error:
        if error.errno in NO_LOCKS:
            return None
        raise


def try_lock(path: Path) -> int | None:
    """Lock a file for this process, without its children; it gets the process's description.

    Returns:
        Its descriptor; None: another process holds the lock.
    """
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked = False
        try:
            lock_file(file)
            locked = os.path.samestat(os.fstat(file), os.stat(path))
            if locked:
                write_holder(file)
                return file
        except (BlockingIOError, PermissionError):
            return None
        except FileNotFoundError:  # the holder before removed it after it was opened here
            continue
        finally:
            if not locked:
                os.close(file)


def lock_file(file: int) -> None:
    """Lock an open file, which ends with the process; ``flock`` would last as long as a forked child.

    Raises:
        BlockingIOError: another process has locked it; PermissionError on some systems.
    """
    if sys.platform == "win32":
        os.lseek(file, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def release(path: Path, file: int) -> None:
    """Remove the lock's file, while it is locked where the operating system allows that, and unlock it."""
    with suppress(OSError):
        path.unlink()
    os.close(file)
    if sys.platform == "win32":
        with suppress(OSError):
            path.unlink()


def write_holder(file: int) -> None:
    """Write what :func:`describe_holder` reads; a full disk is reported by what the lock is for."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.write(file, json.dumps(holder).encode())


def describe_holder(path: Path) -> str:
    """The process that holds a lock, such as ``process 4242 on node3 since 2026-11-29 06:38:08``."""
    try:
        holder = json.loads(path.read_bytes())
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # it has just begun, or ended
        return "another process"
