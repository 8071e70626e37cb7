"""What a preprocess tells as it goes: the front door renders these, tests collect them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dateshard.pipeline.planning.plan import Plan
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.shardstore.coverage.observed import ObservedCells
from dateshard.shardstore.errors import DateshardError
from dateshard.shardstore.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Cutting:
    """Comes before all others where the dump is one file of many dates that must be cut first.

    Attributes:
        note: what several files or a folder are taken for.
    """

    path: Path
    size: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class CutDone:
    """The file is cut into these dates; `rows` is its account."""

    path: Path
    dates: tuple[dt.date, ...]
    rows: RowCounts


@dataclass(frozen=True, slots=True)
class Planned:
    """What will be done; `notes` are damaged files that had to be passed over."""

    plan: Plan
    generation: int | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Began:
    """An act on so many dates begins, in so many processes (1 = this one)."""

    act: str  # measure | normalise
    num_dates: int
    num_workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DateDone:
    """An act on a date ended well. `changed` is False where the shard's bytes were already there; `size` is of a dump."""

    act: str  # measure | normalise | store
    date: dt.date
    rows: Mapping[str, Any] | None = None
    changed: bool = True
    size: int = 0


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Something measured is damaged; it is taken again from what it was made of."""

    date: dt.date
    error: DateshardError


@dataclass(frozen=True, slots=True)
class DateAgain:
    """The date's worker process was lost; it is tried once more, alone, when all others are done."""

    act: str
    date: dt.date
    why: str


@dataclass(frozen=True, slots=True)
class DateFailed:
    """An act on a date failed; the others go on."""

    act: str
    date: dt.date
    error: DateshardError


@dataclass(frozen=True, slots=True)
class DateDropped:
    """A date has no row, and is left out as `pipeline.source.empty_date` says."""

    date: dt.date
    error: DateshardError


@dataclass(frozen=True, slots=True)
class Noted:
    """What a person should know beside the plan's warnings, in words."""

    text: str


@dataclass(frozen=True, slots=True)
class Merged:
    """Global statistics were merged; `moved` says how far each feature's scale went from the ones before."""

    statistics: str
    num_dates: int
    moved: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Drifted:
    """The statistics stay frozen; so far would they move with what is measured now."""

    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class CommitDone:
    """A generation became current (or stayed, where nothing differed)."""

    generation: int
    num_dates: int
    changed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """Last event; `plan`: as it was carried out."""

    plan: Plan
    generation: int | None
    manifest: Manifest | None
    measured: int
    written: int
    unchanged: int
    failed: Mapping[dt.date, DateshardError]
    rows: Mapping[str, Any]
    seconds: float
    unknown_nodes: Mapping[dt.date, Strangers] = field(default_factory=dict)  # by date: neither in training nor a table
    unknown_categories: Mapping[dt.date, Mapping[str, Strangers]] = field(default_factory=dict)  # and by feature
    stored: int = 0  # dates whose shard stayed, written in other formats
    cut_short: bool = False  # it ended at the first failure, as was asked; nothing was committed after it
    dropped: Mapping[dt.date, DateshardError] = field(default_factory=dict)  # dates without rows that are left out
    observed: Mapping[str, ObservedCells] = field(default_factory=dict)  # by split, as far as it is known
    short_step: str = ""  # why the step is too short for the records, if it is
    cuts_in_no_split: str = ""  # which people or sessions came after the names were divided, if any
    empty: tuple[dt.date, ...] = ()  # dates made in this run of which no cell was observed
    unobserved: tuple[str, ...] = ()  # on features and nodes of which the training dates hold nothing, in words


Event = (
    Cutting
    | CutDone
    | Planned
    | Began
    | DateDone
    | DateAgain
    | PassedOver
    | DateFailed
    | DateDropped
    | Noted
    | Merged
    | Drifted
    | CommitDone
    | Finished
)
