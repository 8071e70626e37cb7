"""Raw dumps, or committed dates -> encoded records to forecast from, by the very path that makes shards. Nothing is published.

Legend: T records, F features.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.arrays import Normaliser, StagedDate, encode_date
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.raw.row_counts import with_columns
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.pipeline.recent.raw_files import Raw
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.layouts.events import decode_names
from dateshard.shardstore.layouts.feature import categorical
from dateshard.shardstore.times.calendar import Day, record_codes

Integers = NDArray[np.int64]
Names = NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentRecords:
    """Records in the order of a shard, a row each.

    Attributes:
        values_TNF: float32 scaled, N = 1. observed_TNF: False where a cell was filled or left empty.
        code_T: time codes. cut_T: names of their cuts, None where nothing cuts them.
        file_T, row_T: where each stands in the dumps; None from shards.
    """

    date_T: NDArray[np.datetime64]
    time_T: Integers
    code_T: NDArray[np.int32]
    values_TNF: NDArray[np.float32]
    observed_TNF: NDArray[np.bool_]
    cut_T: Names | None = None
    file_T: Names | None = None
    row_T: Integers | None = None

    def __len__(self) -> int:
        return len(self.time_T)

    def at(self, rows: slice | NDArray[Any]) -> RecentRecords:
        """Some of the records."""
        chosen: dict[str, Any] = {name: array[rows] for name, array in _arrays(self).items()}
        return RecentRecords(**chosen)

    def after(self, earlier: RecentRecords) -> RecentRecords:
        """The records with earlier ones before them."""
        before = _arrays(earlier)
        joined: dict[str, Any] = {name: np.concatenate([before[name], array]) for name, array in _arrays(self).items()}
        return RecentRecords(**joined)

    def pieces(self) -> list[slice]:
        """The records of each cut, or all of them where nothing cuts them."""
        if self.cut_T is None or not len(self):
            return [slice(0, len(self))] if len(self) else []
        edges = np.flatnonzero(np.append(True, self.cut_T[1:] != self.cut_T[:-1]))
        return [slice(low, high) for low, high in zip(edges, [*edges[1:], len(self)], strict=True)]


def _arrays(records: RecentRecords) -> dict[str, NDArray[Any]]:
    arrays = {each.name: getattr(records, each.name) for each in fields(records)}
    return {name: array for name, array in arrays.items() if array is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsOfDate:
    """One date's records, and what became of its dump.

    Attributes:
        account: of the dump's rows; None from shards.
        last: instant of its last record; None without one.
    """

    day: Day
    records: RecentRecords
    account: Mapping[str, Any] | None = None
    last: int | None = None
    unknown_categories: Mapping[str, Strangers] = field(default_factory=dict)

    def until(self, instant: int | None) -> RecordsOfDate:
        """Leaves out the records from an instant on."""
        return self if instant is None else replace(self, records=self.records.at(self.records.time_T < instant))


class RecordSource(Protocol):
    """Dates of records, read when they are asked for."""

    @property
    def dates(self) -> Sequence[dt.date]:
        """All of them, in order."""
        ...

    def read(self, date: dt.date) -> RecordsOfDate:
        """Gives one date.

        Memory: the date's arrays.
        """
        ...


@dataclass(frozen=True, slots=True)
class DumpRecords:
    """The dates of raw dumps, of which only the columns of some features are read: what is forecast is not known yet.

    Attributes:
        raw: with the configuration of these features alone (`reading`).
        config: of all features; of the others nothing is observed.
    """

    raw: Raw
    target: Normaliser
    config: Pipeline

    @property
    def dates(self) -> Sequence[dt.date]:
        """All of them, in order."""
        return sorted(self.raw.dumps)

    def read(self, date: dt.date) -> RecordsOfDate:
        """Decodes and encodes one date's dump.

        Raises:
            DumpError: as preprocess.
        """
        config = self.config
        staged = widened(self.raw.stage(date, None, keep_places=True), list(self.raw.config.features), config)
        encoded = encode_date(staged, config, self.target)
        time_T, observed = staged.beside["time"], encoded.observed_TNF
        cut_T = None
        if "cuts" in staged.beside and not config.by_row:
            names = np.array(decode_names(staged.beside["cut_names"]), dtype=object)
            cut_T = np.repeat(names, np.diff(np.append(staged.beside["cuts"], len(time_T))))
        records = RecentRecords(
            date_T=_dates(staged.day, len(time_T)),
            time_T=time_T,
            code_T=record_codes(staged.day, time_T, config.source.timezone),
            values_TNF=encoded.values_TNF,
            observed_TNF=np.ones(encoded.values_TNF.shape, dtype=bool) if observed is None else observed,
            cut_T=cut_T,
            file_T=np.array(staged.files, dtype=object)[staged.beside["file"]],
            row_T=staged.beside["row"],
        )
        return RecordsOfDate(
            day=staged.day,
            records=records,
            account=with_columns(staged.rows, staged.conflicts),
            last=staged.last,
            unknown_categories=encoded.unknown_categories,
        )


def reading(config: Pipeline, features: Collection[str]) -> Pipeline:
    """The configuration with some features alone, by which dumps are read that lack the columns of others."""
    own = {name: feature for name, feature in config.features.items() if name in features}
    return config.model_copy(update={"features": own})


def widened(staged: StagedDate, own: Sequence[str], config: Pipeline) -> StagedDate:
    """A date that was staged with some features, as of all: nothing was observed of the others."""
    names = list(config.features)
    values_TNF = np.full((*staged.values_TNF.shape[:2], len(names)), np.nan)
    places = [names.index(name) for name in own]
    values_TNF[..., places] = staged.values_TNF
    vocabularies: dict[str, Sequence[str]] = {str(place): () for place in categorical(config.feature_specs())}
    vocabularies |= {str(places[int(place)]): known for place, known in staged.vocabularies.items()}
    return replace(staged, values_TNF=values_TNF, vocabularies=vocabularies)


def _dates(day: Day, count: int) -> NDArray[np.datetime64]:
    return np.full(count, np.datetime64(day.date))


@dataclass(frozen=True, slots=True)
class ShardRecords:
    """The committed dates of a generation."""

    dataset: Dataset

    @property
    def dates(self) -> Sequence[dt.date]:
        """All of them, in order."""
        return [day.date for day in self.dataset.days]

    def read(self, date: dt.date) -> RecordsOfDate:
        """Reads one date's shard.

        Raises:
            DamagedError: size or hash is not what was committed.
        """
        day, dataset = self.dataset.manifest.day(date), self.dataset
        arrays = dataset.arrays(date, ("values", "observed", "time"))
        time_T, cut_T = np.asarray(arrays["time"]), None
        if dataset.manifest.cut and not dataset.manifest.by_row:
            cuts = dataset.cuts(day)
            names = np.array(cuts.names, dtype=object)
            cut_T = np.repeat(names, np.diff(np.append(cuts.starts, len(time_T))))
        records = RecentRecords(
            date_T=_dates(day, len(time_T)),
            time_T=time_T,
            code_T=dataset.codes(day),
            values_TNF=np.asarray(arrays["values"]),
            observed_TNF=np.asarray(arrays.get("observed", np.ones(arrays["values"].shape, dtype=bool))),
            cut_T=cut_T,
        )
        last = int(time_T.max()) if len(time_T) else None
        return RecordsOfDate(day=day, records=records, last=last)
