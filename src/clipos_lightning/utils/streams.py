"""The process's standard streams: closed ones, and encodings that lack a character. No torch."""

import codecs
import io
import os
import sys
from contextlib import suppress

SIMILAR = {  # our own signs, in encodings that lack them
    **{"→": "->", "≥": ">=", "≤": "<=", "±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "−": "-"},
    **{"↑": "^", "↓": "v", "“": '"', "”": '"', "’": "'", "·": "-"},
}
LOSSY = "clipos.lossy"  # name of the error handler


def replace_character(error: UnicodeError) -> tuple[str | bytes, int]:
    """Replace what an encoding lacks: our own signs by similar ones, undecodable bytes by themselves, the rest by "?".

    Example:
        >>> "é → €".encode("ascii", LOSSY)
        b'? -> ?'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if "\udc80" <= character <= "\udcff":  # a byte of a file name, as surrogateescape decodes it
        return bytes([ord(character) - 0xDC00]), after
    return SIMILAR.get(character, "?"), after


codecs.register_error(LOSSY, replace_character)


class OutputStream(io.TextIOWrapper):
    """A text stream that keeps the error of a write that failed, so that it can be told from other errors."""

    failure: OSError | None = None

    def write(self, text: str, /) -> int:
        """Write a text; returns its length.

        Raises:
            OSError: the reader has left, or the disk is full.
        """
        try:
            return super().write(text)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Write what is buffered.

        Raises:
            OSError: the reader has left, or the disk is full.
        """
        try:
            super().flush()
        except OSError as error:
            self.failure = error
            raise


class LenientStream(OutputStream):
    """A text stream that drops what it cannot write."""

    def write(self, text: str, /) -> int:
        """Write a text, unless that fails; returns its length."""
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, unless that fails."""
        with suppress(OSError, ValueError):
            super().flush()


def prepare_streams() -> None:
    """Make the standard streams usable, whatever the shell gave; call this before anything is opened or printed.

    Closed ones become the null device. stdout and stderr replace characters that their encoding lacks. Messages that
    cannot be written to stderr are dropped; for stdout that is an error.
    """
    for number in range(3):  # otherwise the next file that is opened gets the number
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")
    if sys.stdout is None or isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = reopen(sys.stdout, OutputStream)
    if sys.stderr is None or isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = reopen(sys.stderr, LenientStream)


def reopen(stream: io.TextIOWrapper | None, kind: type[OutputStream]) -> OutputStream:
    """A stream of another kind with the same encoding and buffering; for None, the null device.

    Args:
        stream: it stays open, and Python refers to it as ``sys.__stdout__`` or ``sys.__stderr__``.
        kind: of the new stream.
    """
    if stream is None:
        return kind(open(os.devnull, "wb"), "utf-8", LOSSY)
    return kind(stream.buffer, stream.encoding, LOSSY, None, stream.line_buffering, stream.write_through)


def output_failure() -> OSError | None:
    """Why stdout could not be written; then all that follows is sent to the null device.

    Python would otherwise fail again when it flushes stdout at its exit, with exit code 120.
    """
    with suppress(OSError):
        sys.stdout.flush()
    failure = getattr(sys.stdout, "failure", None)
    if failure is not None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    return failure
