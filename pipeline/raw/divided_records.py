"""A date's records divided by ranges of its nodes, so that one range after the other is reduced: `store.nodes_per_part`.

    decoded, in memory              a part is picked out of it
    decoded, spilled by the hour    each hour is read once and appended to a file a part; then a part is read at a time

Either way the dump was read once. A part's records keep their order, so that its cells have the bytes of the whole date's.

Legend: R records, F features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.memory_shares import READING_BYTES
from dateshard.pipeline.raw.decode import Decoded
from dateshard.pipeline.raw.spill import REDUCING_BYTES, Chunk, Spool
from dateshard.shardstore.disk.durable import disk_full_as_error
from dateshard.shardstore.errors import DumpError, Where, counted
from dateshard.shardstore.layouts.records import Records

Range = tuple[int, int]


def divided(decoded: Decoded, parts: Sequence[Range]) -> Iterator[tuple[Range, Records]]:
    """Yields (nodes, their records, whose `node_R` counts from the first of them), once.

    Memory: what is held of the whole date, or one part, and a part's records once more.

    Args:
        parts: ranges of places in `decoded.nodes`, neighbours, in order.

    Raises:
        DumpError: the records of one part do not fit into memory.
    """
    if decoded.spool.whole:
        ((_, records),) = decoded.stretches()
        part_R = _part_of(records.node_R, parts)
        order_R = np.argsort(part_R, kind="stable")  # of two bytes each: radix sort
        edges = np.cumsum([0, *np.bincount(part_R, minlength=len(parts)).tolist()]).tolist()
        for (first, last), low, high in zip(parts, edges[:-1], edges[1:], strict=True):
            own = records.at(order_R[low:high])
            yield (first, last), replace(own, node_R=own.node_R - first)
        return
    files = _by_part(decoded, parts)
    for (first, last), file in zip(parts, files, strict=True):
        chunk = _load(decoded.spool, file, last - first)
        values = tuple(None if place is None else chunk.values_FR[place] for place in decoded.column_places)
        yield (first, last), Records(chunk.time_R, chunk.code_R.astype(np.int64), values, chunk.place_R)


def _by_part(decoded: Decoded, parts: Sequence[Range]) -> list[Path]:
    """Appends the records of each hour to a file a part, in which a record's code is its node's place in the part."""
    spool = decoded.spool
    files = [spool.folder / f"part-{number:05d}" for number in range(len(parts))]
    for _, chunk in spool.stretches():
        node_R = decoded.code_place[chunk.code_R]
        records = spool.records_of(replace(chunk, code_R=node_R.astype(np.int32)))
        part_R = _part_of(node_R, parts)
        for number in np.unique(part_R).tolist():
            own = records[part_R == number]
            own["code"] -= parts[number][0]
            with disk_full_as_error(files[number]), open(files[number], "ab") as file:
                file.write(own.tobytes())
    return files


def _part_of(node_R: NDArray[np.signedinteger[Any]], parts: Sequence[Range]) -> NDArray[Any]:
    """Returns [R]: the part of each record's node."""
    number_N = np.repeat(np.arange(len(parts)), [last - first for first, last in parts])
    part_R: NDArray[Any] = number_N.astype(np.uint16 if len(parts) < 1 << 16 else np.int64)[node_R]
    return part_R


def _load(spool: Spool, file: Path, num_nodes: int) -> Chunk:
    data_type = spool.record_type
    size = file.stat().st_size if file.exists() else 0
    needed = size // data_type.itemsize * (2 * data_type.itemsize + REDUCING_BYTES)
    if needed > spool.budget_bytes + READING_BYTES // 2:
        raise DumpError(
            f"a part of {counted(num_nodes, 'node')} holds more records than fit into memory ({needed / 1e6:,.0f} MB)",
            where=Where(date=spool.day.date),
            todo="Give more with --memory-limit, use fewer --workers, or a lower pipeline.store.nodes_per_part",
        )
    records = np.frombuffer(file.read_bytes() if size else b"", dtype=data_type)
    file.unlink(missing_ok=True)
    return spool.chunk_of(records)
