"""How a set's images are split over the processes."""

from collections.abc import Iterator

from torch.utils.data import DistributedSampler

from ..errors import InputError


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


def check_world_size(largest: int, world: int) -> None:
    """Check that each process gets an image of the largest set; otherwise Lightning's processes would deadlock.

    Args:
        largest: number of images of the largest set.
        world: number of processes.

    Raises:
        InputError: there are fewer images than processes.
    """
    if largest < world:
        raise InputError(
            f"the largest set has {largest} images, fewer than the {world} processes: lower --trainer.devices"
        )
