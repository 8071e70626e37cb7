"""A date's decoded records: in memory, or, where they would not fit, in one file for each stretch of the date.

A stretch is at least an hour and a whole number of steps, so a cell's records and all records of one instant lie in one
stretch: reducing stretch by stretch gives the same bytes as reducing the whole date.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.memory_shares import READING_BYTES
from dateshard.shardstore.disk.durable import disk_full_as_error
from dateshard.shardstore.errors import DumpError, Where
from dateshard.shardstore.times.calendar import Day

HOUR = 3600 * 10**9
FIRST_BYTES, HUGE_BYTES = 1 << 20, 8 << 20  # of a column in memory: at first, and from where on its pages are huge
ROOMY = (
    16  # times as much as columns that are huge from the first: then their last pages of 2 MB are little of the budget
)
SPILLED_ROWS = 1 << 14  # that are laid out for their files at once
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


def _columns_of(chunk: Chunk) -> list[NDArray[Any]]:
    """The columns of a chunk, in the order in which they are kept."""
    return [chunk.time_R, chunk.code_R, *chunk.values_FR, *([] if chunk.place_R is None else [chunk.place_R])]


class _Column:
    """A column that is appended to. It grows in place: pages are moved and not copied, and those never written cost nothing.

    Owns anonymous memory, which goes with the last array of it.
    """

    def __init__(self, dtype: str, num_bytes: int) -> None:
        self._dtype, self._used = np.dtype(dtype), 0
        self._memory = self._new(num_bytes)
        self._make_huge()

    @staticmethod
    def _new(num_bytes: int) -> mmap.mmap:
        return mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def append(self, values: NDArray[Any]) -> None:
        """Copies values to the end."""
        if (needed := self._used + values.nbytes) > len(self._memory):
            self._grow(max(needed, len(self._memory) * 3 // 2))
        self._view(self._used, len(values))[:] = values
        self._used = needed

    def _grow(self, num_bytes: int) -> None:
        try:
            self._memory.resize(num_bytes)
        except SystemError:  # a system that cannot
            before, self._memory = self._memory, self._new(num_bytes)
            self._memory[: self._used] = before[: self._used]
        self._make_huge()

    def _make_huge(self) -> None:
        if len(self._memory) >= HUGE_BYTES:  # 500 times fewer page faults, where 2 MB more or less are nothing
            with suppress(AttributeError, OSError):
                self._memory.madvise(mmap.MADV_HUGEPAGE)

    def array(self) -> NDArray[Any]:
        """All that was appended; nothing can be from then on."""
        return self._view(0, self._used // self._dtype.itemsize)

    def _view(self, first_byte: int, count: int) -> NDArray[Any]:
        return np.frombuffer(self._memory, self._dtype, count, first_byte)


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
        self._fields, self.record_type, self._num_columns = fields, np.dtype(fields), num_columns
        self._first: Chunk | None = None  # which is all that most small dates have
        self._columns: list[_Column] = []
        self._held = 0
        self.spilled = False

    def put(self, chunk: Chunk) -> None:
        """Keeps a chunk; beyond the budget everything goes to files."""
        if self._first is None and not self._columns:
            self._first = chunk
        else:
            self._append(chunk)
        self._held += chunk.num_bytes + REDUCING_BYTES * len(chunk.time_R)
        if self._held > self.budget_bytes:
            self._spill()

    def _append(self, chunk: Chunk) -> None:
        if not self._columns:
            roomy = self.budget_bytes >= ROOMY * HUGE_BYTES * len(self._fields)
            num_bytes = HUGE_BYTES if roomy else FIRST_BYTES
            self._columns = [_Column(dtype, num_bytes) for _, dtype in self._fields]
        first, self._first = self._first, None
        for records in (chunk,) if first is None else (first, chunk):
            for column, values in zip(self._columns, _columns_of(records), strict=True):
                column.append(values)

    @property
    def whole(self) -> bool:
        """Whether all records are held in memory, and no file is needed."""
        return not self.spilled and self._held <= self.budget_bytes

    def stretches(self) -> Iterator[tuple[Day, Chunk]]:
        """Yields (part of the day, its records in file order); the whole day at once where nothing need be spilled."""
        if self.whole:
            yield self.day, self._taken()
            return
        self._spill()
        for index in range(self.num_stretches):
            start = self.day.start + index * self.stretch
            length = min(self.stretch, self.day.end - start)
            stretch = replace(self.day, start=start, num_steps=length // self.day.step if self.day.step else 0)
            yield stretch if self.day.step else replace(stretch, length=length), self._load(index)

    def _taken(self) -> Chunk:
        """Gives all that is held, and holds nothing any more."""
        (first, columns), self._first, self._columns = (self._first, self._columns), None, []
        if first is not None:
            return first
        time_R, code_R, *others = (
            [column.array() for column in columns] if columns else [np.empty(0, dtype) for _, dtype in self._fields]
        )
        return Chunk(time_R, code_R, others.pop() if self._places else None, tuple(others))

    def _file(self, index: int) -> Path:
        return self.folder / f"stretch-{index:03d}"

    def _spill(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.spilled = True
        chunk = self._taken()
        for low in range(0, len(chunk.time_R), SPILLED_ROWS):
            records = self.records_of(chunk, slice(low, low + SPILLED_ROWS))
            stretch_R = (records["time"] - self.day.start) // self.stretch
            for index in np.unique(stretch_R).tolist():
                with disk_full_as_error(self._file(index)), open(self._file(index), "ab") as file:
                    file.write(records[stretch_R == index].tobytes())
        self._held = 0

    def records_of(self, chunk: Chunk, rows: slice = slice(None)) -> NDArray[np.void]:
        """Returns [R] records of `record_type`, as files hold them."""
        records = np.empty(len(chunk.time_R[rows]), dtype=self.record_type)
        for (name, _), column in zip(self._fields, _columns_of(chunk), strict=True):
            records[name] = column[rows]
        return records

    def chunk_of(self, records: NDArray[np.void]) -> Chunk:
        """The inverse of `records_of`."""
        values = tuple(np.ascontiguousarray(records[f"v{k}"]) for k in range(self._num_columns))
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
            data = path.read_bytes()  # np.fromfile takes a failed read for data
            records = np.frombuffer(data, dtype=self.record_type)
            path.unlink()
        return self.chunk_of(records)
