"""Rows of some of the files, as the pipeline's own readers read them."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from dateshard.insight.first_look.dialect import FIRST_LINES, Dialect, dialect_of
from dateshard.insight.first_look.text_sample import TextSample, sample_text
from dateshard.pipeline.raw.formats import SUFFIXES, Kind, RaggedRowBlock, Request, reader_of, suffix_of
from dateshard.pipeline.raw.formats.columnar import KNOWN_TYPES
from dateshard.pipeline.raw.formats.header import fields_of
from dateshard.pipeline.raw.formats.remedies import OR_LEAVE
from dateshard.shardstore.errors import DumpError, NoRowsError, Where

FILE = "\0file"  # a column of no file: the number of the file that a row is of
MOST_ROWS, NUM_PARTS = 60_000, 6  # of a typed file: in so many parts, evenly over it
MOST_RAGGED = 0.02  # of the rows of a CSV: more are no accident
MOST_PASSED = 5_000_000  # rows of a row group that are passed over for the file's end
TEXT_FORMATS = ("csv", "jsonl")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowsSample:
    """Rows of some files.

    Attributes:
        frame: the usable columns, texts of text files as they are written, typed ones with their types; and `FILE`.
        unusable: {column: why}. format: csv, jsonl, parquet or arrow; of no known suffix, csv.
        keys: of `pipeline.source.csv`. spelling: how its text is written, in words.
        pieces: how many stretches of each file the rows are of; 1: all of it. to_end: the last rows are a file's last ones.
        faults: what preprocess will refuse of them. empty: files without a row.
        ragged: rows of a CSV with another number of fields than its header, which are none of these.
        first_ragged: where the first of them stands.
    """

    frame: pl.DataFrame
    unusable: dict[str, str]
    format: str
    keys: dict[str, Any]
    spelling: tuple[str, ...]
    doubts: tuple[tuple[str, str], ...]
    pieces: int
    to_end: bool
    faults: tuple[str, ...]
    empty: int
    ragged: int
    first_ragged: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Taken:
    frame: pl.DataFrame
    pieces: int = 1
    fault: str = ""
    to_end: bool = True
    ragged: int = 0
    first_ragged: str = ""


def format_of(path: Path) -> str:
    """The format that a file's suffix names, csv where it names none."""
    return SUFFIXES[suffix] if (suffix := suffix_of(path)) else "csv"


def header_of(path: Path) -> tuple[str, ...]:
    """The names of a file's columns; none where it cannot be read."""
    with suppress(DumpError, OSError, pa.ArrowException):
        kind = format_of(path)
        if kind in TEXT_FORMATS:
            sample = sample_text(path)
            return dialect_of(sample).header if kind == "csv" else tuple(sorted(_types_of_keys(_first_lines(sample))))
        return tuple(_schema(path, kind).names)
    return ()


