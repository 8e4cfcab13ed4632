"""A DataLoader whose worker processes leave signals to the main process."""

from typing import Any

from torch.utils.data import DataLoader

from ..utils.worker_signals import shield_worker, signals_held


class ShieldedLoader(DataLoader[Any]):
    """A DataLoader with workers that a signal to the whole process group does not end; only the main process does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"worker_init_fn": shield_worker, **options})

    def __iter__(self) -> Any:
        with signals_held():
            return super().__iter__()
