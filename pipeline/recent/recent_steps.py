"""The encoded steps before an instant, of raw dumps, by the very path that makes shards. Nothing is published.

Legend: H steps of the history, N nodes of the frozen list, F features.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.arrays import Encoded, Normaliser, StagedDate, encode_date
from dateshard.pipeline.raw.row_counts import with_columns
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.pipeline.recent.raw_files import Names, Raw, history_option
from dateshard.shardstore.errors import DumpError, Where, counted
from dateshard.shardstore.layouts.encode import last_record
from dateshard.shardstore.times.calendar import Day, collapse
from dateshard.shardstore.times.instants import rows_before, step_before


@dataclass(frozen=True, slots=True)
class RecentRows:
    """One date of a history: its rows of the window, and what became of its dump."""

    day: Day
    rows: slice
    account: Mapping[str, Any]
    last: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSteps:
    """The window's inputs, and where they come from.

    Attributes:
        values_HNF: float32 scaled, as a shard holds them. observed_HNF: False where a cell was filled or left empty.
        end: the first instant after the history.
        last: instant of the last record of its last date.
        unknown_nodes: names that the frozen list lacks, of all its dates; some of them where a node table is closed.
        unknown_categories: {feature: categories that training never saw, of the date with most of them}.
    """

    values_HNF: NDArray[np.float32]
    observed_HNF: NDArray[np.bool_]
    end: int
    last: int | None
    pieces: tuple[RecentRows, ...]
    unknown_nodes: tuple[str, ...]
    unknown_categories: Mapping[str, Strangers]


def read_history(raw: Raw, target: Normaliser, nodes: Names, num_steps: int, until: int | None = None) -> RecentSteps:
    """The last `num_steps` steps that are known, encoded; every dump of theirs is decoded once, no other is opened.

    Memory: the window, and one date as in preparing.

    Args:
        nodes: names of the node table; None where nodes are found.
        until: the first instant that is not known yet; None: after the last step with a value.

    Raises:
        DumpError: a date is missing, there are too few steps, nothing was observed, or a dump cannot be used.
    """
    zone_name, step = raw.config.source.timezone, raw.config.step_length
    dates = _Dates(raw, target, nodes)
    end = dates.end_of_values() if until is None else step_before(until, zone_name, step)
    chosen = rows_before(end, num_steps, zone_name, step)
    _refuse_lacking(chosen, raw, num_steps)
    shape = (num_steps, len(target.nodes.names), len(raw.config.features))
    values, observed = np.empty(shape, dtype=np.float32), np.ones(shape, dtype=np.bool_)
    encoded_dates, pieces, at = list[Encoded](), list[RecentRows](), num_steps
    for day, rows in reversed(chosen):
        known, encoded = dates.encoded(day.date)
        at -= rows.stop - rows.start
        values[at : at + rows.stop - rows.start] = encoded.values_TNF[rows]
        if encoded.observed_TNF is not None:
            observed[at : at + rows.stop - rows.start] = encoded.observed_TNF[rows]
        encoded_dates.append(encoded)
        pieces.append(RecentRows(day, rows, with_columns(known.rows, known.conflicts), known.last))
    strangers = tuple(sorted({name for each in encoded_dates for name in each.unknown_nodes}))
    unseen = [encoded.unknown_categories for encoded in encoded_dates]
    features = sorted({name for names in unseen for name in names})
    most = {name: max((names[name] for names in unseen if name in names), key=lambda s: s.count) for name in features}
    return RecentSteps(
        values_HNF=values,
        observed_HNF=observed,
        end=end,
        last=pieces[0].last,
        pieces=tuple(reversed(pieces)),
        unknown_nodes=strangers,
        unknown_categories=most,
    )


class _Dates:
    """The dates of a history, decoded and encoded when they are asked for. Of those where its end was looked for, once."""

    def __init__(self, raw: Raw, target: Normaliser, nodes: Names) -> None:
        self.raw, self.target, self.nodes = raw, target, nodes
        self._looked_at: dict[dt.date, tuple[StagedDate, Encoded]] = {}

    def encoded(self, date: dt.date) -> tuple[StagedDate, Encoded]:
        if date in self._looked_at:
            return self._looked_at.pop(date)
        staged = self.raw.stage(date, self.nodes)
        return staged, encode_date(staged, self.raw.config, self.target)

    def end_of_values(self) -> int:
        """The first instant after the last step with a value; dates after it, of which nothing was observed, are passed over.

        Raises:
            DumpError: there is no such step.
        """
        features, scale = self.raw.config.feature_specs(), self.target.scale
        for date in sorted(self.raw.dumps, reverse=True):
            staged, encoded = self.encoded(date)
            last = last_record(encoded.values_TNF, encoded.observed_TNF, features, scale)
            if last is not None:
                self._looked_at[date] = staged, encoded
                return staged.day.start + (last + 1) * staged.day.step
        what, todo = "no cell was observed in it", "Name dumps of earlier dates too"
        raise DumpError(what, where=Where(file=self.raw.names[0]), todo=todo)


def _refuse_lacking(chosen: Sequence[tuple[Day, slice]], raw: Raw, num_steps: int) -> None:
    """Refuses a window some of whose dates have no dump.

    Raises:
        DumpError: naming the dates of the window that no dump is there of.
    """
    lacking = [day.date for day, _ in chosen if day.date not in raw.dumps]
    if not lacking:
        return
    earlier = [date for date in raw.dumps if date < max(lacking)]
    later = [day.date for day, _ in chosen if day.date > max(lacking)]
    where = raw.place_of(max(lacking))
    if earlier or not later:
        what, todo = f"the history lacks {collapse(lacking)}", f"Name its dump too in {history_option()}"
        raise DumpError(what, where=where, todo=todo)
    there = sum(rows.stop - rows.start for day, rows in chosen if day.date in later)
    raise DumpError(
        f"the history has {counted(there, 'step')} ({collapse(later)}), and the model looks back {num_steps:,}",
        where=where,
        todo=f"Add the dumps of {collapse(lacking)} in {history_option()}: files, or a pattern with {{date}}",
    )
