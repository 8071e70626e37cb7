"""A run stops by itself, saved, before the kernel would kill it: its memory is looked at between two batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dateshard.shardstore.errors import UsageError
from dateshard.trainer.devices.mesh import Mesh
from dateshard.trainer.memory.memory_need import size
from dateshard.trainer.memory.process_memory import private_bytes
from dateshard.trainer.stop import ShouldStop

MEMORY_LIMIT = "memory limit"


@dataclass(slots=True)
class StopReasons:
    """Asks between two batches whether to stop, and remembers why: `stopped`, or the memory that the process holds.

    Several processes stop at the same batch: at the first one after they shared what each of them was asked.

    Args:
        limit: bytes of `training.memory_limit` that this process may hold; None: any.
    """

    should_stop: ShouldStop
    limit: int | None
    mesh: Mesh
    why: str = "stopped"

    def look(self) -> Sequence[bool]:
        """Returns (asked to stop, beyond the limit) of this process."""
        return self.should_stop(), self.limit is not None and private_bytes() > self.limit

    def __call__(self) -> bool:
        """Whether to stop here."""
        asked, beyond = self.look() if self.mesh.world == 1 else self.mesh.raised or (False, False)
        if beyond and not asked:
            self.why = MEMORY_LIMIT
        return asked or beyond


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