def sample_rows(files: Sequence[Path]) -> RowsSample:
    """Reads some rows of each of the files, which have one format.

    Raises:
        DumpError: none of them has a row that can be read.
    """
    kind, dialect = format_of(files[0]), Dialect(keys={}, header=(), seen=(), doubts=())
    all_taken, faults, empty = list[_Taken](), list[str](), 0
    error: DumpError | None = None
    unusable: dict[str, str] = {}
    closed, first_names = dict[Path, bool](), tuple[str, ...]()
    for number, path in enumerate(files):
        try:
            if kind in TEXT_FORMATS:
                sample = sample_text(path)
                closed[path] = sample.closed
                dialect = dialect if dialect.header else _first_dialect(sample, kind, files)
                taken = _texts(path, sample, kind, dialect, unusable, several=len(files) > 1)
            else:
                taken = _typed(path, kind, unusable)
        except NoRowsError:
            empty += 1
            continue
        except DumpError as fault:
            error = error or fault
            faults.append(str(fault))
            continue
        names = _own_header(sample, dialect) if kind == "csv" else tuple(taken.frame.columns)
        first_names = first_names or names
        for name in names:
            if name not in first_names and name.strip():
                unusable.setdefault(
                    name, f"not in all files: of those that were read {path.name} is the first to have it"
                )
        faults += [taken.fault] if taken.fault else []
        all_taken.append(replace(taken, frame=taken.frame.with_columns(pl.lit(number, dtype=pl.Int64).alias(FILE))))
    if not all_taken:
        nothing = NoRowsError("a header but no row", where=Where(file=str(files[0])), todo="Name files with rows")
        raise error or nothing
    dialect, cut = _about_ends(dialect, closed)
    frame = pl.concat([taken.frame for taken in all_taken], how="diagonal_relaxed")
    usable = [name for name in frame.columns if name not in unusable]
    return RowsSample(
        frame=frame.select(usable),
        unusable=unusable,
        format=kind,
        keys=dialect.keys,
        spelling=dialect.seen,
        doubts=dialect.doubts,
        pieces=max(taken.pieces for taken in all_taken),
        to_end=all(taken.to_end for taken in all_taken),
        faults=(*faults, *cut),
        empty=empty,
        ragged=sum(taken.ragged for taken in all_taken),
        first_ragged=next((taken.first_ragged for taken in all_taken if taken.ragged), ""),
    )


def _first_dialect(sample: TextSample, kind: str, files: Sequence[Path]) -> Dialect:
    """The dialect of the first file, which is that of all; without a footer that the last file has not."""
    if kind == "jsonl":
        plain = {} if sample.encoding == "utf-8" else {"encoding": sample.encoding}
        return Dialect(keys=plain, header=tuple(_types_of_keys(_first_lines(sample))), seen=(), doubts=())
    dialect = dialect_of(sample)
    if len(files) == 1 or "skip_footer" not in dialect.keys:
        return dialect
    with suppress(DumpError):
        if "skip_footer" not in dialect_of(sample_text(files[-1])).keys:
            return replace(dialect, keys={key: what for key, what in dialect.keys.items() if key != "skip_footer"})
    return dialect


def _own_header(sample: TextSample, dialect: Dialect) -> tuple[str, ...]:
    """The names of a CSV's columns, where they are those of the first file and perhaps others."""
    own = dialect.header if "columns" in dialect.keys else dialect_of(sample).header
    return own if set(dialect.header) <= set(own) else dialect.header


def _about_ends(dialect: Dialect, closed: Mapping[Path, bool]) -> tuple[Dialect, list[str]]:
    """Returns (the dialect, faults): files may end without a newline if all do; some of several may have been cut."""
    cut = [path for path, whole in closed.items() if not whole]
    if len(cut) < len(closed):
        what = "it does not end with a newline, as others do, and may have been cut"
        todo = "Write it again, or set pipeline.source.csv.final_newline: false if it is whole"
        return dialect, [str(DumpError(what, where=Where(file=str(path)), todo=todo)) for path in cut]
    if not cut:
        return dialect, []
    seen = f"{'the file ends' if len(cut) == 1 else 'all files end'} without a newline"
    doubt = (f"{seen}: whether the last number is whole cannot be seen", "pipeline.source.csv.final_newline")
    keys = dialect.keys | {"final_newline": False}
    return replace(dialect, keys=keys, seen=(*dialect.seen, seen), doubts=(*dialect.doubts, doubt)), []


