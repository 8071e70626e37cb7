"""A training that runs out of memory: which batch it was, what is saved, and which smaller batches make the same steps."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from dateshard.shardstore.commands import command
from dateshard.shardstore.errors import DateshardError, ResourceError, of_memory
from dateshard.trainer import checkpoint
from dateshard.trainer.checkpoint import CheckpointWriter
from dateshard.trainer.data.batch import Batch
from dateshard.trainer.devices.device import empty_cache, peak_device_bytes
from dateshard.trainer.devices.gone import ProcessGoneError
from dateshard.trainer.memory.memory_need import machine_bytes, size
from dateshard.trainer.memory.process_memory import peak_bytes
from dateshard.trainer.optimization.optimizer import clear_gradients
from dateshard.trainer.session import Session, save

PARTS = 4  # of a batch that did not fit
UNITS = {
    "bytes": 1,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "TiB": 1 << 40,
    "PiB": 1 << 50,
    "EiB": 1 << 60,
}


class BatchMemoryError(ResourceError):
    """Memory ran out at a batch, which `what` names."""


class StepMemoryError(ResourceError):
    """A step ran out of memory. `whole`: no weight was changed, and what it had counted is taken back."""

    def __init__(self, failure: ResourceError, *, whole: bool) -> None:
        super().__init__(failure.what, where=failure.where, todo=failure.todo)
        self.failure, self.whole = failure, whole


@contextmanager
def naming(place: str, number: int, num_batches: int, batch: Batch) -> Iterator[None]:
    """Names the batch in an error of memory.

    Raises:
        BatchMemoryError: memory ran out.
    """
    try:
        yield
    except Exception as error:
        if (failure := failed_allocation(error)) is None:
            raise
        history, target = list(batch.history_BHNF.shape), list(batch.target_BPNF.shape)
        form = f"({batch.size:,} windows: history {history}, targets {target})"
        raise _at(failure, f"{place} batch {number:,} of {num_batches:,} {form}") from None


def naming_reads(batches: Iterable[Batch], place: str, start: int, num_batches: int) -> Iterator[Batch]:
    """Passes batches on, and names the one at which reading runs out of memory.

    Raises:
        BatchMemoryError: memory ran out.
    """
    number = start
    try:
        for batch in batches:
            yield batch
            number += 1
    except Exception as error:
        if (failure := failed_allocation(error)) is None:
            raise
        raise _at(failure, f"{place}, reading batch {number + 1:,} of {num_batches:,}") from None


def _at(failure: ResourceError, place: str) -> BatchMemoryError:
    return BatchMemoryError(failure.what.replace("out of memory", f"out of memory at {place}", 1), todo=failure.todo)


def failed_allocation(error: BaseException) -> ResourceError | None:
    """The error as one of memory, None for any other. What the failed calls still held is let go of."""
    failure = error if isinstance(error, ResourceError) else of_memory(error)
    cause: BaseException | None = error
    while failure is not None and cause is not None:
        traceback.clear_frames(cause.__traceback__)
        cause = cause.__context__
    return failure


def save_whole(session: Session, writer: CheckpointWriter, failure: ResourceError, *, whole: bool) -> ResourceError:
    """Saves a run whose step failed, and returns the error that says so and what to do next.

    Args:
        whole: no weight was changed since the last whole step.
    """
    state, run = session.state, session.checkpoints.parent.name
    if session.optimizer is not None:
        clear_gradients(session.optimizer)
    empty_cache()
    what = failure.what if isinstance(failure, BatchMemoryError) else _at(failure, f"epoch {state.epoch + 1}").what
    on_device = f", of the accelerator {size(peak)}" if (peak := peak_device_bytes()) else ""
    what += (
        f", and the process took {size(peak_bytes())} at its peak{on_device}; {_saved(session, writer, whole=whole)}"
    )
    training = session.config.training
    order, excess = session.train.order, _excess(failure.what)
    todo = f"With more memory it continues exactly: {command('train', '--resume', run)}"
    if smaller := smaller_batches(training.batch_size, training.accumulate, order.num_windows, excess):
        words = [f"trainer.training.{key}={n}" for key, n in zip(("batch_size", "accumulate"), smaller, strict=True)]
        begun = command("train", "--init-from", run, config=True)
        todo += f". In less, a new run that begins with its weights takes steps of the same windows: {begun} {' '.join(words)}"
    return ResourceError(what, todo=todo)


def save_left_alone(session: Session, writer: CheckpointWriter, gone: ProcessGoneError) -> ProcessGoneError:
    """Saves a run of which another process is gone, at its last whole step; returns the error that says so."""
    todo = f"Continue it: {command('train', *session.mesh.option, '--resume', session.checkpoints.parent.name)}"
    if not session.mesh.leads:
        return ProcessGoneError(gone.what, todo=todo)
    return ProcessGoneError(f"{gone.what}; {_saved(session, writer, whole=True)}", todo=todo)


def _saved(session: Session, writer: CheckpointWriter, *, whole: bool) -> str:
    """Saves, and says what there is to go on from."""
    why = "the weights were being changed; "
    state = session.state
    kept = state.batch == 0 and state.step > 0  # where an epoch begins: the checkpoint of the one before is that place
    try:
        if whole and not kept:
            save(session, writer)
        writer.finish()
        if whole and not kept:
            return f"saved epoch {state.epoch + 1} batch {state.batch}"
        why = "" if whole else why
    except (MemoryError, RuntimeError, OSError, DateshardError) as error:
        why = f"saving failed too ({of_memory(error) or error}); "
    newest, _ = checkpoint.newest(session.checkpoints)
    return why + (f"the last checkpoint is {newest.name}" if newest else "there is no checkpoint yet")


def _excess(what: str) -> float:
    """How many times as much as there is the failed allocation asked for; 0 where that is unknown."""
    asked = re.search(r"([\d.,]+) (\w+) more were asked for", what)
    there = re.search(r"the accelerator has ([\d.]+) (\w+)", what)
    limit = float(there[1]) * UNITS.get(there[2], 1) if there else machine_bytes()
    return float(asked[1].replace(",", "")) * UNITS.get(asked[2], 0) / limit if asked else 0.0


def smaller_batches(batch_size: int, accumulate: int, num_windows: int, excess: float) -> tuple[int, int] | None:
    """Returns the batch size and the accumulation that make steps of the same windows; None of a batch of one.

    Args:
        excess: how many times as much as there is one allocation asked for.
    """
    largest = min(batch_size, num_windows)
    parts = min(largest, max(PARTS, int(2 * excess + 0.999)))
    if largest < 2:
        return None
    if batch_size >= num_windows:  # an epoch is one batch, the last of a step in any case
        return -(-largest // parts), parts * accumulate
    parts = next(count for count in range(parts, largest + 1) if largest % count == 0)
    return largest // parts, parts * accumulate
