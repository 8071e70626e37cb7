"""A date's decoded records: in memory, or, where they would not fit, in one file for each stretch of the date.

A stretch is at least an hour and a whole number of steps, so a cell's records and all records of one instant lie in one
stretch: reducing stretch by stretch gives the same bytes as reducing the whole date.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.memory_shares import READING_BYTES
from dateshard.shardstore.disk.durable import disk_full_as_error
from dateshard.shardstore.errors import DumpError, Where
from dateshard.shardstore.times.calendar import Day

HOUR = 3600 * 10**9
REDUCING_BYTES = 72  # a record's share of what sorting and reducing hold beside its columns


@dataclass(frozen=True, slots=True)
class Chunk:
    """Accepted records of one piece. Legend: R records, F features with a column."""

    time_R: NDArray[np.int64]
    code_R: NDArray[np.int32]
    place_R: NDArray[np.int64] | None  # number of the row among all rows of the dump, where somebody will ask
    values_FR: tuple[NDArray[np.float64], ...]

    @property
    def num_bytes(self) -> int:
        """The bytes of its columns."""
        known = self.time_R.nbytes + self.code_R.nbytes + (0 if self.place_R is None else self.place_R.nbytes)
        return known + sum(values.nbytes for values in self.values_FR)


class Spool:
    """Takes a date's chunks and gives them back by stretches.

    Owns `folder`, if it comes to that. Memory: `budget_bytes` while they are taken, one stretch while they are given.
    """

    def __init__(self, day: Day, num_columns: int, budget_bytes: int, folder: Path, *, places: bool) -> None:
        self.day, self.folder, self.budget_bytes = day, folder, budget_bytes
        self.stretch = max(1, -(-HOUR // day.step)) * day.step if day.step else HOUR
        self.num_stretches = -(-(day.end - day.start) // self.stretch)
        fields = [("time", "<i8"), ("code", "<i4"), *((f"v{k}", "<f8") for k in range(num_columns))]
        if places:
            fields.append(("place", "<i8"))
        self._places = places
        self.record_type, self._columns = np.dtype(fields), num_columns
        self._chunks: list[Chunk] = []
        self._held = 0
        self.spilled = False

    def put(self, chunk: Chunk) -> None:
        """Keeps a chunk; beyond the budget everything goes to files."""
        self._chunks.append(chunk)
        self._held += chunk.num_bytes + REDUCING_BYTES * len(chunk.time_R)
        if self._held > self.budget_bytes:
            self._spill()

    @property
    def whole(self) -> bool:
        """Whether all records are held in memory, and no file is needed."""
        return not self.spilled and self._held <= self.budget_bytes

    def stretches(self) -> Iterator[tuple[Day, Chunk]]:
        """Yields (part of the day, its records in file order); the whole day at once where nothing need be spilled."""
        if self.whole:
            yield self.day, self._joined()
            return
        self._spill()
        for index in range(self.num_stretches):
            start = self.day.start + index * self.stretch
            length = min(self.stretch, self.day.end - start)
            stretch = replace(self.day, start=start, num_steps=length // self.day.step if self.day.step else 0)
            yield stretch if self.day.step else replace(stretch, length=length), self._load(index)

    def _joined(self) -> Chunk:
        """All chunks as one, column by column, so that one column is held twice and no more."""
        chunks, self._chunks = self._chunks, []
        if len(chunks) == 1:
            return chunks[0]
        empty = np.empty(0)
        if not chunks:
            return Chunk(empty.astype(np.int64), empty.astype(np.int32), None, (empty,) * self._columns)
        columns = [[c.time_R, c.code_R, *([] if c.place_R is None else [c.place_R]), *c.values_FR] for c in chunks]
        chunks.clear()
        time_R, code_R, *others = (np.concatenate([rest.pop(0) for rest in columns]) for _ in range(len(columns[0])))
        place_R = others.pop(0) if self._places else None
        return Chunk(time_R, code_R, place_R, tuple(others))

    def _file(self, index: int) -> Path:
        return self.folder / f"stretch-{index:03d}"

    def _spill(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.spilled = True
        for chunk in self._chunks:
            records = self.records_of(chunk)
            stretch_R = (chunk.time_R - self.day.start) // self.stretch
            for index in np.unique(stretch_R).tolist():
                with disk_full_as_error(self._file(index)), open(self._file(index), "ab") as file:
                    file.write(records[stretch_R == index].tobytes())
        self._chunks, self._held = [], 0

    def records_of(self, chunk: Chunk) -> NDArray[np.void]:
        """Returns [R] records of `record_type`, as files hold them."""
        records = np.empty(len(chunk.time_R), dtype=self.record_type)
        records["time"], records["code"] = chunk.time_R, chunk.code_R
        if chunk.place_R is not None:
            records["place"] = chunk.place_R
        for k, values in enumerate(chunk.values_FR):
            records[f"v{k}"] = values
        return records

    def chunk_of(self, records: NDArray[np.void]) -> Chunk:
        """The inverse of `records_of`."""
        values = tuple(np.ascontiguousarray(records[f"v{k}"]) for k in range(self._columns))
        time_R, code_R = np.ascontiguousarray(records["time"]), np.ascontiguousarray(records["code"])
        return Chunk(time_R, code_R, np.ascontiguousarray(records["place"]) if self._places else None, values)

    def _load(self, index: int) -> Chunk:
        path = self._file(index)
        if not path.exists():
            records = np.empty(0, dtype=self.record_type)
        else:
            needed = path.stat().st_size // self.record_type.itemsize * (2 * self.record_type.itemsize + REDUCING_BYTES)
            if needed > self.budget_bytes + READING_BYTES // 2:  # nothing is decoded any more
                raise DumpError(
                    f"one stretch of {self.stretch // HOUR} h holds more records than fit into memory ({needed / 1e6:,.0f} MB)",
                    where=Where(date=self.day.date),
                    todo="Give more with --memory-limit, or fewer --workers",
                )
            records = np.frombuffer(
                path.read_bytes(), dtype=self.record_type
            )  # np.fromfile takes a failed read for data
            path.unlink()
        return self.chunk_of(records)
