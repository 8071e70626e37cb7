"""A dataset whose dates are decoded from their dumps when they are read, as preprocess would. Nothing is published."""

from __future__ import annotations

import datetime as dt
import tempfile
import threading
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dateshard.pipeline.account import skeleton
from dateshard.pipeline.acts import refuse_changed
from dateshard.pipeline.arrays import Normaliser, StagedDate, encode_date
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.generation_settings import refuse_other_settings, table_of, target_of
from dateshard.pipeline.planning.observe import AboutNodes, observe
from dateshard.pipeline.planning.plan import Observed, Plan, Wish, make_plan, refuse_no_match
from dateshard.pipeline.raw.dumps import Dump, place_of
from dateshard.pipeline.recent.measuring_pass import measuring_pass
from dateshard.pipeline.recent.raw_files import Names, Raw
from dateshard.shardstore.commands import command, to_run
from dateshard.shardstore.commit import Committed, load_sources
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DumpError, NoRowsError, UsageError, Where
from dateshard.shardstore.frozen import Frozen
from dateshard.shardstore.frozen.edges import EdgeList
from dateshard.shardstore.frozen.static_columns import place_columns
from dateshard.shardstore.manifest import Entry, Manifest, Part
from dateshard.shardstore.objects.bucket_store import has_store
from dateshard.shardstore.times.calendar import collapse, instants

MOST_DECODED = 2  # dates: the history of one reaches into the date before it
CUTS = ("cuts", "cut_names")
Arrays = Mapping[str, NDArray[Any]]
Entries = dict[dt.date, Entry]
CutsByDate = dict[dt.date, Arrays]


