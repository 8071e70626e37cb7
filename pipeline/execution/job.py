"""What one preprocess works with (`Job`), how far it has come (`PreprocessProgress`), and how a date fails in it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dateshard.pipeline.acts import Measured, Normalised
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.observe import AboutNodes
from dateshard.pipeline.planning.plan import DatePlan, Observed, Plan, Wish
from dateshard.pipeline.progress_events import DateDropped, DateFailed
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.workers.engine import Engine
from dateshard.shardstore.commit import Committed, StoreWriter
from dateshard.shardstore.errors import DateshardError, DiskFullError, DumpError, NoRowsError, StoreError, Where
from dateshard.shardstore.manifest import Entry, Manifest
from dateshard.shardstore.scaling.statistics import Statistics


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one preprocess is asked to do and works with. Nothing of it changes while it goes on.

    Attributes:
        old: the generation that it began with. about: what the configuration says of nodes.
        worker_bytes: what one process may use. cut_rows: of the file of many dates, if it was cut just now.
        began: seconds of the monotonic clock.
    """

    dataset: str
    config: Pipeline
    writer: StoreWriter
    old: Manifest | None
    about: AboutNodes
    wish: Wish
    workers: Engine
    worker_bytes: int
    cut_rows: RowCounts | None
    fail_fast: bool
    began: float


@dataclass(slots=True, kw_only=True)
class PreprocessProgress:
    """How far one preprocess has come: what is known and planned now, and what became of each date.

    Attributes:
        named: the configuration with the names of cuts in place of fractions, as soon as they are known.
        current: the newest commit. statistics: that the dates are scaled by.
        entries: dates of the next commit. dropped: dates without rows. made: dates whose shard was normalised.
        stored: how many shards were written in other formats.
    """

    seen: Observed
    plan: Plan
    named: Pipeline
    current: Committed | None
    statistics: Statistics | None = None
    measured: dict[dt.date, Measured] = field(default_factory=dict)
    failed: dict[dt.date, DateshardError] = field(default_factory=dict)
    dropped: dict[dt.date, DateshardError] = field(default_factory=dict)
    entries: dict[dt.date, Entry] = field(default_factory=dict)
    made: dict[dt.date, Normalised] = field(default_factory=dict)
    stored: int = 0

    @property
    def plans(self) -> dict[dt.date, DatePlan]:
        """The plan of each date."""
        return {date.date: date for date in self.plan.dates}

    @property
    def excluded(self) -> set[dt.date]:
        """The dates that the plan leaves out."""
        return {date.date for date in self.plan.dates if date.state == "excluded"}


class FailedFastError(Exception):
    """A date failed, and that ends the preprocess; it never leaves `preprocess`."""


def fail(
    job: Job, progress: PreprocessProgress, act: str, date: dt.date, error: DateshardError
) -> Iterator[DateFailed | DateDropped]:
    """Notes that the date failed, and goes on with the others.

    A full disk, or a store that cannot hold what its dump gives, stops them all. What fails once its rows are cells
    names no file: that of its dump is added."""
    if isinstance(error, NoRowsError) and job.config.source.empty_date == "drop":
        progress.dropped[date] = error
        yield DateDropped(date, error)
        return
    if isinstance(error, DiskFullError) or (isinstance(error, StoreError) and date in progress.seen.dumps):
        raise error
    where, dump = error.where or Where(date=job.config.source.shown_date(date)), progress.seen.dumps.get(date)
    if isinstance(error, DumpError) and where.file is None and dump:
        error = type(error)(error.what, where=replace(where, file=str(dump.path)), todo=error.todo)
    progress.failed[date] = error
    yield DateFailed(act, date, error)
    if job.fail_fast:
        raise FailedFastError


def training_keys(progress: PreprocessProgress) -> dict[dt.date, str]:
    """Gives the staged keys of the training dates that are measured now."""
    plan, keys = progress.plan, {}
    for date in plan.dates:
        staged = date.date in progress.measured or date.key in progress.seen.staged[date.date]
        if date.state != "excluded" and plan.training(date.date) and staged and date.date not in progress.failed:
            keys[date.date] = date.key
    return keys
