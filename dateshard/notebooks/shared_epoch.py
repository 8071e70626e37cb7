"""The epoch of a DataLoader's workers, which are copies that its next iteration makes anew."""

from __future__ import annotations

import re
from multiprocessing import current_process

import torch

LOW = (1 << 32) - 1


def iteration_of(worker: int) -> int:
    """The number of a worker's iteration: that of its first process among all that the loader's process started.

    The loader's seed would not do: it comes again where a program seeds torch for every epoch, or is continued.
    """
    return int(re.findall(r"\d+", current_process().name)[-1]) - worker  # Process-7, or Process-1:7 in a child


class SharedEpoch:
    """An epoch that processes share, with the iteration that gives it.

    Both lie in one word of memory, so that no lock is needed: all workers of an iteration that read the old word write the
    same new one.
    """

    def __init__(self) -> None:
        self._word = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]

    def set(self, epoch: int, iteration: int = 0) -> None:
        """Sets the epoch: of this iteration's workers, or without one of whichever come next."""
        self._word[0] = epoch << 32 | iteration

    def begin(self, iteration: int) -> int:
        """The epoch of an iteration's workers: a new iteration is the next epoch."""
        word = int(self._word[0])
        epoch = (word >> 32) + (word & LOW not in (0, iteration))
        self.set(epoch, iteration)
        return epoch
