"""TensorBoard: the rows of metrics.jsonl as scalars in the run's folder `tensorboard/` (`trainer.logging.tensorboard`).

The package tensorboardX writes them (docs/decisions/0037); TensorBoard itself, which draws them, is installed by whoever
looks. A continued run tells TensorBoard to forget the steps that come again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dateshard.shardstore.disk.durable import disk_full_as_error
from dateshard.shardstore.errors import UsageError

PLACES = ("step", "epoch", "batch", "resumed_at")  # of a row: where it stands, no figures


def refuse_missing() -> None:
    """Refuses to log to TensorBoard without its package.

    Raises:
        UsageError: the package is not installed; says what to install.
    """
    with suppress(ImportError):
        import tensorboardX  # noqa: F401

        return
    raise UsageError(
        "trainer.logging.tensorboard needs the package tensorboardX, which is not installed",
        todo="Run: pip install 'dateshard[tensorboard]', or set trainer.logging.tensorboard: false",
    )


class Board:
    """Writes scalars for TensorBoard into the folder of a run.

    The package's own SummaryWriter does it on a thread, which ends with a traceback on a full disk.

    Args:
        after: optimizer steps that are told already: later ones, of a process that was cut off, are taken back.

    Raises:
        DiskFullError, OSError: by every method.
    """

    def __init__(self, folder: Path, after: int | None) -> None:
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter
        from tensorboardX.summary import scalar

        purge = 0 if after is None else after + 1
        self._folder, self._event, self._scalar = folder / "tensorboard", Event, scalar
        self._folder.mkdir(exist_ok=True)
        stamp = f"{time.time():.0f}.{socket.gethostname()}.{purge:012d}"  # two of one second would be one without it
        self._writer: Any = RecordWriter(str(self._folder / f"events.out.tfevents.{stamp}"))
        self._write(file_version="brain.Event:2")
        if after is not None:
            self._write(step=purge, session_log=SessionLog(status=SessionLog.START))

    def add(self, row: Mapping[str, Any]) -> None:
        """One row of metrics.jsonl: of steps under `train/`, of an epoch under `epoch/` and `validation/`."""
        for tag, value in scalars(row):
            self._write(step=row["step"], summary=self._scalar(tag, value))

    def _write(self, **fields: Any) -> None:
        with disk_full_as_error(self._folder):
            self._writer.write(self._event(wall_time=time.time(), **fields).SerializeToString())

    def flush(self) -> None:
        """Everything that was added is on the disk."""
        with disk_full_as_error(self._folder):
            self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        writer, self._writer = self._writer, None
        if writer is None:
            return
        with disk_full_as_error(self._folder):
            try:
                writer.flush()
            finally:
                with suppress(OSError):  # the same again
                    writer.close()


def scalars(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields (tag, value) of every figure of a row; what is null has none."""
    whole = "val_loss" in row
    for key, value in row.items():
        if isinstance(value, Mapping):
            group = "train/loss" if key == "losses" else key if key == "validation" else f"epoch/{key}"
            yield from _nested(group, value)
        elif key not in PLACES and _is_figure(value):
            yield f"{'epoch' if whole else 'train'}/{key}", float(value)


def _nested(group: str, figures: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _nested(f"{group}/{key}", value)
        elif _is_figure(value):
            yield f"{group}/{key}", float(value)


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
