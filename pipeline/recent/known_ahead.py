"""What is known of the steps that are to be forecast: features that dumps, or committed dates, hold beforehand.

Legend: P target steps, N nodes, F features that are known ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.arrays import Normaliser, encode_date
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.public_holidays import is_holiday
from dateshard.pipeline.recent.raw_files import Names, Raw
from dateshard.pipeline.recent.recent_records import widened
from dateshard.shardstore.commands import by_door
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, NotThereError, Where, counted
from dateshard.shardstore.layouts.feature import Feature
from dateshard.shardstore.times.calendar import Day, collapse

Spans = Sequence[tuple[Day, slice]]


@dataclass(frozen=True, slots=True)
class KnownAhead:
    """Values of the target steps, scaled, and which of them were observed: others were filled as in training."""

    values_PNF: NDArray[np.float32]
    observed_PNF: NDArray[np.bool_]


def ahead_of_dumps(raw: Raw, config: Pipeline, target: Normaliser, nodes: Names, spans: Spans) -> KnownAhead:
    """Decodes and encodes the dates of the target steps.

    Memory: one date as in preparing.

    Args:
        raw: with the configuration of the features that are known ahead alone (`reading`). config: of all features.

    Raises:
        DumpError: a date has no dump, or one cannot be used.
    """
    names = list(raw.config.features)
    if lacking := [day.date for day, _ in spans if day.date not in raw.dumps]:
        what, todo = _lacking(names, collapse(lacking))
        raise DumpError(what, where=Where(file=raw.names[0]), todo=todo)
    places = [list(config.features).index(name) for name in names]
    values, observed = list[NDArray[np.float32]](), list[NDArray[np.bool_]]()
    for day, rows in spans:
        encoded = encode_date(widened(raw.stage(day.date, nodes), names, config), config, target)
        values.append(encoded.values_TNF[rows][..., places])
        seen = np.ones(encoded.values_TNF.shape, dtype=bool) if encoded.observed_TNF is None else encoded.observed_TNF
        observed.append(seen[rows][..., places])
    return KnownAhead(np.concatenate(values), np.concatenate(observed))


def ahead_of_shards(dataset: Dataset, places: Sequence[int], spans: Spans) -> KnownAhead:
    """Reads the target steps from committed dates.

    Raises:
        NotThereError: a date is not committed.
    """
    names = [dataset.feature_names[place] for place in places]
    if lacking := [day.date for day, _ in spans if day.date not in dataset.manifest.dates]:
        what, todo = _lacking(names, collapse(lacking))
        raise NotThereError(what, where=Where(file=str(dataset.root)), todo=todo)
    steps = sum(rows.stop - rows.start for _, rows in spans)
    shape = (steps, dataset.manifest.num_nodes, len(dataset.features))
    values, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    dataset.read_rows(spans, values, observed)
    return KnownAhead(values[..., list(places)], observed[..., list(places)])


def ahead_of_calendar(config: Pipeline, num_nodes: int, spans: Spans) -> KnownAhead:
    """Whether the dates of the target steps are holidays, which no dump need say. [P, N, 1], as a shard holds it."""
    assert config.calendar is not None, "a calendar makes the feature"
    country, subdivision = config.calendar.country, config.calendar.subdivision
    columns = [np.full(rows.stop - rows.start, is_holiday(day.date, country, subdivision)) for day, rows in spans]
    values_P = np.concatenate(columns).astype(np.float32)
    values = np.tile(values_P[:, None, None], (1, num_nodes, 1))
    return KnownAhead(values, np.ones(values.shape, dtype=np.bool_))


def _lacking(names: Sequence[str], dates: str) -> tuple[str, str]:
    what = f"the model knows {', '.join(names)} of the steps that it forecasts, and nothing holds {dates}"
    return what, f"Name dumps of these dates with {by_door('--future', 'future')}"


def unobserved(features: Sequence[Feature], ahead: KnownAhead, *, intervals: bool) -> list[str]:
    """A note for each feature of which target steps have no value at any node, or cells none.

    Args:
        intervals: whether there are any, which then promise too much.
    """
    notes = []
    for place, feature in enumerate(features):
        seen_PN, after = ahead.observed_PNF[..., place], f"They are filled with {_filling(feature)}"
        after += ", and low and high, measured where it was known, do not hold." if intervals else "."
        silent = int((~seen_PN.any(axis=1)).sum())
        if silent:
            steps = counted(len(seen_PN), "step")
            notes.append(f"{feature.name}, known ahead, has no value in {silent:,} of {steps}. {after}")
        elif not seen_PN.all():
            share = 100 * float(1 - seen_PN.mean())
            notes.append(f"{feature.name}, known ahead, lacks {share:.1f} % of its cells. {after}")
    return notes


def _filling(feature: Feature) -> str:
    """What a cell of a feature without a value holds, in words."""
    nothing = "no category (code 0)" if feature.categorical else "the middle of the scale"
    filling = {
        "zero": "0",
        "forward": f"the last value before them on their date (where there is none, {nothing})",
        "mean": "the training mean",
        "none": nothing,
    }[feature.fill]
    return filling if feature.fill_limit is None else f"{filling}, after {feature.fill_limit} in a row with {nothing}"
