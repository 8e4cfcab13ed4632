"""The one error that is shown to the user as a single line, without a traceback, with exit code 2."""


class InputError(Exception):
    """The user's input is wrong, or something that is needed is missing.

    The message is one line that says what is wrong, where, and what to do.
    """
