"""What several processes, or micro-batches, cannot train: refused before anything is done."""

from __future__ import annotations

from dateshard.shardstore.errors import UsageError, counted
from dateshard.trainer.config import Trainer


def refuse_unshared(config: Trainer, processes: int) -> None:
    """Refuses what one process does alone, and numbers of processes that do not fit the micro-batches.

    Raises:
        UsageError: naming it.
    """
    cut = config.training.micro_batches
    if processes > 1 and config.model.name == "ridge":
        raise UsageError(
            "ridge is solved in one pass by one process", todo="Train it in one process, without --devices"
        )
    if config.metrics.custom and (processes > 1 or cut):
        what = "trainer.metrics.custom needs the windows of the whole epoch in one process, and whole batches"
        todo = "Set metrics.custom to null, or train in one process without training.micro_batches"
        raise UsageError(what, todo=todo)
    if cut and cut % processes:
        what = f"{counted(processes, 'process', 'processes')} cannot share {cut} micro-batches evenly"
        fit = ", ".join(str(1 << power) for power in range(cut.bit_length()))
        raise UsageError(what, todo=f"Train in {fit} of them, or set trainer.training.micro_batches in a new run")
