"""A run stops by itself, saved, before the kernel would kill it: its memory is looked at between two batches."""

from __future__ import annotations

from dataclasses import dataclass

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.memory.memory_need import size
from dateshard.trainer.memory.process_memory import private_bytes
from dateshard.trainer.stop import ShouldStop

MEMORY_LIMIT = "memory limit"


@dataclass(slots=True)
class StopReasons:
    """Asks between two batches whether to stop, and remembers why: `stopped`, or the memory that the process holds.

    Args:
        limit: bytes of `training.memory_limit`; None: any.
    """

    should_stop: ShouldStop
    limit: int | None
    why: str = "stopped"

    def __call__(self) -> bool:
        """Whether to stop here."""
        if self.should_stop():
            return True
        if self.limit is None or private_bytes() <= self.limit:
            return False
        self.why = MEMORY_LIMIT
        return True


def refuse_low_limit(limit: int | None) -> None:
    """Refuses a limit that the process is beyond before its first batch: no run would get anywhere.

    Raises:
        UsageError: naming both.
    """
    if limit is not None and (held := private_bytes()) > limit:
        what = (
            f"trainer.training.memory_limit is {size(limit)}, and the process holds {size(held)} before its first batch"
        )
        raise UsageError(what, todo="Give more, or leave it out")
