"""The parts of a date as tasks: ranges of nodes, each a task of its own, whose receipts are joined to that of the date."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from dateshard.pipeline.planning.plan import DatePlan
from dateshard.pipeline.workers.engine import Again
from dateshard.shardstore.errors import DateshardError


class DatePart(NamedTuple):
    """Names the task of one part of a date."""

    plan: DatePlan
    number: int
    of: int

    @property
    def date(self) -> dt.date:
        """The date, by which a cluster shows the task."""
        return self.plan.date


def parts_of_date(plan: DatePlan, parts: Sequence[tuple[int, int]]) -> Iterator[tuple[DatePart, tuple[int, int]]]:
    """Yields the label of each part's task, and its nodes."""
    for number, nodes in enumerate(parts):
        yield DatePart(plan, number, len(parts)), nodes


def whole_dates(outcomes: Iterable[tuple[DatePart, Any]]) -> Iterator[tuple[DatePlan, Any]]:
    """Yields (plan, outcome) of each date, once all its parts have one; a task that is tried again is named at once.

    The receipts of parts are joined in the order of nodes. Where parts failed, the outcome is the error of the first."""
    waiting = dict[dt.date, dict[int, Any]]()
    for label, outcome in outcomes:
        if isinstance(outcome, Again):
            yield label.plan, outcome
            continue
        known = waiting.setdefault(label.date, {})
        known[label.number] = outcome
        if len(known) == label.of:
            ordered = [known[number] for number in sorted(waiting.pop(label.date))]
            error = next((outcome for outcome in ordered if isinstance(outcome, DateshardError)), None)
            yield label.plan, error or ordered[0].joined(ordered[1:])