def _texts(
    path: Path, sample: TextSample, kind: str, dialect: Dialect, unusable: dict[str, str], *, several: bool
) -> _Taken:
    types = _types_of_keys(sample.text.split("\n")) if kind == "jsonl" else {}
    names = dialect.header if kind == "csv" else tuple(types)
    for name in names:
        if not name.strip():
            unusable[name] = "it has no name"
        elif names.count(name) > 1:
            unusable[name] = "its name stands twice"
    wanted = [name for name in names if name not in unusable]
    if kind == "jsonl":
        return _objects(path, sample, {name: types[name] for name in wanted})
    kinds: dict[str, Kind] = dict.fromkeys(wanted, "text")
    copied = dialect.csv.model_copy(update={"missing": (), "encoding": "utf-8"})
    request = Request(columns=kinds, csv=copied)
    with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
        copy = Path(folder, "sample.csv")
        copy.write_text(sample.text, encoding="utf-8", newline="")
        try:
            return _with_few_ragged(copy, request, sample, path, len(names) if several else 0)
        except NoRowsError:
            raise
        except DumpError as error:
            todo, left_out, _ = error.todo.partition(OR_LEAVE)  # a row of a sample has another number in its file
            todo += ", or leave such rows out with pipeline.source.faults.other_fields: drop" if left_out else ""
            fault = DumpError(error.what, where=Where(file=str(path)), todo=todo)
            copy.write_text(_readable(sample.text, request, len(names)), encoding="utf-8", newline="")
            try:
                return _Taken(
                    frame=_read(copy, request), pieces=len(sample.pieces), fault=str(fault), to_end=sample.to_end
                )
            except DumpError:
                raise fault from None


def _with_few_ragged(copy: Path, request: Request, sample: TextSample, path: Path, width: int) -> _Taken:
    """The rows of a sample, and how many others have another number of fields: a few, or the sample is refused.

    Args:
        width: of its rows, if it is one of several files: one whose last row alone is shorter has been cut. 0: it is not.
    """
    blocks = list(reader_of(copy, "csv")(copy, replace(request, ragged=True)))
    ragged = [block for block in blocks if isinstance(block, RaggedRowBlock)]
    count = sum(len(block.texts) - block.texts.null_count() for block in ragged)
    last = ragged[-1].texts[-1] if ragged and ragged[-1] is blocks[-1] and sample.to_end else None
    cut = count == 1 and last is not None and last.count(request.csv.separator) < width - 1
    if cut or count > MOST_RAGGED * sum(len(block.frame) for block in blocks):
        raise ragged[0].error
    place = ragged[0].error.where if ragged else None
    row = place.row if place and len(sample.pieces) == 1 else None
    first = f"{path}, row {row}" if row else f"{path}"
    frames = [b.frame.filter(b.texts.is_null()) if isinstance(b, RaggedRowBlock) else b.frame for b in blocks]
    return _Taken(
        frame=pl.concat(frames), pieces=len(sample.pieces), to_end=sample.to_end, ragged=count, first_ragged=first
    )


def _read(path: Path, request: Request) -> pl.DataFrame:
    return pl.concat([block.frame for block in reader_of(path, "csv")(path, request)])


def _readable(text: str, request: Request, width: int) -> str:
    """The lines that have all fields: what is left to guess from where the reader refuses others."""

    def reads(line: str) -> bool:
        try:
            return len(next(fields_of(line, request.csv), [])) == width
        except csv.Error:
            return False

    return "".join(line + "\n" for line in text.split("\n") if reads(line))


def _first_lines(sample: TextSample) -> list[str]:
    return sample.pieces[0].split("\n", FIRST_LINES)[:FIRST_LINES]


def _types_of_keys(lines: Iterable[str]) -> dict[str, set[type]]:
    """Returns {key: the types of its values} of all rows of JSON Lines; of rows that are no object nothing."""
    types = dict[str, set[type]]()
    for line in lines:
        with suppress(ValueError, RecursionError):
            if isinstance(parsed := json.loads(line), dict):
                for key, value in parsed.items():
                    types.setdefault(key, set()).add(type(value))
    return types