class DumpDataset(Dataset):
    """Serves the dates of a generation, and decodes those that have no shard when they are read.

    Values and masks are equal to those of the shard that preprocess would write. Dates that it decoded are kept, two of
    them at most, for the windows of one date reach into the next.

    Memory: of a date that is decoded as in preparing; then 5 bytes a value of each of two dates, and all cuts.

    Args:
        manifest: with all dates; the parts of those that are decoded hold no files.
        raw: the dumps of those; its folder is one for each reading.
        cuts: where their records are cut: `cuts` and `cut_names` of each.
    """

    def __init__(
        self,
        root: Path,
        generation: int,
        manifest: Manifest,
        raw: Raw,
        published: Manifest | None = None,
        cuts: Mapping[dt.date, Arrays] = MappingProxyType({}),
    ) -> None:
        super().__init__(root, generation, manifest)
        self.raw, self.published, self._cuts = raw, published or manifest, cuts
        self._target: Normaliser | None = None
        self._decoded: dict[dt.date, Arrays] = {}  # the one that was read last comes last
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
            out[:] = self._arrays(date)["values"][rows]
        else:
            super().read(date, rows, out)

    def read_observed(self, date: dt.date, rows: slice, out: NDArray[np.bool_]) -> None:
        """Reads steps `rows` of a date's mask, as `Dataset.read_observed`."""
        if date in self.raw.dumps:
            out[:] = self._arrays(date)["observed"][rows]
        else:
            super().read_observed(date, rows, out)

    def map(self, date: dt.date, array: str = "values") -> NDArray[np.generic] | None:
        """A date's array: decoded in memory, or a map of its shard."""
        return self.committed(date, (array,)).get(array) if date in self.raw.dumps else super().map(date, array)

    def committed(self, date: dt.date, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
        """The arrays of a date, as its shard would hold them, but with a mask where nothing is missing too."""
        if date not in self.raw.dumps:
            return super().committed(date, wanted)
        known = self._cuts.get(date, {})
        arrays = known if wanted is not None and known.keys() >= set(wanted) else self._arrays(date)
        return {name: array for name, array in arrays.items() if wanted is None or name in wanted}

    def _arrays(self, date: dt.date) -> Arrays:
        with self._lock:
            arrays = self._decoded.pop(date, None)
            if arrays is None:
                while len(self._decoded) >= MOST_DECODED:
                    del self._decoded[next(iter(self._decoded))]
                arrays = self._decode(date)
            self._decoded[date] = arrays
            return arrays

    def _decode(self, date: dt.date) -> Arrays:
        config, self._target = self.raw.config, self._target or target_of(self)
        staged = _staged(self.raw, date, table_of(self, config))
        encoded = encode_date(staged, config, self._target)
        if config.keeps_unknown and encoded.unknown_nodes:
            raise DumpError(
                "the node is on no list yet, and pipeline.nodes.unknown keeps it",
                where=Where(file=str(self.raw.dumps[date].path), date=date, value=encoded.unknown_nodes[0]),
                todo=to_run("preprocess", date, config=True),
            )
        values, observed = encoded.values_TNF, encoded.observed_TNF
        cells = {"values": values, "observed": np.ones(values.shape, dtype=np.bool_) if observed is None else observed}
        return {**cells, **(staged.beside or {"time": instants(staged.day)})}


def _staged(raw: Raw, date: dt.date, nodes: Names) -> StagedDate:
    with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:  # used where records do not fit into memory
        staged = replace(raw, folder=Path(folder)).stage(date, nodes)
    refuse_changed(raw.dumps[date], date, raw.config, staged.hashes)
    return staged


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
        UsageError: which records train is not known, or the statistics do not fit; names the command that helps.
        DumpError, FailedDatesError: dumps that cannot be used.
    """
    current = None if statistics or not has_store(root) else Dataset.open(root)
    seen, about = observed_dumps(config, root, current)
    known = statistics or current
    if known is None:
        refuse_divided(config)
        with tempfile.TemporaryDirectory(prefix="dateshard-") as folder:
            passed = measuring_pass(config, Path(folder), seen, about, num_workers)
        plan = passed.plan
        known = Dataset(root, 0, _measured(name, config, passed.frozen, plan))
        _hold(known, passed.frozen, about)
    else:
        plan = make_plan(config, seen, Wish())
        if statistics:
            refuse_other_settings(config, statistics)
        else:
            _refuse_other_statistics(plan, known)
    entries = _entries(plan, seen, config, current, known.manifest.num_nodes)
    raw = _raw(config, seen.dumps, entries)
    entries, cuts = _with_records(raw, entries, table_of(known, config))
    failed = tuple(each.date for each in plan.dates if each.state == "failed")
    manifest = replace(known.manifest, dataset=name, split=dict(plan.split), dates=entries, failed=failed)
    opened = DumpDataset(known.root, known.generation, manifest, raw, cuts=cuts)
    if not known.generation:
        opened.nodes, opened.vocabularies, opened.statistics = known.nodes, known.vocabularies, known.statistics
        opened.static, opened.edges = known.static, known.edges
    return opened


def open_unprepared(known: Dataset, config: Pipeline, held: Mapping[str, str] | None = None) -> DumpDataset:
    """Opens a generation, and beside its shards the dumps of dates that have none.

    Args:
        config: the settings that it was prepared with, by its split.
        held: {date: key of its measured array} of the dates that were opened before; None: all that there are now.

    Raises:
        UsageError: the settings differ, a dump is gone or changed, a date with a shard would move to another
            split, or no new date lies in any.
        DumpError: dumps that cannot be used.
    """
    refuse_other_settings(config, known)
    seen, _ = observed_dumps(config, known.root, known)
    there, committed = seen.dumps, known.manifest.dates
    dumps = {date: dump for date, dump in there.items() if held is None or date in committed or str(date) in held}
    plan = make_plan(config, replace(seen, dumps=dumps), Wish())
    keys = {each.date: each.key for each in plan.dates if each.key and each.date not in committed}
    for text, key in (held or {}).items():
        if keys.get(date := dt.date.fromisoformat(text)) != key:
            what = "the dump changed since the run read it" if date in there else "the dump that the run read is gone"
            where = Where(
                file=str(there[date].path) if date in there else place_of(config.source.path, date), date=date
            )
            raise UsageError(what, where=where, todo=f"Restore it, or start a new run: {command('train', config=True)}")
    entries, raw, cuts = _beside(known, config, dumps, keys)
    manifest = replace(known.manifest, split=dict(plan.split), dates=dict(sorted({**committed, **entries}.items())))
    if moved := [date for date in committed if manifest.split_of(date) != known.manifest.split_of(date)]:
        what = f"without pipeline.split {moved[0]} would move from the {known.manifest.split_of(moved[0])} dates"
        raise UsageError(what, todo=f"Name the split, or prepare the new dates: {command('preprocess', config=True)}")
    if entries and not any(map(manifest.split_of, entries)):
        what = f"{collapse(sorted(entries))}, which have dumps and no shards, lie in no split: nothing would be trained on them"
        raise UsageError(
            what, todo="Give pipeline.split ranges of dates, as train: ..2024-03-05, or leave from_dumps out"
        )
    return DumpDataset(known.root, known.generation, manifest, raw, known.manifest, cuts)


def open_newest(known: Dataset, config: Pipeline) -> DumpDataset:
    """Opens a generation and the dumps of dates that it does not have, to forecast from: they need not lie in a split."""
    seen, _ = observed_dumps(config, known.root, known)
    plan, committed = make_plan(config, seen, Wish()), known.manifest.dates
    keys = {each.date: each.key for each in plan.dates if each.key and each.date not in committed}
    entries, raw, cuts = _beside(known, config, seen.dumps, keys)
    manifest = replace(known.manifest, dates=dict(sorted({**committed, **entries}.items())))
    return DumpDataset(known.root, known.generation, manifest, raw, known.manifest, cuts)


def _beside(
    known: Dataset, config: Pipeline, dumps: Mapping[dt.date, Dump], keys: Mapping[dt.date, str]
) -> tuple[Entries, Raw, CutsByDate]:
    """The entries, dumps and cuts of the dates of `keys`, which a generation does not have."""
    entries: Entries = {date: _without_files(config, date, key, known.manifest.num_nodes) for date, key in keys.items()}
    raw = _raw(config, dumps, entries)
    entries, cuts = _with_records(raw, entries, table_of(known, config))
    return entries, raw, cuts


def _with_records(raw: Raw, entries: Entries, nodes: Names) -> tuple[Entries, CutsByDate]:
    """Entries with the number of their records, and where these are cut; of a grid they are known as they are.

    Dumps of records are decoded once to count them, for the order of windows needs it; dates without any may be left out.
    """
    if raw.config.layout == "grid":
        return entries, {}
    counted, cuts = dict(entries), dict[dt.date, Arrays]()
    for date in raw.dumps:
        try:
            staged = _staged(raw, date, nodes)
        except NoRowsError:
            if raw.config.source.empty_date != "drop":
                raise
            del counted[date]
            continue
        day = staged.day
        counted[date] = entries[date]._replace(start=day.start, num_steps=day.num_steps, length=day.length)
        cuts[date] = {name: array for name, array in staged.beside.items() if name in CUTS}
    return counted, {date: own for date, own in cuts.items() if own}


def refuse_divided(config: Pipeline) -> None:
    """Refuses to measure statistics where the records of a date are divided among the splits, and not the dates.

    Raises:
        UsageError: naming the setting.
    """
    if config.split is not None and config.split.by is not None:
        what = f"which records train (pipeline.split.by: {config.split.by}) is decided over all of them by preparing"
        raise UsageError(what, todo=to_run("preprocess", config=True))


def _raw(config: Pipeline, dumps: Mapping[dt.date, Dump], entries: Mapping[dt.date, Entry]) -> Raw:
    """The dumps of entries without files."""
    return raw_of(config, dumps, {date for date, entry in entries.items() if not entry.parts[0].files})


def raw_of(config: Pipeline, dumps: Mapping[dt.date, Dump], dates: Collection[dt.date]) -> Raw:
    """The dumps of some dates, to be decoded."""
    own = {date: dump for date, dump in dumps.items() if date in dates}
    cut = frozenset(own) if config.source.cut_first else frozenset[dt.date]()
    return Raw(config=config, dumps=own, cut=cut, folder=Path(), names=(config.source.path,))


def _without_files(config: Pipeline, date: dt.date, key: str, num_nodes: int) -> Entry:
    """The entry of a date that is decoded; its id is the key of its measured array, which names the dump's content."""
    day = config.day(date)
    return Entry(day.start, day.num_steps, (Part(id=key, nodes=(0, num_nodes), files={}),), day.length)


def observed_dumps(config: Pipeline, root: Path, current: Dataset | None) -> tuple[Observed, AboutNodes]:
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
    """Returns the committed entries of dates whose shard is fresh, or whose dump is gone; of others those without files."""
    entries = dict[dt.date, Entry]()
    for each in plan.dates:
        committed = current.manifest.dates.get(each.date) if current else None
        if each.state == "excluded":
            continue
        if committed and each.state in ("fresh", "no-dump"):
            entries[each.date] = committed
        elif each.date in seen.dumps:
            entries[each.date] = _without_files(config, each.date, each.key, num_nodes)
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
