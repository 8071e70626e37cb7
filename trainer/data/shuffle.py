"""How far shuffling reaches: resolved from the settings and the data alone, never from the machine."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dateshard.shardstore.errors import counted
from dateshard.trainer.data.order import Window


@dataclass(frozen=True, slots=True)
class Shuffle:
    """How far shuffling reaches. `days_per_run` None: one run a stretch; `runs_per_block` None: one block."""

    days_per_run: int | None
    runs_per_block: int | None
    shuffle_runs: bool = True

    @property
    def label(self) -> str:
        """Names the shuffle: `global`, `dates` or `runs of 91 days, 2 a block`."""
        if self.days_per_run is None:
            return "global"
        days = counted(self.days_per_run, "day")
        return "dates" if not self.shuffle_runs else f"runs of {days}, {self.runs_per_block} a block"


GLOBAL_BYTES = 1 << 30  # auto shuffles globally below this size of the training split
BLOCK_BYTES = 256 << 20  # auto makes blocks of about this size above it
HALO = 8  # auto runs are at least this many times the window's other steps long: at most 12.5 % is read twice


def resolve_shuffle(
    setting: str | tuple[int, int],
    days_per_batch: int | None,
    window: Window,
    num_steps: int,
    num_days: int,
    row_bytes: int,
) -> Shuffle:
    """Resolves `auto`, `global`, `dates` or (days_per_run, runs_per_block) from the data alone, never the machine.

    Args:
        days_per_batch: k sets days_per_run x runs_per_block = k, see `of_days`.
        num_steps, num_days: of the training split. row_bytes: bytes of a step.
    """
    if isinstance(setting, tuple):
        return Shuffle(*setting)
    steps_a_day = max(1, num_steps // max(num_days, 1))
    least_days = max(1, -(-HALO * (window.length - 1) // steps_a_day))
    if days_per_batch:
        return of_days(days_per_batch, least_days)
    if setting == "dates":
        return Shuffle(1, 1, shuffle_runs=False)
    if setting == "global" or num_steps * row_bytes < GLOBAL_BYTES:
        return Shuffle(None, None)
    return Shuffle(least_days, max(1, BLOCK_BYTES // (least_days * steps_a_day * row_bytes)))


def of_days(days: int, least_days: int) -> Shuffle:
    """Blocks of so many days: runs as short as can be without reading much twice, so that a block mixes many dates."""
    small = [run for run in range(1, math.isqrt(days) + 1) if days % run == 0]
    divisors = [*small, *(days // run for run in reversed(small))]
    days_per_run = next((run for run in divisors if run >= least_days), days)
    return Shuffle(days_per_run, days // days_per_run)
