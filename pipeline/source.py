"""The `pipeline.source` section: where dumps lie, in which format and dialect, when and who a row is, what is tolerated."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from dateshard.pipeline.spelling.path_dates import refuse_pattern
from dateshard.pipeline.spelling.patterns import PatternError, read_pattern
from dateshard.pipeline.splits import parse_bounds, write_bounds
from dateshard.shardstore.errors import UsageError, shorten
from dateshard.shardstore.identity import identity
from dateshard.shardstore.own_code.user_code import forbidden
from dateshard.shardstore.times.calendar import parse_date, parse_step, zone


class SourceSection(BaseModel):
    """A part of the configuration: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _as_error(parse: Any) -> Any:
    """Lets pydantic report what a parser of ours refuses."""

    def check(value: Any) -> Any:
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(f"{error.what}. {error.todo}") from None

    return check


def _known_zone(name: Any) -> Any:
    zone(str(name))
    return name


def _valid_step(text: Any) -> Any:
    parse_step(text)
    return text


Date = Annotated[
    dt.date,
    BeforeValidator(_as_error(parse_date)),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["2013-03-05", 20130305]}),
]
DateRange = Annotated[
    tuple[dt.date, dt.date],
    BeforeValidator(_as_error(parse_bounds)),
    PlainSerializer(write_bounds, return_type=str),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["2013-01-01..2013-12-31", "2013-01-01..", 20130305]}),
]
Zone = Annotated[str, BeforeValidator(_as_error(_known_zone))]
Step = Annotated[str | int, BeforeValidator(_as_error(_valid_step))]
NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Bad = Literal["refuse", "drop"]  # refuse: counted against max_bad_fraction; drop: only counted
OrNull = Literal["refuse", "drop", "null"]


def null_word(value: Any) -> Any:
    """Takes YAML's null for the word."""
    return "null" if value is None else value


BadNumber = Annotated[OrNull, BeforeValidator(null_word, json_schema_input_type=OrNull | None)]


class Csv(SourceSection):
    """The dialect of CSV dumps (.csv, .txt, .tsv, packed or not)."""

    separator: str = Field(",", min_length=1, max_length=1)
    quote: str | None = Field('"', min_length=1, max_length=1, description="null: no character quotes")
    decimal: Literal[".", ","] = "."
    thousands: Literal[",", ".", " ", "'"] | None = Field(
        None,
        description="stands between the thousands of numbers, as in 1,234.5; a blank also for its unbreakable kinds",
    )
    encoding: str = "utf-8"
    missing: tuple[str, ...] = Field(("",), description="texts that stand for a missing value")
    columns: tuple[str, ...] | None = Field(
        None,
        description="names of a file's columns where it has no header; ... as the last stands for all further ones",
    )
    skip_rows: NotNegative | tuple[Positive, ...] = Field(
        0,
        description="so many lines at the start that are no rows, or the numbers of such lines: [2] is a row of units",
    )
    comment: str | None = Field(None, min_length=1, description="lines that begin with it are no rows")
    skip_footer: NotNegative = Field(
        0, description="so many lines at the end that are no rows; blank ones do not count"
    )
    final_newline: bool = Field(True, description="refuse a file whose last row has no newline: it may have been cut")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            b"".decode(name)
        except LookupError:
            raise ValueError(f"'{name}' is no encoding; utf-8, gb18030, latin-1 are") from None
        return name

    @model_validator(mode="after")
    def _characters_apart(self) -> Csv:
        apart = len({self.separator, self.decimal, self.quote}) == 3
        named = self.separator + (self.quote or "")
        if not apart or not named.isascii() or any(character in "\r\n\0" for character in named):
            raise ValueError("separator, decimal and quote must be three different ASCII characters, none a newline")
        if self.thousands is not None and self.thousands in (self.decimal, self.quote):
            raise ValueError("thousands must be another character than decimal and quote")
        if self.thousands == self.separator and self.quote is None:
            raise ValueError("thousands can be the separator only in numbers that are quoted, and quote is null")
        if self.comment is not None and (self.comment[0] in named or not self.comment.isprintable()):
            raise ValueError("comment must be printable and begin neither with the separator nor with the quote")
        if self.columns is not None and not self.columns:
            raise ValueError("columns is empty; leave it out where the file has a header")
        return self