def _objects(path: Path, sample: TextSample, types: Mapping[str, set[type]]) -> _Taken:
    """Rows of JSON Lines as texts: numbers and texts are told apart by what they say. true and false are 1 and 0."""
    where = Where(file=str(path))
    if not types:
        raise DumpError("no row is a JSON object", where=where, todo="Write one object a row")
    text = "\n".join(line for line in sample.text.split("\n") if line.strip())
    try:
        frame = pl.read_ndjson(io.StringIO(text), schema=dict.fromkeys(types, pl.String))
    except pl.exceptions.PolarsError as error:
        raise DumpError(f"not JSON: {str(error).splitlines()[0]}", where=where, todo="Write one object a row") from None
    flags = [name for name, held in types.items() if bool in held and held <= {bool, int, float, type(None)}]
    frame = frame.with_columns(pl.col(flags).replace({"true": "1", "false": "0"}))
    return _Taken(frame=frame, pieces=len(sample.pieces), to_end=sample.to_end)


def _schema(path: Path, kind: str) -> pa.Schema:
    if kind == "parquet":
        return pq.read_schema(path)
    with pa.OSFile(str(path)) as stream:
        try:
            return pa.ipc.open_file(stream).schema
        except pa.ArrowInvalid:
            stream.seek(0)
            return pa.ipc.open_stream(stream).schema


def _typed(path: Path, kind: str, unusable: dict[str, str]) -> _Taken:
    """Rows of a Parquet or Arrow file: all of a small one, some evenly over a large one."""
    try:
        schema = _schema(path, kind)
        names = list(schema.names)
        for name in names:
            plain = schema.field(name).type if names.count(name) == 1 else pa.binary()
            plain = plain.value_type if isinstance(plain, pa.DictionaryType) else plain
            if not any(known(plain) for known in KNOWN_TYPES):
                unusable[name] = f"its type is {plain}" if names.count(name) == 1 else "its name stands twice"
        wanted = [name for name in names if name not in unusable]
        tables = list(_row_groups(path, wanted) if kind == "parquet" else _batches(path, wanted))
    except (pa.ArrowException, OSError, ValueError) as error:
        what = f"cannot be read: {str(error).splitlines()[0]}"
        raise DumpError(what, where=Where(file=str(path)), todo="Write it again") from None
    frame = pl.from_arrow(pa.concat_tables(tables)) if tables else pl.DataFrame()
    assert isinstance(frame, pl.DataFrame)
    if not len(frame):
        raise NoRowsError("no row", where=Where(file=str(path)))
    texts = [pl.col(name).cast(pl.String) for name, held in frame.schema.items() if held == pl.Categorical]
    whole = kind == "parquet" and len(frame) == pq.read_metadata(path).num_rows
    return _Taken(frame=frame.with_columns(texts), pieces=1 if whole else max(2, len(tables)))


def _evenly(count: int) -> list[int]:
    """Places of at most NUM_PARTS things among so many, the first and the last one included."""
    return sorted({round(k * (count - 1) / (NUM_PARTS - 1)) for k in range(NUM_PARTS)}) if count else []


def _row_groups(path: Path, names: list[str]) -> Iterator[pa.Table]:
    with pq.ParquetFile(path) as file:
        chosen = _evenly(file.num_row_groups)
        for group in chosen:
            batches = file.iter_batches(MOST_ROWS // len(chosen), row_groups=[group], columns=names, use_threads=False)
            first = next(batches, None)
            if first is not None:
                yield pa.Table.from_batches([first])
            if group == chosen[-1] and file.metadata.row_group(group).num_rows <= MOST_PASSED:
                yield from (pa.Table.from_batches([end]) for end in deque(batches, maxlen=1))  # the file's end


def _batches(path: Path, names: list[str]) -> Iterator[pa.Table]:
    with pa.OSFile(str(path)) as stream:
        try:
            reader = pa.ipc.open_file(stream)
            batches = [reader.get_batch(k) for k in _evenly(reader.num_record_batches)]
        except pa.ArrowInvalid:
            stream.seek(0)
            first = next(iter(pa.ipc.open_stream(stream)), None)
            batches = [] if first is None else [first]
        for batch in batches:
            yield pa.Table.from_batches([batch.select(names).slice(0, MOST_ROWS // len(batches))])
