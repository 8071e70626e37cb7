"""Which checkpoints go. A pure function: what is there, a policy, what is pinned.

Kept are the newest `keep_last`, the best `keep_best` and the pinned ones; `max_bytes` then takes the oldest of what is
kept, but never one of the best, the newest or a pinned one (docs/decisions/0034).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dateshard.trainer.checkpoint.choice import ranked
from dateshard.trainer.checkpoint.folder import Checkpoint
from dateshard.trainer.config import CheckpointConfig


@dataclass(frozen=True, slots=True)
class Listed:
    """One checkpoint as retention sees it.

    Attributes:
        place: sorts by time. num_bytes: on disk, its export included. rank: among those with a validation loss, 0 the
            best; None without one.
    """

    name: str
    place: tuple[int, int, bool, int]
    num_bytes: int
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Which checkpoints stay. Without keep_last and max_bytes all do."""

    keep_last: int | None = None
    keep_best: int = 1
    max_bytes: int | None = None

    @staticmethod
    def of(config: CheckpointConfig) -> RetentionPolicy:
        """Makes the policy that `trainer.checkpoint` asks for."""
        return RetentionPolicy(config.keep_last, config.keep_best, config.max_bytes)

    @property
    def removes(self) -> bool:
        """Whether anything can ever go."""
        return self.keep_last is not None or self.max_bytes is not None


def listed(found: Sequence[Checkpoint]) -> list[Listed]:
    """What retention needs to know of checkpoints."""
    order = {one.name: rank for rank, one in enumerate(ranked(found))}
    return [Listed(one.name, one.place, one.num_bytes, order.get(one.name)) for one in found]


def going(found: Collection[Listed], policy: RetentionPolicy, pinned: Collection[str] = ()) -> list[str]:
    """Names of those that go, the oldest first. The newest and the best always stay."""
    by_time = sorted(found, key=lambda one: one.place)
    by_loss = sorted((one for one in by_time if one.rank is not None), key=lambda one: (one.rank, one.place))
    safe = {one.name for one in (*by_time[-1:], *by_loss[: max(1, policy.keep_best)])} | set(pinned)
    gone = []
    if policy.keep_last is not None:
        gone += [one for one in by_time[: -policy.keep_last] if one.name not in safe]
    if policy.max_bytes is not None:
        left = [one for one in by_time if one not in gone]
        total = sum(one.num_bytes for one in left)
        for one in left:
            if total > policy.max_bytes and one.name not in safe:
                gone.append(one)
                total -= one.num_bytes
    return [one.name for one in sorted(gone, key=lambda one: one.place)]
