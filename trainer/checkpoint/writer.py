"""Checkpoints written while training goes on: a snapshot on the training thread, all else on a thread of its own.

    with Writer(folder) as writer:        every way out of it waits for the save in flight
        writer.save(state, tensors)       waits for the one before, copies, hands over
        writer.drain_saved()               those that are on disk by now; the writer's errors are raised here
        writer.finish()                   the same, waiting

One save is in flight at most. Memory: the snapshot's buffers, one copy of the state.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from dateshard.trainer.checkpoint.checkpoint_state import CheckpointState
from dateshard.trainer.checkpoint.saving import write
from dateshard.trainer.checkpoint.snapshot import Part, Snapshot

Groups = Mapping[str, Mapping[str, Part]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A checkpoint is on disk.

    Attributes:
        seconds: from when it was due until then.
        stall_seconds: of these, how long training stood still, waiting and copying.
        waited_seconds: of these, how long for the save before.
        cpu_seconds: that the writing thread computed.
    """

    folder: Path
    epoch: int
    batch: int
    step: int
    seconds: float
    stall_seconds: float = 0.0
    waited_seconds: float = 0.0
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Job:
    """A snapshot, and what is told of it. `began`: when it was due."""

    state: CheckpointState
    data: Mapping[str, memoryview]
    began: float
    stall_seconds: float
    waited_seconds: float


class CheckpointWriter:
    """Writes the checkpoints of one training into its folder. A child of a fork may have it, and writes its own.

    Args:
        after: called with each checkpoint's folder once it is on disk, in the writing thread; its errors are the
            writer's.
    """

    def __init__(self, parent: Path, after: Callable[[Path], object] | None = None) -> None:
        self.parent, self.after = parent, after
        self._snapshot = Snapshot()
        self._landed: list[Saved] = []  # not told yet
        self._thread: ThreadPoolExecutor | None = None
        self._ready: Future[None] | None = None
        self._coming: Future[Saved] | None = None
        self._taken: float | None = None  # when the last snapshot was
        self._cost = 0.0  # of the last save that is on disk, in seconds
        self._pid = os.getpid()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self._wait()
        except Exception as failed:
            if error is None or isinstance(error, GeneratorExit):
                raise
            error.add_note(f"The checkpoint in flight failed as well: {failed}")
        finally:
            if self._thread is not None:
                self._thread.shutdown()
            self._forget()

    def prepare(self, tensors: Groups) -> None:
        """Makes room for snapshots of this form. Its pages are made while training begins, else the first save does."""
        self._ready = self._worker().submit(_touch, self._snapshot.lay_out(tensors))

    def save(self, state: CheckpointState, tensors: Groups) -> None:
        """Takes the snapshot and returns; the tensors may change from then on, `state` may not.

        Raises:
            DiskFullError, OSError: of the save before.
        """
        began = time.perf_counter()
        self._wait()
        if self._ready is not None:
            self._ready.result()
            self._ready = None
        waited = time.perf_counter() - began
        data = self._snapshot.take(tensors)
        self._taken = time.perf_counter()
        self._coming = self._worker().submit(
            self._write,
            _Job(state=state, data=data, began=began, stall_seconds=self._taken - began, waited_seconds=waited),
        )

    def drain_saved(self) -> list[Saved]:
        """Checkpoints that are on disk and were not told yet.

        Raises:
            DiskFullError, OSError: a save failed; older checkpoints are untouched.
        """
        if self._mine() and self._coming is not None and self._coming.done():
            self._wait()
        landed, self._landed = self._landed, []
        return landed

    def finish(self) -> list[Saved]:
        """Waits for the save in flight; those not told yet."""
        self._wait()
        return self.drain_saved()

    def fits(self, max_overhead: float | None) -> bool:
        """Whether one more save would cost at most this share of the time since the last one was taken.

        A save costs what the last one did: the time that training stood still, and the processor time of the writing
        thread, as if training had lost all of it. While one is in flight its cost is unknown, and none fits.
        """
        if max_overhead is None or self._taken is None:
            return True
        if self._coming is not None and not self._coming.done():
            return False
        return self._cost <= max_overhead * (time.perf_counter() - self._taken)

    def _worker(self) -> ThreadPoolExecutor:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="dateshard-save")
        return self._thread

    def _wait(self) -> None:
        """Until nothing is in flight.

        Raises:
            DiskFullError, OSError: of the save that was.
        """
        if self._mine() and self._coming is not None:
            try:
                saved = self._coming.result()
            finally:
                if self._coming.done():  # else a signal's exception broke in, and it is still to be waited for
                    self._coming = None
            self._landed.append(saved)
            self._cost = saved.stall_seconds + saved.cpu_seconds

    def _mine(self) -> bool:
        """False once in a forked child, which has no such thread: what its parent writes is left to the parent."""
        if self._pid == os.getpid():
            return True
        self._landed = []
        self._forget()
        return False

    def _forget(self) -> None:
        self._thread, self._ready, self._coming, self._taken, self._pid = None, None, None, None, os.getpid()

    def _write(self, job: _Job) -> Saved:
        """Writes one checkpoint, in the writing thread."""
        computed = time.thread_time()
        state = job.state
        folder = write(self.parent, state, job.data)
        if self.after is not None:
            self.after(folder)
        return Saved(
            folder=folder,
            epoch=state.epoch,
            batch=state.batch,
            step=state.step,
            seconds=time.perf_counter() - job.began,
            stall_seconds=job.stall_seconds,
            waited_seconds=job.waited_seconds,
            cpu_seconds=time.thread_time() - computed,
        )


def _touch(buffers: list[NDArray[np.uint8]]) -> None:
    for buffer in buffers:
        buffer.fill(0)
