"""Where a loop over epochs of batches is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dateshard.shardstore.errors import UsageError


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

    @classmethod
    def of(cls, state: Mapping[str, Any], now: Mapping[str, Any]) -> LoopPosition:
        """Takes the position out of a state.

        Args:
            now: what these windows are bound to.

        Raises:
            UsageError: it is no state, or one of other windows; names all that differs.
        """
        epoch, batch, held = (state.get(name) for name in ("epoch", "batch", "bound"))
        if not (isinstance(epoch, int) and isinstance(batch, int) and epoch >= 0 <= batch and isinstance(held, dict)):
            what = f"this is no state of windows: its epoch is {epoch!r}, its batch {batch!r}"
            raise UsageError(what, todo="Give what .state_dict() returned")
        differences = [
            f"{name}: state {held.get(name)!r}, now {now.get(name)!r}"
            for name in sorted({*held, *now})
            if held.get(name) != now.get(name)
        ]
        if differences:
            what = f"these windows cannot be continued exactly: {'; '.join(differences)}"
            raise UsageError(what, todo="Open the windows as they were, or begin anew without the state")
        return cls(epoch, batch, exact="workers" in held)
