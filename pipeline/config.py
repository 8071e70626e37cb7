"""The `pipeline:` half of a configuration, and the identities of the settings that change bytes."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dateshard.pipeline.source import (
    CalendarConfig,
    DateRange,
    NodeTable,
    Source,
    SourceSection,
    Step,
    StoreConfig,
    null_word,
)
from dateshard.pipeline.spelling.day_step import DayStep
from dateshard.pipeline.splits import refuse_impossible, resolve_cuts
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.identity import identity
from dateshard.shardstore.layouts.feature import CALENDAR, Feature, partial_settings
from dateshard.shardstore.layouts.row_buckets import BUCKETS, ROW
from dateshard.shardstore.manifest import SPLITS
from dateshard.shardstore.times.calendar import Day, day_of, day_of_records, parse_step

MEASURE_CODE = 1  # raised by hand when the same dump and settings give other staged bytes; a golden test holds it
TYPED_CODE = 2  # likewise of dumps whose columns have types (Parquet, Arrow), never below MEASURE_CODE
DAY = 86_400_000_000_000  # nanoseconds
HOLIDAY = "holiday"  # the feature that a calendar makes
COLUMNLESS = ("count", "gap", CALENDAR)  # aggregates that need no column
OVER = ("count", "sum", "mean", "last")  # what events aggregate over the records ahead
OUTSIDE = "outside of pipeline.source.dates"
NORMALISE_CODE = 1  # likewise for staged bytes -> shard bytes


def _bounds_in_order(bounds: tuple[float | None, float | None]) -> tuple[float | None, float | None]:
    low, high = bounds
    if low is None and high is None:
        raise ValueError("range names no bound: leave it out, or write one of [low, high]")
    if low is not None and high is not None and low >= high:
        raise ValueError(f"range must be [low, high] with low below high (got {[low, high]})")
    return bounds


Bounds = Annotated[tuple[float | None, float | None], AfterValidator(_bounds_in_order)]
OutsideWord = Literal["refuse", "drop", "clip", "null"]
Outside = Annotated[OutsideWord, BeforeValidator(null_word, json_schema_input_type=OutsideWord | None)]


class FeatureConfig(SourceSection):
    """One feature: which column, how a step's records become one value, and how that is filled and scaled."""

    column: str | None = Field(None, description="default: the feature's name; count without a column counts records")
    categorical: bool = Field(False, description="texts, as codes of a vocabulary frozen over the training dates")
    range: Bounds | None = Field(None, description="[low, high] of raw values, ends included; null is an open end")
    outside: Outside = Field(
        "refuse",
        description="a value outside of range: its row is a bad row or is dropped, or the value becomes the bound or missing",
    )
    aggregate: Literal["mean", "sum", "min", "max", "first", "last", "count", "difference", "gap", "calendar"] = Field(
        "mean",
        description="of a step's records, those without a value left out; difference: of a meter's last reading to that of "
        "the step before; default of a categorical feature and of events: last; gap, of events alone: seconds since the "
        "record before; calendar, of `holiday` alone: whether the date is a public holiday (pipeline.calendar)",
    )
    ahead: Step | None = Field(
        None,
        description="events: what is aggregated (count, sum, mean, last) are the records of the interval that begins with "
        "each record, as 60s: a target, never an input",
    )
    future: bool = Field(
        False,
        description="its values are known ahead (a weather forecast, a price, a schedule): models see those of the steps "
        "that they forecast; never a target",
    )
    fill: Literal["none", "zero", "forward", "mean"] = Field(
        "none", description="an unobserved cell: 0, the last value before it on that date, or the training mean"
    )
    fill_limit: int | None = Field(None, ge=1, description="most steps filled after an observed one or a date's start")
    transform: Literal["none", "log1p"] = "none"
    scale: Literal["none", "zscore", "minmax", "robust"] = "zscore"
    scale_per: Literal["feature", "node"] = "feature"
    clip: tuple[float, float] | None = Field(None, description="[low, high] in scaled units, the last step of all")

    @model_validator(mode="before")
    @classmethod
    def _codes_are_neither_averaged_nor_scaled(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("categorical") is True:
            return {"aggregate": "last", "scale": "none", **given}
        return given

    @model_validator(mode="after")
    def _combinations_have_a_meaning(self) -> FeatureConfig:
        if wrong := self._contradiction():
            raise ValueError(wrong)
        return self

    def _contradiction(self) -> str:
        if self.fill_limit is not None and self.fill == "none":
            return "fill_limit has no effect while fill is none"
        if self.clip is not None and not self.clip[0] < self.clip[1]:
            return f"clip must be [low, high] with low below high (got {list(self.clip)})"
        if self.range is None and self.outside != "refuse":
            return f"outside: {self.outside} has no effect without a range"
        if self.future and (self.ahead is not None or self.aggregate == "gap"):
            return "what is aggregated from records that have not come is not known ahead: leave out future"
        if self.aggregate == CALENDAR and (self.column, self.scale, self.fill, self.clip) != (
            None,
            "none",
            "none",
            None,
        ):
            return "the calendar has no column, and its 0 and 1 are neither filled nor scaled"
        if self.aggregate == "gap" and self.column is not None:
            return "a gap is taken from the records' times: it has no column"
        if self.range is not None and self.aggregate in COLUMNLESS and self.column is None:
            return f"range has no effect on a {self.aggregate} of records: it needs a column"
        return self._categorical_contradiction() if self.categorical else ""

    def _categorical_contradiction(self) -> str:
        allowed = {
            "aggregate": ("last", "first"),
            "fill": ("none", "forward"),
            "transform": ("none",),
            "scale": ("none",),
        }
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                return f"a categorical feature has codes, no quantities: {name} must be {' or '.join(values)} (got {value})"
        for name in ("clip", "range", "ahead"):
            if getattr(self, name) is not None:
                return f"a categorical feature has codes, no quantities: {name} has no meaning"
        return "" if self.scale_per == "feature" else "scale_per: node has no effect on a categorical feature"

    @property
    def nanoseconds_ahead(self) -> int:
        """Returns `ahead` in nanoseconds, 0 without it."""
        return 0 if self.ahead is None else parse_step(self.ahead)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Returns `range` with an infinite value for an open end."""
        if self.range is None:
            return None
        low, high = self.range
        return -math.inf if low is None else low, math.inf if high is None else high


def _dates_as_text(value: Any) -> Any:
    """YAML gives 2012-03-06 as a date and 20120306 as a number, alone and in lists."""
    if isinstance(value, list | tuple):
        return [_dates_as_text(item) for item in value]
    is_date = isinstance(value, dt.date) or (isinstance(value, int) and value > 1)  # 0 and 1 are fractions
    return str(value) if is_date else value


Share = Annotated[str | float | list[str] | None, BeforeValidator(_dates_as_text)]


class Split(SourceSection):
    """Ranges such as `2013-01-01..2013-09-30`, `2013-11-16..` or `last:7`, or a fraction of the dates each.

    With `by` what is divided are the cuts of events: lists of their names, or a fraction of the names each."""

    by: str | None = Field(
        None,
        description="events: the column of source.cut, whose names (subjects, sessions) are divided instead of dates",
    )
    train: Share = None
    validation: Share = None
    test: Share = None


def _possible(split: Split) -> Split:
    try:
        refuse_impossible(split)
    except UsageError as error:
        raise ValueError(f"{error.what}. {error.todo}") from None
    return split


class Pipeline(SourceSection):
    """The offline stage."""

    source: Source
    nodes: NodeTable | None = None
    layout: Literal["grid", "events", "table"] = Field(
        "grid",
        description="grid: nodes x steps of one length; events: records as they come, one after the other; table: rows that "
        "have nothing to do with each other",
    )
    step: DayStep | None = Field(None, description="length of a step: 30s, 5m, 1h; events have none")
    features: dict[str, FeatureConfig] = Field(min_length=1)
    split: Annotated[Split, AfterValidator(_possible)] | None = Field(
        None, description="default: validation is the last date that is not almost empty, training all before it"
    )
    calendar: CalendarConfig | None = None
    store: StoreConfig = StoreConfig()
    exclude: tuple[DateRange, ...] = Field((), description="dates, and ranges of dates, that are left out")

    @model_validator(mode="before")
    @classmethod
    def _records_are_kept_as_they_come(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("layout") not in ("events", "table"):
            return given
        source, features = given.get("source"), given.get("features")
        if isinstance(source, dict):
            given = given | {"source": {"duplicates": "keep", **source}}
        if isinstance(features, dict):
            rows = {name: {"aggregate": "last", **f} if isinstance(f, dict) else f for name, f in features.items()}
            given = given | {"features": rows}
        return given

    @model_validator(mode="before")
    @classmethod
    def _holidays_are_a_feature(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("calendar") and isinstance(features := given.get("features"), dict):
            made = {"aggregate": CALENDAR, "scale": "none", "future": True}
            return given | {"features": features if HOLIDAY in features else features | {HOLIDAY: made}}
        return given

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Pipeline:
        of_calendar = [name for name, feature in self.features.items() if feature.aggregate == CALENDAR]
        if of_calendar != ([HOLIDAY] if self.calendar else []):
            raise ValueError("pipeline.calendar makes the feature 'holiday', and no other has aggregate: calendar")
        if wrong := self._strange_to_grid() if self.layout == "grid" else self._strange_to_records():
            raise ValueError(wrong)
        return self

    @model_validator(mode="after")
    def _rows_are_divided(self) -> Pipeline:
        """A table that nothing divides is divided by its rows: 70 % train, 10 % validation, 20 % test."""
        if self.layout != "table" or not (self.split is None or (self.source.undated and self.split.by is None)):
            return self
        by, split = self.source.cut or ROW, self.split or Split(train=0.7, validation=0.1, test=0.2)
        object.__setattr__(self, "split", split.model_copy(update={"by": by}))
        return self

    @model_validator(mode="after")
    def _divides_what_cuts(self) -> Pipeline:
        by = self.split.by if self.split else None
        if self.by_row and self.layout == "table":
            if any(isinstance(getattr(self.split, name), list) for name in SPLITS):
                raise ValueError("split.by: row divides rows by what they hold: train, validation, test are fractions")
            return self
        if by is not None and by != self.source.cut:
            cut = f"source.cut is '{self.source.cut}'" if self.source.cut else "source.cut names none"
            raise ValueError(f"split.by divides the cuts of records: it is '{by}', and {cut}")
        return self

    def _strange_to_grid(self) -> str:
        if self.step is None:
            return "layout grid needs step, the length of a step: 30s, 5m, 1h"
        if self.source.time is None:
            return "layout grid needs source.time, the column of times"
        if self.source.cut is not None:
            return "source.cut applies to layout: events only; on a grid source.node names the nodes"
        for name, feature in self.features.items():
            if feature.aggregate == "gap" or feature.ahead is not None:
                which = "aggregate: gap" if feature.aggregate == "gap" else "ahead"
                return f"feature '{name}': {which} applies to layout: events only"
        return ""

    def _strange_to_records(self) -> str:
        source = self.source
        if self.step is not None:
            return f"layout {self.layout} keeps records as they come: step has no meaning"
        if source.node is not None or source.wide is not None or source.node_in_path or self.nodes is not None:
            return f"layout {self.layout} has no nodes: source.cut names the column of sessions or subjects, if there is one"
        return self._strange_to_table() if self.layout == "table" else self._strange_to_events()

    def _strange_to_table(self) -> str:
        for name, feature in self.features.items():
            if feature.aggregate != "last" or feature.ahead is not None:
                which = "ahead" if feature.ahead is not None else f"aggregate: {feature.aggregate}"
                return (
                    f"feature '{name}': the rows of a table have nothing to do with each other: {which} has no meaning"
                )
            if feature.fill == "forward" or feature.fill_limit is not None:
                which = "fill: forward" if feature.fill == "forward" else "fill_limit"
                return (
                    f"feature '{name}': the rows of a table have nothing to do with each other: {which} has no meaning"
                )
        return ""

    def _strange_to_events(self) -> str:
        if self.source.time is None:
            return "layout events needs source.time, the column of times"
        for name, feature in self.features.items():
            if feature.ahead is not None and feature.aggregate not in OVER:
                return f"feature '{name}': over the records ahead, aggregate must be {', '.join(OVER)} (got {feature.aggregate})"
            if feature.ahead is None and feature.aggregate not in ("last", "gap", CALENDAR):
                return (
                    f"feature '{name}': events keep each record's own value, so aggregate: {feature.aggregate} needs ahead, "
                    "the interval whose records it is taken of"
                )
        return ""

    @model_validator(mode="after")
    def _columns_apart(self) -> Pipeline:
        for name in self.features:
            if (column := self.column_of(name)) in (*self.source.time_columns, self.source.who) and column is not None:
                raise ValueError(f"feature '{name}' reads '{column}', the column of times or nodes; count needs none")
            if self.source.wide and column not in (None, self.source.wide.value):
                raise ValueError(
                    f"feature '{name}' reads '{column}', but a wide dump holds one value: '{self.source.wide.value}'"
                )
        return self

    @model_validator(mode="after")
    def _named_columns_are_there(self) -> Pipeline:
        names = self.source.csv.columns
        if names is None:
            return self
        wanted = [*self.source.time_columns, self.source.who]
        wanted += [] if self.source.wide else self.raw_columns()
        for column in (column for column in wanted if column is not None):
            if names.count(column) != 1:
                often = "twice" if column in names else "not"
                raise ValueError(f"source.csv.columns names the column '{column}' {often}")
        return self

    @model_validator(mode="after")
    def _one_reading_of_a_column(self) -> Pipeline:
        read: dict[str, tuple[str, FeatureConfig]] = {}
        for name, feature in self.features.items():
            column = self.column_of(name)
            if column is None:
                continue
            other, first = read.setdefault(column, (name, feature))
            if first.categorical != feature.categorical:
                raise ValueError(f"features '{other}' and '{name}' read '{column}' as texts and as numbers")
            if (first.range, first.outside) != (feature.range, feature.outside):
                raise ValueError(f"features '{other}' and '{name}' declare two ranges of '{column}'")
            if feature.categorical and self.source.wide:
                raise ValueError(f"feature '{name}': a wide dump holds numbers")
        return self

    @model_validator(mode="after")
    def _counters_have_a_step_before(self) -> Pipeline:
        counters = [name for name, feature in self.features.items() if feature.aggregate == "difference"]
        if counters and self.step_length >= DAY:
            raise ValueError(
                f"feature '{counters[0]}': a date has one step of {self.step}, and nothing to take a difference to: "
                "aggregate: difference needs shorter steps"
            )
        return self

    @model_validator(mode="after")
    def _parquet_columns_apart(self) -> Pipeline:
        if "parquet" in self.store.formats:
            taken = {"time", "node", *(["cut"] if self.cut else []), *(f"{name}_observed" for name in self.features)}
            if clash := sorted(taken & set(self.features)):
                raise ValueError(
                    f"feature '{clash[0]}' has the name of a column that parquet needs: give it another one"
                )
        return self

    @model_validator(mode="after")
    def _only_nodes_make_parts(self) -> Pipeline:
        if self.store.nodes_per_part is not None and self.layout != "grid":
            raise ValueError(f"store.nodes_per_part: only layout grid has nodes, not {self.layout}. Leave it out")
        return self

    @property
    def lists_nodes(self) -> bool:
        """Whether a table lists the nodes; otherwise they are those found over the training dates."""
        return self.nodes is not None and self.nodes.table is not None and not self.keeps_unknown

    @property
    def keeps_unknown(self) -> bool:
        """Whether nodes that training never saw are kept."""
        return self.nodes is not None and self.nodes.unknown == "keep"

    @property
    def step_length(self) -> int:
        """Nanoseconds of a step; 0 where the layout has none."""
        return 0 if self.step is None else parse_step(self.step)

    def day(self, date: dt.date, num_records: int = 0) -> Day:
        """The date's place in time.

        Args:
            num_records: of a layout without steps, as far as they are known.

        Raises:
            UsageError: the date does not exist in the zone, or the step does not divide its length.
        """
        if self.step_length:
            return day_of(date, self.source.timezone, self.step_length)
        return day_of_records(date, self.source.timezone, num_records)

    def why_left_out(self, date: dt.date) -> str:
        """Which setting leaves a date out, in words; empty where none does."""
        if any(low <= date <= high for low, high in self.exclude):
            return "pipeline.exclude names it"
        bounds = self.source.dates
        return "" if bounds is None or bounds[0] <= date <= bounds[1] else OUTSIDE

    def column_of(self, name: str) -> str | None:
        """The raw column of a feature; None where records are counted."""
        feature = self.features[name]
        return feature.column if feature.column or feature.aggregate in COLUMNLESS else name

    def raw_columns(self) -> list[str]:
        """The raw columns that features read, each once, sorted."""
        if self.source.wide is not None:
            return [self.source.wide.value]
        return sorted({column for name in self.features if (column := self.column_of(name)) is not None})

    def categorical_columns(self) -> frozenset[str]:
        """Returns the raw columns that are read as texts."""
        named = ((self.column_of(name), feature) for name, feature in self.features.items())
        return frozenset(column for column, feature in named if column is not None and feature.categorical)

    def ranges(self) -> dict[str, FeatureConfig]:
        """Returns {raw column: a feature that declares its range}; features of one column declare the same."""
        named = ((self.column_of(name), feature) for name, feature in self.features.items())
        return {column: feature for column, feature in named if column is not None and feature.range is not None}

    def feature_specs(self) -> tuple[Feature, ...]:
        """What the encoder needs of each feature, in configuration order."""
        decoding = {"column", "range", "outside", "ahead"}
        return tuple(
            Feature(name=name, ahead=feature.nanoseconds_ahead, **feature.model_dump(exclude=decoding))
            for name, feature in self.features.items()
        )

    def measure_identity(self, node_names: tuple[str, ...] | None) -> str:
        """Identifies the settings that decide a staged array's bytes; `node_names` of the table, None where nodes are found."""
        features = [
            [name, self.column_of(name), feature.aggregate, *_decoding(feature)]
            for name, feature in self.features.items()
        ]
        nodes = None if node_names is None else identity(list(node_names))
        others: list[Any] = [ROW] if self.by_row else []
        others += [["calendar", self.calendar.country, self.calendar.subdivision]] if self.calendar else []
        return identity([self.source.measuring(), nodes, self.layout, self.step_length, features, *others])

    def normalise_settings(self) -> str:
        """Identity of the settings that decide a shard's bytes beside staged array, statistics and nodes."""
        keys = ("fill", "fill_limit", "transform", "scale", "scale_per")
        clips = {name: [list(feature.clip)] if feature.clip else [] for name, feature in self.features.items()}
        rows = [[name, *(getattr(f, key) for key in keys), *clips[name]] for name, f in self.features.items()]
        return identity([*rows, ["unknown nodes are kept"]] if self.keeps_unknown else rows)

    def partial_settings(self) -> list[Any]:
        """What partial statistics depend on beside the staged arrays."""
        settings = partial_settings(self.feature_specs())
        return settings if self.split is None or self.split.by is None else [settings, self.split.model_dump()]

    @property
    def by_row(self) -> bool:
        """Whether a hash of what they hold divides the rows of a table, and no column."""
        return self.source.cut is None and self.split is not None and self.split.by == ROW

    @property
    def cut(self) -> str:
        """What cuts a date's records: a column, `row` for a hash of what they hold, or nothing."""
        return self.source.cut or (ROW if self.by_row else "")

    @property
    def training_cuts(self) -> tuple[str, ...] | None:
        """Names of the training cuts: () where dates are divided, None while fractions of the names are not resolved."""
        if self.split is None or self.split.by is None:
            return ()
        if self.by_row and not isinstance(self.split.train, list):
            return resolve_cuts(self.split, BUCKETS)["train"]
        train = self.split.train
        return tuple(sorted(set(train), key=str.encode)) if isinstance(train, list) else None

    @property
    def cuts_by_split(self) -> dict[str, tuple[str, ...]]:
        """Returns {split: names of its cuts}; {} where dates are divided, or while fractions are not resolved."""
        if not self.training_cuts:
            return {}
        assert self.split is not None, "cuts are divided by a split"
        if self.by_row and not isinstance(self.split.train, list):
            return resolve_cuts(self.split, BUCKETS)
        return {name: tuple(sorted(set(own), key=str.encode)) for name in SPLITS if (own := getattr(self.split, name))}

    def with_cuts(self, cuts: Mapping[str, Sequence[str]]) -> Pipeline:
        """The configuration with the names of cuts in each split in place of fractions."""
        assert self.split is not None, "cuts are divided by a split"
        named = {name: list(cuts[name]) if name in cuts else None for name in SPLITS}
        return self.model_copy(update={"split": self.split.model_copy(update=named)})


def _decoding(feature: FeatureConfig) -> list[Any]:
    """Settings that decide how a value is read; nothing where all are left at their defaults."""
    settings: list[Any] = ["categorical"] if feature.categorical else []
    settings += [["ahead", feature.nanoseconds_ahead]] if feature.ahead is not None else []
    return settings if feature.range is None else [*settings, [*feature.range], feature.outside]
