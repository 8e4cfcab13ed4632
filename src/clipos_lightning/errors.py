"""The package's one exception for mistakes of the user; the command line prints it as one line and exits with 2."""

WORKER = "Caught InputError in DataLoader worker process"  # how PyTorch starts what it passes on from a worker


def printable(text: str) -> str:
    r"""Escape line breaks and other characters that do not print, as file names may contain them.

    Example:
        >>> printable("no file a\nb.png")
        'no file a\\nb.png'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def message_of(error: BaseException, limit: int = 1000) -> str:
    r"""An error's message in one line of at most ``limit`` characters, or the name of its type if it has none.

    Example:
        >>> message_of(ValueError("two\nlines")), message_of(KeyboardInterrupt())
        ('two lines', 'KeyboardInterrupt')
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__


class InputError(Exception):
    """The user's input is wrong, or a required file, data set or dependency is missing.

    The message is one line that names the problem, where it is (the option or the file), and the remedy. The command
    line prints it without a traceback and exits with code 2. Characters that do not print are escaped.

    >>> from clipos_lightning import FewShotOOD, InputError
    >>> try:
    ...     FewShotOOD(shots=0)
    ... except InputError as error:
    ...     print(error)
    --data.shots is 0: take at least 1 image per class, or all
    """

    def __str__(self) -> str:
        """The message as one line, also if it was raised in a worker process, where it ends a traceback."""
        message = super().__str__()
        if message.startswith(WORKER):
            message = message.rstrip("\n").rsplit("\n", 1)[-1].removeprefix(f"{__name__}.InputError: ")
        return printable(message.strip())
