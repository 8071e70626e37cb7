"""How traces of LLM requests are written: which columns hold the time and the tokens, and in which unit the time counts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dateshard.pipeline.raw.formats import SUFFIXES, Request, no_column, suffix_of
from dateshard.pipeline.raw.formats.header import read_header
from dateshard.pipeline.raw.formats.text import blocks
from dateshard.pipeline.source import Csv
from dateshard.shardstore.errors import DumpError, UsageError, Where

DIALECT = Csv(final_newline=False)
SEPARATORS = (";", "\t", "|")  # beside the comma
ROLES = ("time", "input", "output")
UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}  # nanoseconds of each
HISTORY = ("Timestamp", "Request tokens", "Response tokens")  # of the frames that a predictor takes


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFormat:
    """Where a trace holds what: the columns of the time, the input tokens and the output tokens.

    Attributes:
        unit: of times that are numbers; times may be texts or typed in any format.
    """

    name: str
    time: str
    input: str
    output: str
    unit: str = "s"

    @property
    def columns(self) -> tuple[str, str, str]:
        """Returns the three columns, in the order of `ROLES`."""
        return self.time, self.input, self.output


BURSTGPT = TraceFormat(name="BurstGPT", time=HISTORY[0], input=HISTORY[1], output=HISTORY[2])
KNOWN = (
    BURSTGPT,
    TraceFormat(name="Azure", time="TIMESTAMP", input="ContextTokens", output="GeneratedTokens"),
    TraceFormat(name="Mooncake", time="timestamp", input="input_length", output="output_length", unit="ms"),
)


def format_of(path: Path, columns: Mapping[str, str] | None = None, unit: str | None = None) -> TraceFormat:
    """The format of a trace by its header, or by a mapping.

    Args:
        columns: {time, input, output: the file's column}, where the header is not a known one.
        unit: of times that are numbers; None: that of the known format, else seconds.

    Raises:
        UsageError: a mapping that names something else. DumpError: columns that the file does not have.
    """
    if unit is not None and unit not in UNITS:
        raise UsageError(f"there is no unit of time '{unit}'", todo=f"Choose from {', '.join(UNITS)}")
    header = header_of(path)
    if columns is None:
        chosen = of_header(header, path)
        return chosen if unit is None else TraceFormat(name=chosen.name, **_named(chosen.columns), unit=unit)
    if wrong := sorted({*columns} ^ {*ROLES}):
        todo = "Write it as --columns time=T,input=I,output=O, with your columns for T, I and O"
        raise UsageError(f"a mapping of columns names {', '.join(ROLES)}, each once; '{wrong[0]}' is wrong", todo=todo)
    for role in ROLES:
        if columns[role] not in header:
            raise DumpError(no_column(columns[role], header), where=Where(file=str(path)), todo="Correct --columns")
    return TraceFormat(name="mapped", **columns, unit=unit or "s")


def _named(columns: tuple[str, str, str]) -> dict[str, str]:
    return dict(zip(ROLES, columns, strict=True))


def of_header(header: Sequence[str], path: Path) -> TraceFormat:
    """The known format whose columns a header has.

    Raises:
        DumpError: none; names the columns that the nearest format lacks.
    """
    for known in KNOWN:
        if {*known.columns} <= {*header}:
            return known
    nearest = max(KNOWN, key=lambda known: len({*known.columns} & {*header}))
    lacking = [name for name in nearest.columns if name not in header]
    others = f". Missing too: {', '.join(lacking[1:])}" if len(lacking) > 1 else ""
    free = [name for name in header if name not in nearest.columns] or header
    what = f"{no_column(lacking[0], free)} (nearest known trace: {nearest.name}){others}"
    todo = "Name your columns: --columns time=T,input=I,output=O"
    raise DumpError(what, where=Where(file=str(path), row=1), todo=todo)


def header_of(path: Path) -> tuple[str, ...]:
    """The names of a file's columns.

    Raises:
        DumpError: it cannot be read.
    """
    where = Where(file=str(path))
    if not path.is_file():
        what = "that is a folder, not a trace" if path.is_dir() else "there is no such file"
        raise DumpError(what, where=where, todo="Name the file of a trace")
    kind, request = SUFFIXES.get(suffix_of(path) or "", ""), Request(columns={}, csv=DIALECT)
    if not kind:
        known = "Name it .csv, .jsonl, .parquet or .arrow; texts may be packed, as .csv.gz"
        raise DumpError("no format is known by its suffix", where=where, todo=known)
    if kind in ("parquet", "arrow"):
        import polars as pl

        read = pl.read_parquet_schema if kind == "parquet" else pl.read_ipc_schema
        try:
            return tuple(read(path))
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DumpError(f"cannot be read: {str(error).splitlines()[0]}", where=where) from None
    if kind == "jsonl":
        return _keys(next(blocks(path, request), b""), where)
    return _names(path, dialect_of(path))


def dialect_of(path: Path) -> Csv:
    """The dialect of a trace in text: another separator than the comma where its header has no comma but that one."""
    names = _names(path, DIALECT) if SUFFIXES.get(suffix_of(path) or "") == "csv" else ()
    separator = next((mark for mark in SEPARATORS if len(names) == 1 and mark in names[0]), DIALECT.separator)
    return DIALECT.model_copy(update={"separator": separator})


def _names(path: Path, dialect: Csv) -> tuple[str, ...]:
    request = Request(columns={}, csv=dialect)
    return tuple(read_header(blocks(path, request), path, request).names)


def _keys(text: bytes, where: Where) -> tuple[str, ...]:
    """The keys of the first row of JSON Lines."""
    try:
        first = json.loads(text.strip().split(b"\n", 1)[0])
    except ValueError:
        first = None
    if not isinstance(first, dict):
        raise DumpError("the first row is no JSON object", where=where, todo="Write one object a row")
    return tuple(first)
