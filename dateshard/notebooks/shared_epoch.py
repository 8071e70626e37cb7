"""The epoch of a DataLoader's workers, which are copies that its next iteration makes anew."""

from __future__ import annotations

import torch

SEED = (1 << 32) - 1


class SharedEpoch:
    """An epoch that processes share, with the seed that a loader drew for the iteration which gives it.

    Workers with another seed belong to the next iteration. Both lie in one word of memory, so that no lock is needed: all
    workers of an iteration that read the old word write the same new one.
    """

    def __init__(self) -> None:
        self._word = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set(self, epoch: int, seed: int = 0) -> None:
        """Sets the epoch: of this iteration's workers, or without a seed of whichever come next."""
        self._word[0] = epoch << 32 | seed & SEED

    def begin(self, seed: int) -> int:
        """The epoch of the workers with this seed."""
        word = int(self._word[0])
        epoch = (word >> 32) + (word & SEED not in (0, seed & SEED))
        self.set(epoch, seed)
        return epoch
