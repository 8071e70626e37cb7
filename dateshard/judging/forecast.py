"""What a forecast consists of, whichever layout its dataset has: the table, and what is known of its history."""

from __future__ import annotations

import datetime as dt
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from dateshard.pipeline.raw.strangers import Strangers
from dateshard.pipeline.recent.recent_steps import RecentSteps
from dateshard.shardstore.commands import by_door

if TYPE_CHECKING:
    import polars

LATEST = "latest"  # the newest run; the end of what is prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHistory:
    """What the inputs of a forecast were, and where they come from.

    Attributes:
        begin, end: its first instant, and the first instant after it (of records: of the last one); None without times.
        num_steps: steps, or records.
        last: instant of the last record of its last date; None from shards.
        observed: share of its cells into which a record fell.
        rows: what became of the rows of its dumps, as preprocess tells it; None from shards.
        silent_nodes: {target: nodes of which no value of it is in the history}.
        unknown_nodes: names that training never saw.
        unknown_categories: {feature: categories that training never saw, of the date with most of them}.
    """

    begin: int | None
    end: int | None
    num_steps: int
    dates: tuple[dt.date, ...]
    last: int | None
    observed: float
    rows: Mapping[str, Any] | None
    silent_nodes: Mapping[str, list[str]] = field(default_factory=dict)
    unknown_nodes: tuple[str, ...] = ()
    unknown_categories: Mapping[str, Strangers] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A forecast in raw units, and what a person should know of it.

    Attributes:
        begin: the first instant that is forecast; None without times.
        num_steps: steps or records that are forecast.
        window: of a grid, the encoded steps that the model saw.
    """

    frame: polars.DataFrame
    history: KnownHistory
    begin: int | None
    num_steps: int
    notes: list[str]
    window: RecentSteps | None = None


def without_time(forecast: Forecast) -> Forecast:
    """A forecast of rows that have no time, whose dates and instants mean nothing."""
    history = replace(forecast.history, begin=None, end=None, last=None, dates=())
    return replace(forecast, frame=forecast.frame.drop("date", "time"), history=history, begin=None)


def option(name: str, value: object) -> str:
    """An option of the command or an argument of the function, as whoever asks would write it."""
    return by_door(f"--{name} {shlex.quote(str(value))}", f"{name}={str(value)!r}")


def notes_of_dumps(history: KnownHistory) -> list[str]:
    """What a person should know of the rows of the dumps: categories never seen, rows and values that were not taken."""
    notes = []
    for feature, unseen in history.unknown_categories.items():
        most = f"up to {unseen.count} on a date{unseen.hint()}"
        notes.append(f"Categories of '{feature}' that the training data lacks get code 0: {most}.")
    for kind, what in (("rejected", "rows left out"), ("changed", "values changed")):
        notes += [f"{count:,} {what}: {reason}." for reason, count in ((history.rows or {}).get(kind) or {}).items()]
    return notes


def most_unknown(unseen: list[Mapping[str, Strangers]]) -> dict[str, Strangers]:
    """Returns {feature: categories that training never saw, of the date with most of them}."""
    features = sorted({name for names in unseen for name in names})
    return {
        name: max((names[name] for names in unseen if name in names), key=lambda strangers: strangers.count)
        for name in features
    }
