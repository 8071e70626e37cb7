"""A dataset whose dates are decoded from their dumps when they are read, as preprocess would. Nothing is published."""

from __future__ import annotations

import datetime as dt
import tempfile
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.account import skeleton
from dateshard.pipeline.acts import refuse_changed
from dateshard.pipeline.arrays import Normaliser, encode_date
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.generation_settings import refuse_other_settings, table_of, target_of
from dateshard.pipeline.planning.observe import AboutNodes, observe
from dateshard.pipeline.planning.plan import Observed, Plan, Wish, make_plan, refuse_no_match
from dateshard.pipeline.recent.measuring_pass import measuring_pass
from dateshard.pipeline.recent.raw_files import Raw
from dateshard.shardstore.commands import to_run
from dateshard.shardstore.commit import Committed, load_sources
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, UsageError, Where
from dateshard.shardstore.frozen import Frozen
from dateshard.shardstore.frozen.edges import EdgeList
from dateshard.shardstore.frozen.static_columns import place_columns
from dateshard.shardstore.manifest import Entry, Manifest, Part
from dateshard.shardstore.times.calendar import instants

MOST_DECODED = 2  # dates: the history of one reaches into the date before it
Cells = tuple[NDArray[np.float32], NDArray[np.bool_]]


class DumpDataset(Dataset):
    """Serves the dates of a generation, and decodes those that have no shard when they are read.

    Values and masks are equal to those of the shard that preprocess would write. Dates that it decoded are kept, two of
    them at most, for the windows of one date reach into the next.

    Memory: of a date that is decoded as in preparing; then 5 bytes a value of each of two dates.

    Args:
        manifest: with all dates; the parts of those that are decoded hold no files.
        raw: the dumps of those; its folder is one for each reading.
    """

    def __init__(self, root: Path, generation: int, manifest: Manifest, raw: Raw) -> None:
        super().__init__(root, generation, manifest)
        self.raw = raw
        self._target: Normaliser | None = None
        self._decoded: dict[dt.date, Cells] = {}  # the one that was read last comes last
        self._lock = threading.Lock()

    def has_mask(self, date: dt.date) -> bool:
        """Whether anything of the date may be missing: of a date that is not decoded yet nobody knows."""
        return date in self.raw.dumps or super().has_mask(date)

    def read(self, date: dt.date, rows: slice, out: NDArray[np.float32]) -> None:
        """Reads steps `rows` of a date's values, as `Dataset.read`.

        Raises:
            DumpError: the dump cannot be used, or is not what it was when the dataset was opened.
        """
        if date in self.raw.dumps:
            out[:] = self._cells(date)[0][rows]
        else:
            super().read(date, rows, out)

    def read_observed(self, date: dt.date, rows: slice, out: NDArray[np.bool_]) -> None:
        """Reads steps `rows` of a date's mask, as `Dataset.read_observed`."""
        if date in self.raw.dumps:
            out[:] = self._cells(date)[1][rows]
        else:
            super().read_observed(date, rows, out)

    def map(self, date: dt.date, array: str = "values") -> NDArray[np.generic] | None:
        """A date's array: decoded in memory, or a map of its shard."""
        return self.committed(date, (array,)).get(array) if date in self.raw.dumps else super().map(date, array)

    def committed(self, date: dt.date, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """The arrays of a date, as its shard would hold them, but with a mask where nothing is missing too."""
        if date not in self.raw.dumps:
            return super().committed(date, wanted)
        values, observed = self._cells(date)
        arrays = {"values": values, "observed": observed, "time": instants(self.manifest.day(date))}
        return {name: array for name, array in arrays.items() if wanted is None or name in wanted}

    def _cells(self, date: dt.date) -> Cells:
        with self._lock:
            cells = self._decoded.pop(date, None)
            if cells is None:
                while len(self._decoded) >= MOST_DECODED:
                    del self._decoded[next(iter(self._decoded))]
                cells = self._decode(date)
            self._decoded[date] = cells
            return cells

    def _decode(self, date: dt.date) -> Cells:
        config, self._target = self.raw.config, self._target or target_of(self)
        with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:  # used where records do not fit into memory
            staged = replace(self.raw, folder=Path(folder)).stage(date, table_of(self, config))
        refuse_changed(self.raw.dumps[date], date, config)
        encoded = encode_date(staged, config, self._target)
        if config.keeps_unknown and encoded.unknown_nodes:
            raise DumpError(
                "the node is on no list yet, and pipeline.nodes.unknown keeps it",
                where=Where(file=str(self.raw.dumps[date].path), date=date, value=encoded.unknown_nodes[0]),
                todo=to_run("preprocess", date, config=True),
            )
        observed = encoded.observed_TNF
        return encoded.values_TNF, np.ones(encoded.values_TNF.shape, dtype=np.bool_) if observed is None else observed


def open_dumps(
    name: str, config: Pipeline, root: Path, statistics: Dataset | None = None, num_workers: int | None = None
) -> DumpDataset:
    """Opens the dumps of a configuration as a dataset, without writing anything.

    Where a generation is committed, its fresh shards are read, and other dates are decoded and scaled as they are. Where
    none is, one pass over all dumps measures the statistics first.

    Args:
        statistics: a dataset that was prepared with these settings, whose statistics and nodes are taken instead; then
            every date is decoded.
        num_workers: processes of the pass at most; None for one a core, as far as memory reaches.

    Raises:
        UsageError: the dates are no grid, or the statistics do not fit; names the command that helps.
        DumpError, FailedDatesError: dumps that cannot be used.
    """
    if config.layout != "grid":
        what = (
            f"dates of the layout '{config.layout}' have as many records as their dump, which is not known beforehand"
        )
        raise UsageError(what, todo=to_run("preprocess", config=True))
    current = None if statistics or not (root / "CURRENT").exists() else Dataset.open(root)
    seen, about = _observed(config, root, current)
    known = statistics or current
    if known is None:
        with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
            frozen, plan = measuring_pass(config, Path(folder), seen, about, num_workers)
        known = Dataset(root, 0, _measured(name, config, frozen, plan))
        _hold(known, frozen, about)
    else:
        plan = make_plan(config, seen, Wish())
        if statistics:
            refuse_other_settings(config, statistics)
        else:
            _refuse_other_statistics(plan, known)
    entries = _entries(plan, seen, config, current, known.manifest.num_nodes)
    dumps = {date: dump for date, dump in seen.dumps.items() if date in entries and not entries[date].parts[0].files}
    cut = frozenset(dumps) if config.source.cut_first else frozenset[dt.date]()
    raw = Raw(config=config, dumps=dumps, cut=cut, folder=Path(), names=(config.source.path,))
    failed = tuple(each.date for each in plan.dates if each.state == "failed")
    manifest = replace(known.manifest, dataset=name, split=dict(plan.split), dates=entries, failed=failed)
    opened = DumpDataset(known.root, known.generation, manifest, raw)
    if not known.generation:
        opened.nodes, opened.vocabularies, opened.statistics = known.nodes, known.vocabularies, known.statistics
        opened.static, opened.edges = known.static, known.edges
    return opened


def _observed(config: Pipeline, root: Path, current: Dataset | None) -> tuple[Observed, AboutNodes]:
    """The dumps, and what is committed.

    Raises:
        UsageError: they lie in one file of many dates that is not divided yet. DumpError: there are none.
    """
    sources = load_sources(root, current.generation) if current else None
    committed = Committed(current.generation, current.manifest, sources) if current and sources else None
    seen, about, _ = observe(config, root, committed)
    if seen.to_cut:
        raise UsageError(f"dates are read from a dump each: {seen.to_cut.why}", todo=to_run("preprocess", config=True))
    refuse_no_match(seen)
    return seen, about


def _refuse_other_statistics(plan: Plan, known: Dataset) -> None:
    others = (each for each in plan.dates if each.state in ("stale(config)", "stale(code)", "stale(statistics)"))
    if why := plan.merge or next((each.reason for each in others), ""):
        raise UsageError(
            f"dumps cannot be scaled as generation {known.generation}: {why}",
            where=Where(file=str(known.root)),
            todo=to_run("preprocess", config=True),
        )


def _entries(
    plan: Plan, seen: Observed, config: Pipeline, current: Dataset | None, num_nodes: int
) -> dict[dt.date, Entry]:
    """Returns the committed entries of dates whose shard is fresh, or whose dump is gone; of others those without files.

    These have the key of their measured array, which names the dump's content, as their id."""
    entries = dict[dt.date, Entry]()
    for each in plan.dates:
        committed = current.manifest.dates.get(each.date) if current else None
        if each.state == "excluded":
            continue
        if committed and each.state in ("fresh", "no-dump"):
            entries[each.date] = committed
        elif each.date in seen.dumps:
            day = config.day(each.date)
            no_files = Part(id=each.key, nodes=(0, num_nodes), files={})
            entries[each.date] = Entry(day.start, day.num_steps, (no_files,), day.length)
    return entries


def _measured(name: str, config: Pipeline, frozen: Frozen, plan: Plan) -> Manifest:
    """The manifest of a dataset of which nothing is committed, without its dates."""
    new = frozen.new_nodes
    return replace(
        skeleton(name, config, frozen, plan, ()),
        keeps_unknown=config.keeps_unknown,
        new_nodes=new.id if new.names else "",
        num_new_nodes=len(new.names),
        num_nodes=len(frozen.nodes.names) + len(new.names),
    )


def _hold(dataset: Dataset, frozen: Frozen, about: AboutNodes) -> None:
    """Gives a dataset what lies frozen on disk otherwise."""
    dataset.nodes = frozen.nodes.joined(frozen.new_nodes)
    dataset.vocabularies = frozen.vocabularies
    dataset.statistics = frozen.statistics.on(len(dataset.nodes.names))
    trained = dataset.statistics.trained_nodes
    dataset.static = place_columns(about.static, dataset.nodes.names, trained) if about.static.names else {}
    dataset.edges = (about.edges.edges if about.edges else EdgeList()).on(dataset.nodes.names)
