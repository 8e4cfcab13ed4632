"""The ``clipos`` command and ``python -m clipos_lightning``: signals wait until there are handlers for them."""

import signal

SIGNALS = [signal.Signals[n] for n in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT") if n in signal.Signals.__members__]


def run_clipos() -> None:
    """Import the command line, which takes a while on a busy machine, handle signals, and run the command."""
    waits = hasattr(signal, "pthread_sigmask")  # not on Windows
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS) if waits else None
    from .cli.main import run as run_command
    from .cli.signals import install_handlers

    install_handlers()
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    run_command()


if __name__ == "__main__":
    run_clipos()
