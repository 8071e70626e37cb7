"""One file of many dates, cut in one streaming pass into a spill a date. The spills are then the dumps.

A spill holds the needed columns as they were decoded, each row's instant and its number in the file, so that messages
name the file and the row. When the file grows at its end, the spills of earlier dates keep their bytes: they stay fresh.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from dateshard.pipeline.config import OUTSIDE, Pipeline
from dateshard.pipeline.memory_shares import READING_BYTES, give_back, own_bytes, refuse_less
from dateshard.pipeline.raw.bad_rows import BadRows
from dateshard.pipeline.raw.clocks.doubled_hours import with_instants
from dateshard.pipeline.raw.clocks.times import Instants, Valid, not_a_time, whole_times, written_times
from dateshard.pipeline.raw.cut_index import PATH_NODE, Cut, cut_key, find_cut
from dateshard.pipeline.raw.decode import one_node, request_of
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.raw.formats import Request, RowBlock, batch_rows, read_rows, reader_of
from dateshard.pipeline.raw.object_files import held
from dateshard.shardstore.commit import publish, staging_folder
from dateshard.shardstore.disk.durable import disk_full_as_error
from dateshard.shardstore.errors import DumpError
from dateshard.shardstore.identity import hash_bytes, hash_file, seal

ROW, FILE, BAD = "__row", "__file", "__bad_"
HELD_BYTES = 64 << 20  # of rows that are held before they go to the spills, at most
CUTTING_BYTES = 288 << 20  # what cutting adds to a process: a batch of a date and its copies


def read(path: Path, request: Request) -> Iterator[RowBlock]:
    """Rows of a spill, as pieces of the files that it was cut from."""
    cut_files = find_cut(path.parents[2], path.parent.name)
    if cut_files is None:
        where = request.where(path)
        raise DumpError(
            "the files that it was divided into are damaged",
            where=where,
            todo="Run the command again: it divides the file again",
        )
    with pa.ipc.open_file(path) as reader:
        size = read_rows(len(reader.schema.names))
        for index in range(reader.num_record_batches):
            frame = pl.from_arrow(pa.table(reader.get_batch(index)))
            assert isinstance(frame, pl.DataFrame)
            for rows in frame.iter_slices(size):
                for (number,), of_file in rows.partition_by(FILE, as_dict=True, maintain_order=True).items():
                    yield _piece(of_file, cut_files.files[number])


def _piece(frame: pl.DataFrame, file: Path) -> RowBlock:
    bad = {name.removeprefix(BAD): frame[name] for name in frame.columns if name.startswith(BAD)}
    bad = {name: texts for name, texts in bad.items() if texts.null_count() < len(texts)}
    kept = [name for name in frame.columns if name not in (ROW, FILE) and not name.startswith(BAD)]
    return RowBlock(file, frame.select(kept), frame[ROW].to_numpy(), bad)


def cut(root: Path, config: Pipeline, whole: Dump, memory_bytes: int | None = None) -> Cut:
    """Cuts the file and publishes the spills; older cuts are removed.

    Memory: HELD_BYTES of decoded rows about three times, and a batch of a date; less where `memory_bytes` is less.

    Raises:
        DumpError: wrong structure, or too many rows without a usable time; names the first one.
    """
    key, faults = cut_key(config, whole), BadRows(None, config.source)
    with staging_folder(root) as staged, ExitStack() as opened:
        staged.mkdir()
        with disk_full_as_error(staged):
            spills = _Spills(staged, held_bytes(memory_bytes))
            for number, path in enumerate(opened.enter_context(held(whole.files))):
                node = one_node(path, config.source) if config.source.node_in_path else None
                pieces = reader_of(path, config.source.format)(path, request_of(config, None))
                for piece, times, valid in with_instants(pieces, config.source, None):
                    faults.begin(piece)
                    spills.put(_with_dates(piece, (times, valid), number, config, faults, node))
            rows = faults.rows(config.source.max_bad_fraction)
            files = spills.close()
            dates = {date: [*files[f"{date}.arrow"], count] for date, count in sorted(spills.rows.items())}
            index = seal({"files": [str(path) for path in whole.files], "dates": dates, "rows": asdict(rows)})
            (staged / "index.json").write_bytes(index)
            files["index.json"] = (len(index), hash_bytes(index))
        folder = root / "cut" / key
        shutil.rmtree(folder, ignore_errors=True)  # it did not read, else it would have been used
        published = publish(root, staged, folder, files)
    for other in (root / "cut").iterdir():
        if other != published:
            shutil.rmtree(other)
    give_back()
    published_cut = find_cut(root, published.name)
    assert published_cut is not None, "it was read back when it was published"
    return published_cut


def held_bytes(memory_bytes: int | None) -> int:
    """Bytes of decoded rows that may be held: a tenth of what is left, for a date's rows are copied some times.

    Raises:
        UsageError: the limit is below what cutting any file takes.
    """
    if memory_bytes is None:
        return HELD_BYTES
    refuse_less(memory_bytes, own_bytes() + CUTTING_BYTES, "cutting one file into its dates")
    return min(HELD_BYTES, (memory_bytes - own_bytes() - READING_BYTES) // 10)


def _with_dates(
    piece: RowBlock, timed: tuple[Instants, Valid], number: int, config: Pipeline, faults: BadRows, node: str | None
) -> pl.DataFrame:
    """The rows of a piece that have a time within the bounds, with instant, date, row number, number of the file and node."""
    source, frame = config.source, piece.frame
    (times, valid), written = timed, written_times(frame, source)
    whole = partial(whole_times, frame, source)
    faults.reject(source.faults.bad_time, not_a_time(source), written.name, written, ~valid, whole)
    column = source.time_columns[-1]
    instant = pl.Series(column, times).cast(pl.Datetime("ns")).dt.replace_time_zone("UTC")
    date = instant.dt.convert_time_zone(source.timezone).dt.date().alias("__date")
    if source.dates is not None:
        outside = ~date.is_between(*source.dates, closed="both").to_numpy()
        faults.reject("drop", OUTSIDE, written.name, written, outside)
    more = [
        instant,
        date,
        pl.Series(ROW, piece.row_R),
        pl.Series(FILE, [number], dtype=pl.Int32).new_from_index(0, len(frame)),
        *([pl.lit(node, dtype=pl.String).alias(PATH_NODE)] if node is not None else []),
        *(texts.alias(BAD + name) for name, texts in piece.bad.items()),
    ]
    return frame.drop(source.time_columns).with_columns(more).filter(pl.Series(~faults.rejected))


class _Spills:
    """Rows by date: held for a while, then appended to a stream a date, in the end one file a date in equal batches.

    The batches of a spill depend on its rows alone, so that its bytes do.
    """

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self.folder, self._held, self._num_bytes, self._most_bytes = folder, list[pl.DataFrame](), 0, most_bytes
        self._flushed: dict[str, int] = {}
        self.rows: dict[str, int] = {}

    def put(self, frame: pl.DataFrame) -> None:
        self._held.append(frame)
        self._num_bytes += int(frame.estimated_size())
        if self._num_bytes > self._most_bytes:
            self._flush()

    def _flush(self) -> None:
        if not self._held:
            return
        together = pl.concat(self._held, how="diagonal")
        for (date,), dated in together.partition_by(
            "__date", as_dict=True, include_key=False, maintain_order=True
        ).items():
            self.rows[str(date)] = self.rows.get(str(date), 0) + len(dated)
            number = self._flushed[str(date)] = self._flushed.get(str(date), -1) + 1
            of_others = [
                name for name in dated.columns if name.startswith(BAD) and dated[name].null_count() == len(dated)
            ]
            dated.drop(of_others).write_ipc(self.folder / f"{date}.{number}", compression="uncompressed")
        self._held, self._num_bytes = [], 0

    def close(self) -> dict[str, tuple[int, str]]:
        """Closes all spills and returns their {file name: (size, hash)}."""
        self._flush()
        files = {}
        for date, last in sorted(self._flushed.items()):
            parts = [self.folder / f"{date}.{number}" for number in range(last + 1)]
            final = self.folder / f"{date}.arrow"
            _join(parts, final)
            files[final.name] = hash_file(final)
            for path in parts:
                path.unlink()
        return files


def _read_part(path: Path, schema: dict[str, Any], names: list[str]) -> pl.DataFrame:
    """A part's rows with all columns. Read, not mapped: what is mapped counts as resident."""
    frame = pl.read_ipc(path.read_bytes())
    lacking = schema.keys() - set(frame.columns)
    return frame.with_columns([pl.lit(None, dtype=schema[name]).alias(name) for name in sorted(lacking)]).select(names)


def _join(parts: list[Path], final: Path) -> None:
    """Writes the rows of all parts as batches of equal size, columns in order of name."""
    schema: dict[str, Any] = {}
    for path in parts:
        schema |= dict(pl.read_ipc_schema(path))
    names = sorted(schema)
    size = batch_rows(len(names))
    held: pl.DataFrame | None = None
    writer = None
    try:
        for number, path in enumerate(parts):
            whole = _read_part(path, schema, names)
            held = whole if held is None else pl.concat([held, whole], rechunk=False)
            del whole
            last = number == len(parts) - 1
            while len(held) >= size or (last and len(held)):
                table = held.head(size).rechunk().to_arrow().combine_chunks()
                writer = writer or pa.ipc.new_file(final, table.schema)
                writer.write_table(table)
                held = held.slice(size)
                del table  # before the next one is made
    finally:
        if writer is not None:
            writer.close()
