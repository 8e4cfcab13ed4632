"""Errors of the file system as one line: the path, the reason, and the option that chooses another place. No torch."""

from errno import EACCES, EBADF, EPERM, EROFS

from ..utils.files import DEVICE_ERRORS, WriteError

OUTPUT_OPTIONS = {  # command to the option for what it writes
    **dict.fromkeys(("fit", "validate", "test"), "--trainer.default_root_dir"),
    **dict.fromkeys(("benchmark", "report", "calibrate", "add", "explain", "export"), "--out"),
    "predict": "--out or --explain",
    "data": "--root",
}
CURES = {EACCES: "change its permissions", EPERM: "change its permissions", EROFS: "make it writable"}
FREE_SPACE = "free some space"


def describe_file_error(error: OSError, command: str) -> str | None:
    """What is wrong with a file of the user's; None if the error names none, and is a bug in clipos.

    Args:
        error: the error.
        command: the command that it ended.

    Example:
        >>> describe_file_error(PermissionError(13, "Permission denied", "photos/a.png"), "predict")
        'photos/a.png: Permission denied'
        >>> describe_file_error(WriteError(28, "No space left on device", "maps.svg"), "explain")
        'cannot write maps.svg: No space left on device: free some space, or give another --out'
    """
    written = isinstance(error, WriteError) or error.errno in DEVICE_ERRORS
    if error.errno == EBADF or not (error.filename or written):
        return None
    reason = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if not written:
        return reason
    option = OUTPUT_OPTIONS.get(command)
    cures = [CURES.get(error.errno or 0, FREE_SPACE if error.errno in DEVICE_ERRORS else "")]
    cures += [f"give another {option}"] if option else []
    cure = ", or ".join(filter(None, cures))
    return f"{'cannot write ' if error.filename else ''}{reason}{cure and f': {cure}'}"
