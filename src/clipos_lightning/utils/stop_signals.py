"""The signals that end a command, and why. No torch."""

import signal

REASONS: dict[int, str] = {
    signum: reason
    for name, reason in {
        "SIGINT": "interrupted",
        "SIGTERM": "terminated",
        "SIGHUP": "terminated: the terminal was closed",
        "SIGQUIT": "terminated (SIGQUIT)",
    }.items()
    if (signum := getattr(signal, name, None)) is not None  # Windows has the first two
}
