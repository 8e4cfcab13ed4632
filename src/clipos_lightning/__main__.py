"""``python -m clipos_lightning`` is ``clipos``."""

from .main import run

if __name__ == "__main__":
    run()
