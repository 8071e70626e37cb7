"""Which checkpoints are removed. A pure function: what is there, a policy, what is pinned.

Kept are the newest `keep_last`, the best `keep_best` and the pinned ones; `max_bytes` then takes the oldest of what is
kept, but never one of the best, the newest or a pinned one (docs/decisions/0034).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from dateshard.trainer.checkpoint.checkpoint_folder import Checkpoint
from dateshard.trainer.checkpoint.choice import ranked
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


def listed(checkpoints: Sequence[Checkpoint]) -> list[Listed]:
    """What retention needs to know of checkpoints."""
    order = {saved.name: rank for rank, saved in enumerate(ranked(checkpoints))}
    return [Listed(saved.name, saved.place, saved.num_bytes, order.get(saved.name)) for saved in checkpoints]


def going(entries: Collection[Listed], policy: RetentionPolicy, pinned: Collection[str] = ()) -> list[str]:
    """Names of those that go, the oldest first. The newest and the best always stay."""
    by_time = sorted(entries, key=lambda entry: entry.place)
    by_loss = sorted(
        (entry for entry in by_time if entry.rank is not None), key=lambda entry: (entry.rank, entry.place)
    )
    safe = {entry.name for entry in (*by_time[-1:], *by_loss[: max(1, policy.keep_best)])} | set(pinned)
    gone = []
    if policy.keep_last is not None:
        gone += [entry for entry in by_time[: -policy.keep_last] if entry.name not in safe]
    if policy.max_bytes is not None:
        left = [entry for entry in by_time if entry not in gone]
        total = sum(entry.num_bytes for entry in left)
        for entry in left:
            if total > policy.max_bytes and entry.name not in safe:
                gone.append(entry)
                total -= entry.num_bytes
    return [entry.name for entry in sorted(gone, key=lambda entry: entry.place)]
