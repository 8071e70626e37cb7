"""The calendar of a dataset's dates with their states, drawn as in its report. Takes no lock, and imports no torch."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.generation_settings import settings_of
from dateshard.pipeline.planning.plan import Wish
from dateshard.pipeline.planning.preview import look
from dateshard.preparing.states import GOOD, ORDER, alike
from dateshard.reports.calendar_chart import calendar, key_of
from dateshard.reports.data_report.data_facts import squares
from dateshard.settings import Settings
from dateshard.shardstore.commit import load_sources
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import counted
from dateshard.shardstore.times.calendar import collapse

MOST_ROWS = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class DateCalendar:
    """A calendar as it is shown.

    Attributes:
        drawing: SVG; empty where rows have no date.
        states: (state, how many dates, its mark as SVG or nothing), what needs work first.
        attention: (dates, state, why) of what is neither fresh nor left out on purpose.
    """

    generation: int
    drawing: str
    states: list[tuple[str, int, str]]
    attention: list[tuple[str, str, str]]


def config_of(dataset: Dataset, settings: Settings | None) -> Pipeline:
    """How a dataset is prepared: as the server's own configuration says, else as its generation was.

    Raises:
        UsageError: it was prepared by a version that did not keep that.
    """
    if settings and settings.dataset == dataset.manifest.dataset and settings.pipeline:
        return settings.pipeline
    return settings_of(dataset)


def calendar_of(root: Path, settings: Settings | None = None) -> DateCalendar:
    """Looks at the dumps and the shards of one dataset.

    Raises:
        StoreError: it cannot be read. UsageError: it does not hold how it was prepared.
    """
    dataset = Dataset.open(root)
    plan, _, _ = look(config_of(dataset, settings), root, Wish())
    counts = Counter(date.state for date in plan.dates)
    drawing = ""
    if not plan.undated:
        known = squares(plan, load_sources(dataset.root, dataset.generation), dataset.manifest)
        drawing = calendar(known, f"Calendar of {counted(len(known), 'date')} with their states")
    by_state: dict[str, dict[dt.date, str]] = {}
    for date in plan.dates:
        if date.state not in GOOD:
            by_state.setdefault(date.state, {})[date.date] = date.reason
    return DateCalendar(
        generation=dataset.generation,
        drawing=drawing,
        states=[(state, counts[state], key_of(state)) for state in sorted(counts, key=_rank)],
        attention=_attention(by_state, undated=plan.undated),
    )


def _rank(state: str) -> int:
    return ORDER.index(state.split("(")[0])


def _attention(by_state: Mapping[str, Mapping[dt.date, str]], *, undated: bool) -> list[tuple[str, str, str]]:
    rows = [
        (collapse(dates, undated=undated), state, reason)
        for state in sorted(by_state, key=_rank)
        for dates, reason in alike(by_state[state])
    ]
    return rows[:MOST_ROWS]