class Wide(SourceSection):
    """A dump with one column a node: every column beside the time is a node, its values are one raw column."""

    value: str = Field(description="the raw column's name that features refer to")
    nodes: str = Field("*", description="which columns are nodes, as a shell pattern")


class FaultPolicy(SourceSection):
    """What becomes of a row with a fault.

    `refuse` counts it against max_bad_fraction, `drop` only counts it, `null` makes the value missing and keeps the row."""

    other_fields: Bad = "refuse"  # of a CSV: the row has not as many as the header
    bad_time: Bad = "refuse"
    other_date: Bad = "refuse"
    missing_node: Bad = "refuse"
    unknown_node: Bad = "refuse"
    bad_number: BadNumber = "refuse"
    not_finite: BadNumber = "refuse"


NOT_MEASURING = {"path", "dates", "format", "max_bad_fraction", "empty_date"}  # they decide no value


class TimeParts(SourceSection):
    """A time whose parts stand in columns of their own."""

    date: str | None = Field(None, description="column of whole dates, instead of year, month and day")
    year: str | None = None
    month: str | None = None
    day: str | None = None
    hour: str | None = None
    minute: str | None = None
    second: str | None = Field(None, description="column of seconds, fractions too")

    @model_validator(mode="after")
    def _make_a_time(self) -> TimeParts:
        split = [self.year, self.month, self.day]
        if (self.date is not None) == any(split) or (any(split) and not all(split)):
            raise ValueError("a time in parts needs date, or year, month and day")
        if (self.minute and not self.hour) or (self.second and not self.minute):
            raise ValueError("a time in parts has minute with hour alone, and second with minute")
        columns = list(self.columns().values())
        if repeated := next((column for column in columns if columns.count(column) > 1), None):
            raise ValueError(f"two parts of the time stand in one column, '{repeated}'")
        return self

    def columns(self) -> dict[str, str]:
        """Returns the {part: column} that are named."""
        return {name: column for name in TimeParts.model_fields if (column := getattr(self, name)) is not None}


TimeColumns = str | tuple[str, str] | TimeParts


class CalendarConfig(SourceSection):
    """Public holidays, as a feature `holiday` that is known ahead. Needs the extra `calendar`."""

    country: str = Field(description="its two-letter code of ISO 3166, as US")
    subdivision: str | None = Field(None, description="a state or province with holidays of its own, as CA")


class NodeTable(SourceSection):
    """A CSV of all nodes, and the edges between them. Without a table the nodes are those found over the training dates."""

    table: str | None = None
    id: str | None = Field(None, description="column that names the node")
    position: tuple[str, ...] = Field((), description="numeric columns; an empty cell is an unknown coordinate")
    static: tuple[str, ...] = Field(
        (),
        description="columns of what belongs to a node and does not change, for models: numbers, scaled over the nodes of "
        "training, or texts; an empty cell is a missing value",
    )
    categorical: tuple[str, ...] = Field(
        (), description="those of static that are categories although they are numbers"
    )

    unknown: Literal["drop", "keep"] = Field(
        "drop",
        description="nodes that training never saw: their rows are left out, or kept; then the table lists no nodes, it "
        "describes those that dumps have",
    )
    edges: str | None = Field(
        None,
        description="CSV or Parquet with the columns from, to and, if edges have one, weight: for models of your own",
    )

    @model_validator(mode="after")
    def _columns_are_of_a_table(self) -> NodeTable:
        if (self.table is None) != (self.id is None):
            raise ValueError("table and id come together: the file, and its column that names the node")
        if self.table is None and (self.position or self.static):
            raise ValueError("position and static are columns of the table, and table names none")
        if self.table is None and self.edges is None and self.unknown == "drop":
            raise ValueError("name a table or edges, or leave pipeline.nodes out")
        return self

    @model_validator(mode="after")
    def _each_column_once(self) -> NodeTable:
        for name in (*self.position, *self.static):
            if (*self.position, *self.static, self.id).count(name) > 1:
                raise ValueError(f"the column '{name}' is named twice")
        if others := [name for name in self.categorical if name not in self.static]:
            raise ValueError(f"categorical names '{others[0]}', which static does not")
        return self


