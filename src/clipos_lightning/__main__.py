"""``python -m clipos_lightning`` is ``clipos``."""

from .cli.main import run

if __name__ == "__main__":
    run()
