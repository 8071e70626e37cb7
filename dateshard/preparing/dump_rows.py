"""Where the rows of a stored table stand in their dump, which a shard does not keep: the dump is read again.

Legend: T rows of the date.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.generation_settings import refuse_other_settings, settings_of
from dateshard.pipeline.planning.observe import dump_at, whole_cut, whole_file
from dateshard.pipeline.raw.cut_index import spilled
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.recent.dates_from_dumps import DumpDataset
from dateshard.pipeline.recent.raw_files import Raw
from dateshard.shardstore.commit import load_sources
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, DumpError, Where
from dateshard.trust import check_trust, code_of


@dataclass(frozen=True, slots=True)
class DumpRows:
    """The file of each row of a date, as a place in `files`, and its number there as messages count them."""

    files: tuple[str, ...]
    file_T: NDArray[np.int64]
    row_T: NDArray[np.int64]


def has_no_times(dataset: Dataset) -> bool:
    """Whether the records are rows of a table without a column of times: their instants mean nothing."""
    if dataset.manifest.layout != "table":
        return False
    with suppress(DateshardError):
        return not settings_of(dataset).source.time_columns
    return dataset.manifest.undated


def dump_rows(dataset: Dataset, date: dt.date) -> DumpRows:
    """Finds the rows of a date in its dump, in the order of the shard.

    Memory: as preparing the date.

    Raises:
        DateshardError: the dump is gone or has changed, or would be read in another way than then.
    """
    source = dumped(dataset, date)
    with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
        raw = Raw(config=source.config, dumps={date: source.dump}, cut=frozenset(), folder=Path(folder), names=())
        staged = raw.stage(date, None, keep_places=True)
    rows = DumpRows(staged.files, staged.beside["file"], staged.beside["row"])
    if len(rows.row_T) != dataset.manifest.dates[date].num_steps:
        raise DumpError("the dump has other rows now", where=Where(file=str(source.dump.path)))
    return rows


@dataclass(frozen=True, slots=True)
class AsDumped:
    """The dump that a committed date was made of, byte for byte, and the settings that read it."""

    config: Pipeline
    dump: Dump


def dumped(dataset: Dataset, date: dt.date) -> AsDumped:
    """Looks up the dump of a committed date by the hash that its generation keeps.

    Of a file of many dates it is the spill of that date, whose rows know their place in the file.

    Raises:
        DumpError: it is gone or has changed. DateshardError: it would be read in another way than then.
    """
    config = settings_of(dataset)
    check_trust(dataset.root, code_of(config), f"dataset {dataset.manifest.dataset}", trust=False)
    refuse_other_settings(config, dataset)
    direct = dataset.raw.dumps.get(date) if isinstance(dataset, DumpDataset) else None
    before = direct or load_sources(dataset.root, dataset.generation).dates[date].dump
    if config.source.cut_first:
        whole = whole_file(config)
        cut = whole_cut(config, dataset.root, whole, {}, {}) if whole else None
        dump = cut.dumps(typed=whole.typed).get(date) if whole and cut else None
        gone, config = whole is None, spilled(config)
    else:
        dump = dump_at(config, date)
        gone = dump is None
    if dump is None or dump.hash != before.hash:
        what = "the dump is gone" if gone else "the dump has changed since it was prepared"
        raise DumpError(what, where=Where(file=str(before.path)))
    return AsDumped(config, dump)


class KnownRows:
    """The rows of the dumps of a dataset, of one date at a time.

    Attributes:
        notes: why the rows of a date are not known, once a date.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.notes = dataset, list[str]()
        self._date: dt.date | None = None
        self._rows: DumpRows | None = None

    def of(self, date: dt.date) -> DumpRows | None:
        """Returns a date's rows; None where they cannot be known."""
        if date != self._date:
            self._date, self._rows = date, None
            try:
                self._rows = dump_rows(self.dataset, date)
            except DateshardError as error:
                self.notes.append(f"file and row are empty, for they are looked up in the dump: {error}")
        return self._rows
