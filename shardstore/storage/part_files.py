"""The committed arrays of dates, on their way from disk. A date lies in one part, or in several: ranges of nodes.

    nodes    0 .. 999    1000 .. 1999    2000 .. 2499
    part     0           1               2                each a shard of its own: values [T, n, F], time, a mask or none

Nothing of a file is used before its size and hash were compared with the manifest.

Legend: T steps, n nodes of a part, N nodes of the date, F features.
"""

from __future__ import annotations

import datetime as dt
import mmap
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import copies_of
from dateshard.shardstore.errors import DamagedError, NotThereError, Where
from dateshard.shardstore.manifest import TYPES, Entry, Manifest, Part, named_folders
from dateshard.shardstore.objects.bucket_store import discard, discard_copies, opener_of
from dateshard.shardstore.storage import zarr_cache, zarr_raw
from dateshard.shardstore.storage.shards import load_stored, verify_stored
from dateshard.shardstore.storage.verified_files import VerifiedFiles, read_at, repair_of
from dateshard.shardstore.times.calendar import instants

OF_CELLS = ("values", "observed")  # [T, N, F]; all others have one axis
GATHERED_BYTES = 4 << 20  # of a part's rows that are read at a time, on their way to their columns
PartMap = tuple[slice, NDArray[np.generic] | None]  # nodes, and their array; None for a mask that is not there
Place = tuple[Path, int, str]  # of a chunk file, its size and hash