def _each_once(formats: tuple[str, ...]) -> tuple[str, ...]:
    if not formats or len(set(formats)) != len(formats):
        raise ValueError("name one format at least, and each once")
    return formats


class StoreConfig(SourceSection):
    """What is written."""

    formats: Annotated[tuple[Literal["zarr", "parquet"], ...], AfterValidator(_each_once)] = Field(
        ("zarr",),
        description="zarr is what training maps; parquet is for others. Of parquet alone it trains by a cache",
    )
    nodes_per_part: int | None = Field(
        None,
        ge=1,
        description="a date lies in parts of so many nodes, each of which is a task of its own; default: in one",
    )
    keep_staged: Literal[True] = True

    def parts_of(self, num_nodes: int) -> list[tuple[int, int]]:
        """The ranges of nodes that the parts of a date have, in order; one where nothing is divided."""
        count = self.nodes_per_part or max(num_nodes, 1)
        return [(low, min(low + count, num_nodes)) for low in range(0, max(num_nodes, 1), count)]


class Source(SourceSection):
    """Where one date's dump lies, and which columns say when and who."""

    path: str = Field(
        description="a file or a folder a date, `{date}` or `{date:%Y%m%d}` stands for it, `{node}` for the node, `*` for "
        "several files; without a date one file of many dates, which is cut first"
    )
    dates: DateRange | None = Field(
        None, description="first and last date, as 2013-01-01..2013-12-31; an end may be open; all others are left out"
    )
    format: str = Field("auto", description="auto (by suffix), csv, parquet, jsonl, arrow, or my_module:read")
    csv: Csv = Csv()
    time: TimeColumns | None = Field(
        None,
        description="column of times, or [column of dates, column of times of day], or {year: column, month: column, ...}; "
        "a table may have none",
    )
    time_format: str = Field(
        "iso", description="iso (with or without an offset), s, ms, us, ns (numbers), or a strptime pattern"
    )
    time_stamps: Literal["start", "end"] = Field(
        "start",
        description="end: a time closes what it measures, so that midnight and 24:00 belong to the date before it",
    )
    time_origin: Date | None = Field(None, description="numbers count from this local midnight; default: 1970 UTC")
    ambiguous: Literal["refuse", "earliest", "latest", "infer"] = Field(
        "refuse",
        description="a local time without an offset that its zone has twice; infer: by the order of a node's rows in the file",
    )
    timezone: Zone = Field("UTC", description="zone of the dates, and of times without an offset")
    node: str | None = Field(
        None, description="column that names the node; without it, wide and {node} in the path there is one node"
    )
    node_name: str | None = Field(
        None, min_length=1, description="what the one node is called where nothing names any; default: the dataset"
    )
    cut: str | None = Field(
        None,
        description="events: column whose value (a session, a subject) cuts a date's records into pieces that no window crosses",
    )
    wide: Wide | None = None
    duplicates: Literal["last", "keep", "refuse"] = Field(
        "last",
        description="records of the same node and instant: the last in file order wins, all are kept, or the date is refused; "
        "default of events: keep",
    )
    faults: FaultPolicy = FaultPolicy()
    empty_date: Literal["fail", "drop"] = Field(
        "fail",
        description="a date whose dump has no row, or none that is left: it fails, or is left out of the dataset",
    )
    max_bad_fraction: float = Field(0.0, ge=0, le=1, description="rows refused above this share refuse the date")

    @field_validator("format")
    @classmethod
    def _no_code_of_a_client(cls, name: str, info: ValidationInfo) -> str:
        if ":" in name and forbidden(info.context):
            raise ValueError(f"'{shorten(name)}' names code, which is not imported from here; use auto")
        return name

    @field_validator("path")
    @classmethod
    def _only_dates(cls, path: str) -> str:
        if stray := re.search(r"\{(?!date[:}]|node\})[^{}/]*\}", path):
            known = "{date} and {date:%Y%m%d} stand for a dump's date, {node} for its node"
            raise ValueError(f"'{stray[0]}' is not a placeholder; {known}")
        _as_error(refuse_pattern)(path)
        return path

    @field_validator("format")
    @classmethod
    def _known_format(cls, name: str) -> str:
        if ":" not in name and name not in FORMATS:
            raise ValueError(f"no format '{name}'; use {', '.join(FORMATS)} or my_module:read")
        return name

    @model_validator(mode="after")
    def _one_way_to_name_nodes(self) -> Source:
        ways = [self.node is not None, self.wide is not None, self.node_in_path, self.node_name is not None]
        if sum(ways) > 1:
            raise ValueError(
                "nodes are named in one way: by node (a column), wide (a column a node), {node} in the path, "
                "or node_name where there is one node"
            )
        if self.time_origin is not None and self.time_format not in UNITS:
            raise ValueError("time_origin needs a time_format in numbers: s, ms, us or ns")
        if not isinstance(self.time, str | None) and self.time_format in UNITS:
            raise ValueError("times in numbers stand in one column")
        return self

    @field_validator("time_format")
    @classmethod
    def _pattern_has_a_meaning(cls, form: str) -> str:
        if form != "iso" and form not in UNITS:
            try:
                read_pattern(form)
            except PatternError as error:
                raise ValueError(f"'{form}' has no meaning: {error}") from None
        return form

    @model_validator(mode="after")
    def _two_columns_are_date_and_clock(self) -> Source:
        if isinstance(self.time, str | None) or self.time_format == "iso":
            return self
        pattern = read_pattern(self.time_format)
        if isinstance(self.time, TimeParts):
            if self.time.date is None or pattern.clock:
                raise ValueError(
                    f"time_format '{self.time_format}' must be that of time.date, which has no time of day"
                )
        elif pattern.joint is None:
            raise ValueError(f"time_format '{self.time_format}' is no date and time of day apart, as {self.time} are")
        return self

    @property
    def time_columns(self) -> tuple[str, ...]:
        """One column, or date and time of day, or one for each part."""
        if isinstance(self.time, TimeParts):
            return tuple(self.time.columns().values())
        return () if self.time is None else (self.time,) if isinstance(self.time, str) else self.time

    @property
    def cut_first(self) -> bool:
        """Whether the path names one file of many dates, which is cut before anything is measured."""
        return self.time is not None and "{date" not in self.path

    @property
    def undated(self) -> bool:
        """Whether neither the path nor a column says of which date rows are: they all lie in one dump."""
        return self.time is None and "{date" not in self.path

    def shown_date(self, date: dt.date | None) -> dt.date | None:
        """The date that a message names; None where rows have none."""
        return None if self.undated else date

    @property
    def who(self) -> str | None:
        """The column that names whose record a row is: its node, or its cut; None where nothing does."""
        return self.cut or self.node

    @property
    def node_in_path(self) -> bool:
        """Whether the path of a file names its node."""
        return "{node}" in self.path

    @property
    def keeps_ragged_rows(self) -> bool:
        """Whether a row of another number of fields is counted as others are, and does not cost its file."""
        return self.max_bad_fraction > 0 or self.faults.other_fields == "drop"

    def tolerated(self) -> str:
        """Identity of what is tolerated of a dump's rows: a date that failed is tried again when it changes."""
        empty, faults = ["drop"] if self.empty_date == "drop" else [], self.faults.model_dump()
        if faults["other_fields"] == "refuse":  # as before there was this key
            del faults["other_fields"]
        return identity([self.max_bad_fraction, faults, self.csv.final_newline, *empty])

    def measuring(self) -> dict[str, Any]:
        """The settings that decide decoded values, without those that stand at their default; `refuse` equals `drop`."""
        chosen = self.model_dump(mode="json", exclude_defaults=True, exclude=NOT_MEASURING)
        chosen.get("csv", {}).pop("final_newline", None)
        faults = {key: value for key, value in chosen.pop("faults", {}).items() if value == "null"}
        chosen |= self._other_meaning()
        chosen |= {"node": "{node}"} if self.node_in_path else {}
        return chosen | {"timezone": self.timezone} | ({"faults": faults} if faults else {})

    def _other_meaning(self) -> dict[str, str]:
        """Sets a pattern apart by which earlier versions read other times; nothing for all others."""
        if self.time_format == "iso" or self.time_format in UNITS:
            return {}
        pattern = read_pattern(self.time_format)
        other = pattern.other or (pattern.seconds and self.timezone != "UTC")
        return {"time_form": pattern.form} if other else {}


FORMATS = ("auto", "csv", "parquet", "jsonl", "arrow")
UNITS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
