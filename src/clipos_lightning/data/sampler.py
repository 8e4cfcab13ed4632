"""The sampler that splits a set's images over the processes."""

from collections.abc import Iterator

from torch.utils.data import DistributedSampler


class ShardSampler(DistributedSampler[int]):
    """The positions ``rank``, ``rank + world``, …: over all processes, each image exactly once.

    It is a DistributedSampler so that Lightning does not replace it, and adds no samples to make the shards equal.

    Args:
        count: number of images.
        rank: rank of this process.
        world: number of processes.

    >>> [list(ShardSampler(5, rank, world=2)) for rank in (0, 1)]
    [[0, 2, 4], [1, 3]]
    """

    def __init__(self, count: int, rank: int = 0, world: int = 1) -> None:
        self.shard = range(rank, count, world)

    def __iter__(self) -> Iterator[int]:
        return iter(self.shard)

    def __len__(self) -> int:
        return len(self.shard)

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the order is fixed."""