class PartFiles:
    """Reads and maps the arrays of one generation's shards; safe to share between threads.

    Memory: about 0.3 kB a file that was read, and `GATHERED_BYTES` while a date of several parts is.
    """

    def __init__(self, root: Path, manifest: Manifest, refuse_if_cleaned: Callable[[str | None], None]) -> None:
        """Reads nothing yet; `refuse_if_cleaned` raises where a missing file's generation is gone."""
        self.root, self.manifest, self._refuse_if_cleaned = root, manifest, refuse_if_cleaned
        self._feature_names = [feature.name for feature in manifest.features]
        self._opener = VerifiedFiles(refuse_if_cleaned, opener_of(root))
        self._places: dict[tuple[dt.date, int, str], Place] = {}

    def entry(self, date: dt.date) -> Entry:
        """A committed date.

        Raises:
            NotThereError: the date is not in this generation.
        """
        try:
            return self.manifest.dates[date]
        except KeyError:
            raise NotThereError(
                "the date is not in this generation",
                where=Where(file=str(self.root), date=date),
                todo=to_run("preprocess", date, config=True),
            ) from None

    def read(self, array: str, date: dt.date, rows: slice, out: NDArray[Any]) -> None:
        """Reads steps `rows` of values or mask into `out` [rows, N, F]; a part without a mask is observed.

        Raises:
            DamagedError: size or hash is not what was committed; nothing of the file is used.
        """
        entry = self.entry(date)
        start, stop, _ = rows.indices(entry.num_steps)
        for number, shard in enumerate(entry.parts):
            if array not in shard.files:
                out[:, slice(*shard.nodes)] = True
                continue
            path, descriptor = self.verified(date, array, number)
            try:
                self._read_part(path, descriptor, (start, stop), out, shard)
            finally:
                os.close(descriptor)

    def _read_part(self, path: Path, descriptor: int, rows: tuple[int, int], out: NDArray[Any], shard: Part) -> None:
        (start, stop), (first, last) = rows, shard.nodes
        row_bytes = (last - first) * out.shape[2] * out.dtype.itemsize
        if last - first == out.shape[1]:
            read_at(descriptor, out.data.cast("B"), start * row_bytes, (stop - start) * row_bytes, path)
            return
        most = min(max(1, GATHERED_BYTES // max(row_bytes, 1)), stop - start)
        held = np.empty((most, last - first, out.shape[2]), dtype=out.dtype)
        for low in range(start, stop, most):
            count = min(most, stop - low)
            read_at(descriptor, held.data.cast("B"), low * row_bytes, count * row_bytes, path)
            out[low - start : low - start + count, first:last] = held[:count]

    def maps(self, date: dt.date, array: str) -> list[PartMap]:
        """Returns a read-only, verified map a part: (nodes, [T, n, F] or None); of an array with one axis that of the first."""
        parts = self.entry(date).parts
        if array not in OF_CELLS:
            return [(slice(*parts[0].nodes), self._map(date, array, 0))]
        return [(slice(*shard.nodes), self._map(date, array, number)) for number, shard in enumerate(parts)]

    def map(self, date: dt.date, array: str) -> NDArray[Any] | None:
        """A date's array [T, N, F], or [T]: the map of its only part, or gathered in memory; None for no mask at all."""
        maps = self.maps(date, array)
        if len(maps) == 1 or all(mapped is None for _, mapped in maps):
            return maps[0][1]
        return self._joined(date, array, [mapped for _, mapped in maps])

    def arrays(self, date: dt.date, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """Returns a date's arrays, or those wanted, as `map`; what is stored without Zarr is decoded, and not cached."""
        parts = self.entry(date).parts
        names = dict.fromkeys(name for shard in parts for name in shard.files)
        chosen = [name for name in names if wanted is None or name in wanted]
        if "zarr" in parts[0].formats:
            known = {"time": instants(day)} if (day := self.manifest.day(date)).step else {}
            mapped = ((name, known[name] if name in known else self.map(date, name)) for name in chosen)
            return {name: array for name, array in mapped if array is not None}
        loaded = [self._load_stored(date, shard) for shard in parts]
        return {name: self._joined(date, name, [arrays.get(name) for arrays in loaded]) for name in chosen}

    def of_nodes(self, date: dt.date, first: int, last: int) -> dict[str, NDArray[Any]]:
        """Returns a date's arrays of the nodes [first, last), as `arrays`; without a mask where nothing of them is missing.

        Memory: these nodes, and of what is stored without Zarr one part beside them."""
        entry = self.entry(date)
        if any(shard.nodes == (first, last) for shard in entry.parts) and len(entry.parts) == 1:
            return self.arrays(date)
        shape = (entry.num_steps, last - first, len(self._feature_names))
        whole = {name: np.empty(shape, dtype=TYPES[name]) for name in OF_CELLS}
        for number, shard in enumerate(entry.parts):
            low, high = max(first, shard.nodes[0]), min(last, shard.nodes[1])
            if low >= high:
                continue
            stored = {} if "zarr" in shard.formats else self._load_stored(date, shard)
            for name, array in whole.items():
                own = stored.get(name) if stored else self._map(date, name, number)
                array[:, low - first : high - first] = (
                    True if own is None else own[:, low - shard.nodes[0] : high - shard.nodes[0]]
                )
        if whole["observed"].all():
            del whole["observed"]
        return whole | {"time": instants(self.manifest.day(date))}

    def _joined(self, date: dt.date, name: str, of_parts: Sequence[NDArray[Any] | None]) -> NDArray[Any]:
        """The arrays of all parts side by side; the first where the array is none of cells, or lies in one part."""
        if len(of_parts) == 1 or name not in OF_CELLS:
            assert of_parts[0] is not None, "every part has the arrays that are none of cells"
            return of_parts[0]
        entry = self.entry(date)
        whole = np.empty((entry.num_steps, entry.num_nodes, len(self._feature_names)), dtype=TYPES[name])
        for shard, array in zip(entry.parts, of_parts, strict=True):
            whole[:, slice(*shard.nodes)] = True if array is None else array
        return whole

    def _map(self, date: dt.date, array: str, number: int) -> NDArray[np.generic] | None:
        shard = self.entry(date).parts[number]
        if array == "observed" and array not in shard.files:
            return None
        _, descriptor = self.verified(date, array, number)
        try:
            mapped = mmap.mmap(descriptor, shard.files[array][0], prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        return np.frombuffer(mapped, dtype=TYPES[array]).reshape(self._shape(date, shard, array))

    def _shape(self, date: dt.date, shard: Part, array: str) -> tuple[int, ...]:
        if array in OF_CELLS:
            return self.entry(date).num_steps, shard.nodes[1] - shard.nodes[0], len(self._feature_names)
        return (shard.files[array][0] // TYPES[array].itemsize,)

    def verified(self, date: dt.date, array: str, number: int = 0) -> tuple[Path, int]:
        """A committed file, open and verified. Where it is damaged, a mended copy of equal bytes beside it serves."""
        path, size, digest = self._place(date, array, number)
        damage: DamagedError | None = None
        for candidate in self._candidates(date, number, path):
            try:
                return candidate, self._opener.open(candidate, size, digest, date)
            except DamagedError as error:
                damage = damage or error
        assert damage is not None
        raise damage

    def _candidates(self, date: dt.date, number: int, path: Path) -> Iterator[Path]:
        """Where a chunk file may lie. Of a date without Zarr, where the first is no good, it is cached (again)."""
        yield path
        if "zarr" in (shard := self.entry(date).parts[number]).formats:
            yield from (copy / path.parent.name / path.name for copy in copies_of(path.parents[1]))
            if discard(path.parents[1]):
                yield path
            return
        hashes = {zarr_raw.chunk_file(name): file for name, file in shard.files.items()}
        zarr_cache.build(path.parents[1], hashes, lambda: self._load_stored(date, shard), self._feature_names)
        yield path

    def _load_stored(self, date: dt.date, shard: Part) -> Mapping[str, NDArray[Any]]:
        try:
            return load_stored(self.root, date, shard)
        except DamagedError as error:
            self._refuse_if_cleaned(error.where.file if error.where else None)
            raise

    def _place(self, date: dt.date, array: str, number: int) -> Place:
        """Where a chunk file lies. Remembered: joining a path costs as much as reading a small date."""
        known = self._places.get((date, number, array))
        if known is None:
            known = self._places[date, number, array] = self._place_of(date, array, self.entry(date).parts[number])
        return known

    def _place_of(self, date: dt.date, array: str, shard: Part) -> Place:
        size, digest = shard.files[array]
        place = "shards" if "zarr" in shard.formats else "cache"
        return self.root / place / str(date) / shard.id / zarr_raw.chunk_file(array), size, digest

    def verify(self, date: dt.date, *, full: bool) -> None:
        """Hashes every file of a date again, and compares what stands beside them.

        Args:
            full: also compares zarr-python's reading with ours, and the arrays of other storages with the committed ones.

        Raises:
            DamagedError: naming the file.
        """
        self.verify_parts(date, self.entry(date), full=full)

    def verify_parts(self, date: dt.date, entry: Entry, *, full: bool) -> None:
        """Verifies some parts of a date, perhaps in fewer formats than they have, as `verify`."""
        discard_copies(self.root, named_folders(replace(self.manifest, dates={date: entry})))
        for shard in entry.parts:
            verify_stored(self.root, date, shard, full=full)
            if "zarr" not in shard.formats:
                continue
            for array in shard.files:
                path, size, digest = self._place_of(date, array, shard)
                self._opener.forget(path)
                os.close(self._opener.open(path, size, digest, date))
            folder = self.root / "shards" / str(date) / shard.id
            shapes = {name: (self._shape(date, shard, name), TYPES[name].str) for name in shard.files}
            try:
                zarr_raw.check_metadata(folder, shapes, self._feature_names)
            except DamagedError as error:
                raise DamagedError(error.what, where=error.where, todo=repair_of(folder / "values" / "0.0.0")) from None
            if full:
                self._compare_with_zarr(folder, date, shard)

    def _compare_with_zarr(self, folder: Path, date: dt.date, shard: Part) -> None:
        import zarr

        theirs = np.asarray(zarr.open_group(str(folder), mode="r")["values"])
        if not np.array_equal(theirs, np.asarray(self._map(date, "values", self.entry(date).parts.index(shard)))):
            raise DamagedError("zarr-python reads other values", where=Where(file=str(folder), date=date))
