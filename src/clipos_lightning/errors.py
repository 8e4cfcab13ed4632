"""The package's one exception for mistakes of the user; the command line prints it as one line and exits with 2."""


class InputError(Exception):
    """The user's input is wrong, or a required file, data set or dependency is missing.

    The message is one line that names the problem, where it is (the option or the file), and the remedy. The command
    line prints it without a traceback and exits with code 2.

    >>> from clipos_lightning import FewShotOOD, InputError
    >>> try:
    ...     FewShotOOD(shots=0)
    ... except InputError as error:
    ...     print(error)
    --data.shots is 0: take at least 1 image per class, or all
    """
