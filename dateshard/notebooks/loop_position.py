"""Where a loop over epochs of batches is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class LoopPosition:
    """The epoch, and the number in it of the next batch.

    Attributes:
        begun: the epoch is being given; the next iteration is of the next one, wherever this one stopped.
        exact: `batch` is this worker's own next one, not the first of those that the workers divide.
    """

    epoch: int = 0
    batch: int = 0
    begun: bool = False
    exact: bool = False

    def begin(self, worker: int = 0) -> tuple[int, int]:
        """Begins an iteration; returns its epoch and its first batch."""
        if self.begun:
            self.epoch, self.batch, self.exact = self.epoch + 1, 0, False
        self.batch += 0 if self.exact else worker
        self.begun = self.exact = True
        return self.epoch, self.batch

    def reach(self, epoch: int, batch: int) -> None:
        """Notes that all batches before this one are given."""
        self.epoch, self.batch, self.begun = epoch, batch, True

    def set(self, epoch: int, batch: int | None) -> None:
        """Moves to an epoch, which the next iteration gives; without `batch` a position in it that is loaded stays."""
        loaded = not self.begun and epoch == self.epoch
        self.exact = self.exact and loaded and batch is None
        self.batch = batch if batch is not None else self.batch if loaded else 0
        self.epoch, self.begun = epoch, False

    def next_batch(self, num_batches: int | None) -> tuple[int, int]:
        """Returns (epoch, batch) of what comes next: after the last batch of an epoch the first of the next."""
        if num_batches is not None and self.batch >= num_batches:
            return self.epoch + 1, 0
        return self.epoch, self.batch
