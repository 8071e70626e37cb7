"""Carries out a plan: a generator of events. One lock, many dates, grouped commits; failures are kept per date."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dateshard.pipeline import account
from dateshard.pipeline.acts import (
    Measured,
    Normalised,
    cut_names,
    measure_date,
    merge_statistics,
    normalise_date,
    take_partial,
    why_lost,
)
from dateshard.pipeline.arrays import Normaliser, loaded_bytes
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.drop import still_dropped, without_rows
from dateshard.pipeline.memory_shares import give_back_at_once, share_of, shares
from dateshard.pipeline.planning.observe import observe, uncut, write_cache
from dateshard.pipeline.planning.plan import (
    DatePlan,
    Observed,
    Plan,
    Wish,
    make_plan,
    refuse_no_match,
    refuse_unknown,
    split_settings,
)
from dateshard.pipeline.planning.weights import all_weights
from dateshard.pipeline.progress_events import (
    Began,
    CommitDone,
    CutDone,
    Cutting,
    DateAgain,
    DateDone,
    DateDropped,
    DateFailed,
    Drifted,
    Event,
    Finished,
    Merged,
    Noted,
    PassedOver,
    Planned,
)
from dateshard.pipeline.raw.cut_index import cut_account, spilled
from dateshard.pipeline.raw.dumps import one_table
from dateshard.pipeline.raw.row_counts import RowCounts
from dateshard.pipeline.splits import resolve_cuts
from dateshard.pipeline.storing import StoredAgain, stored_as, storing
from dateshard.pipeline.unobserved import refuse_nothing_observed
from dateshard.pipeline.workers.pool import Again, Task, Workers
from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.commit import Committed, StoreWriter
from dateshard.shardstore.errors import DamagedError, DateshardError, DiskFullError, NoRowsError, StoreError
from dateshard.shardstore.frozen import Frozen, Nodes, load_frozen, load_statistics, save_frozen, save_nodes
from dateshard.shardstore.identity import nothing_to_collect
from dateshard.shardstore.layouts.row_buckets import ROW
from dateshard.shardstore.manifest import Entry, Manifest
from dateshard.shardstore.scaling.statistics import Statistics, drift

GROUP_DATES, GROUP_SECONDS = 256, 60.0  # a commit at the latest after so many dates or seconds


def preprocess(
    dataset: str,
    config: Pipeline,
    root: Path,
    wish: Wish,
    num_workers: int | None,
    memory_bytes: int | None = None,
    *,
    fail_fast: bool = False,
    stop: Stop | None = None,
) -> Generator[Event, None, None]:
    """Measures, merges, normalises and commits what the plan says. One file of many dates is cut first.

    Whatever happens, `Finished` comes last and what was committed stays. A killed run loses nothing that was
    measured: the next plan finds it.

    Args:
        num_workers: processes at most; None for one a core, as far as memory reaches.
        memory_bytes: what all of them and this one may use together; None for most of what is free now.
        fail_fast: end at the first date that fails; nothing is committed after it.
        stop: to be asked for a stop.

    Raises:
        BusyError: another process writes this dataset.
        DumpError: there is nothing usable at all.
        KeyboardInterrupt: `stop` was asked; no worker lives on, nothing is left half.
    """
    stop = stop or Stop()
    give_back_at_once(memory_bytes)
    with StoreWriter(root) as writer:
        current, notes = writer.current()
        done = None
        with stop.at_once():
            whole = uncut(config, root)
        if whole:
            from dateshard.pipeline.raw.cutting import cut  # as measuring: a plan should not wait for what reads dumps

            yield Cutting(whole.path, whole.size, one_table(config.source.path, whole.files))
            with stop.at_once():
                done = cut(root, config, whole, memory_bytes)
            yield CutDone(whole.path, tuple(done.dates), done.rows)
        with stop.at_once(), nothing_to_collect():
            seen, table, cache = observe(config, root, current)
            plan = make_plan(config, seen, wish)
        if current is None:
            refuse_no_match(seen)
        write_cache(root, cache)
        refuse_unknown(plan, wish, seen, config.source.path)
        yield Planned(plan, current.generation if current else None, tuple(notes))
        dates = ([date.date for date in plan.to_measure], [date.date for date in plan.to_normalise])
        largest = max((seen.dumps[date].size for date in dates[0] if date in seen.dumps), default=0)
        most, share = shares(*dates, config, num_workers, memory_bytes, len(table.names) if table else 0, largest)
        with Workers(most, stop) as workers:
            share = share_of(memory_bytes, workers, loaded_bytes) if memory_bytes and plan.to_measure else share
            yield from _Run(
                dataset=dataset,
                config=config,
                writer=writer,
                current=current,
                seen=seen,
                table=table,
                wish=wish,
                plan=plan,
                workers=workers,
                worker_bytes=share,
                cut_rows=done.rows if done else None,
                fail_fast=fail_fast,
            ).events()


@dataclass(slots=True, kw_only=True)
class _Run:
    """State of one preprocess: what was measured, written and failed so far."""

    dataset: str
    config: Pipeline
    writer: StoreWriter
    current: Committed | None
    seen: Observed
    table: Nodes | None
    wish: Wish
    plan: Plan
    workers: Workers
    worker_bytes: int
    cut_rows: RowCounts | None  # of the file of many dates, if it was cut just now
    fail_fast: bool = False
    old: Manifest | None = None  # of the generation that this run began with
    plans: dict[dt.date, DatePlan] = field(default_factory=dict)
    excluded: set[dt.date] = field(default_factory=set)
    began: float = field(default_factory=time.monotonic)
    measured: dict[dt.date, Measured] = field(default_factory=dict)
    entries: dict[dt.date, Entry] = field(default_factory=dict)
    failed: dict[dt.date, DateshardError] = field(default_factory=dict)
    dropped: dict[dt.date, DateshardError] = field(default_factory=dict)  # for want of rows
    made: dict[dt.date, Normalised] = field(default_factory=dict)  # dates whose shard this run normalised
    changed: set[dt.date] = field(default_factory=set)  # those of them whose shard is another than before
    stored: int = 0
    statistics: Statistics | None = None  # that the dates are scaled by
    named: Pipeline = field(init=False)  # with the names of cuts in place of fractions, as soon as they are known

    def __post_init__(self) -> None:
        by_row = self.config.cut == ROW
        known = self.current.manifest.split_cuts if self.current and not self.plan.merge and not by_row else {}
        self.named = self.config.with_cuts(known) if known else self.config

    def events(self) -> Iterator[Event]:
        self._take(self.plan)
        self.old = self.current.manifest if self.current else None
        try:
            yield from self._prepare()
        except _FailedFastError:
            self.workers.end()
            self.writer.sweep()
            yield self._finished(cut_short=True)

    def _take(self, plan: Plan) -> None:
        self.plan, self.plans = plan, {date.date: date for date in plan.dates}
        self.excluded = {date.date for date in plan.dates if date.state == "excluded"}

    def _measure_all(self) -> Iterator[Event]:
        """Measures what the plan says.

        Where dates turn out to have no row, or to be almost empty, the rest is planned without them: the split moves, and
        other dates may be training dates."""
        while True:
            known, done = set(self.dropped), {*self.measured, *self.failed}
            yield from self._measure({plan.date: plan.key for plan in self.plan.to_measure if plan.date not in done})
            keys = {date: self.plans[date].key for date in self.dropped if date not in known}
            weights = all_weights(self.plan, self.seen, self.measured, self.config, self.writer.root)
            if not keys and weights == self.seen.weights:
                return
            self.seen = replace(self.seen, weights=weights)
            if keys:
                self.seen = without_rows(self.seen, keys, self.config, self.writer.root, self.current)
            before = self.plan.remarks
            self._take(make_plan(self.config, self.seen, self.wish))
            yield from (Noted(remark) for remark in self.plan.remarks if remark not in before)

    def _prepare(self) -> Iterator[Event]:
        yield from self._measure_all()
        if self.plan.merge:
            frozen, merged = yield from self._merge()
            yield merged
        elif self.current:
            old = self.current.manifest
            frozen = load_frozen(self.writer.root, old.statistics, self.table or old.nodes, old.vocabularies)
            self.writer.published([save_nodes(self.writer.root, frozen.nodes)])  # of a table: the present positions
            yield from self._drift(frozen.statistics)
        self.statistics = frozen.statistics
        lacking = account.provisional(self.plan, self.failed, self.current, self.seen) - self.excluded
        manifest = account.skeleton(self.dataset, self.named, frozen, self.plan, lacking)
        yield from self._normalise(manifest, frozen)
        yield self._commit(manifest)
        yield self._finished()

    def _measure(self, keys: Mapping[dt.date, str]) -> Iterator[Event]:
        names, tasks = self.seen.node_names, list[Task]()
        config = spilled(self.named) if self.config.source.cut_first else self.named
        for date, key in keys.items():
            arguments = (self.writer.root, self.seen.dumps[date], date, key, config, names, self.worker_bytes)
            tasks.append((date, measure_date, arguments))
        if tasks:
            yield Began("measure", len(tasks), self.workers.num_workers)
        for date, result in self.workers.run(tasks):
            if isinstance(result, Measured):
                self.measured[date] = result
                self.writer.published(result.folders)
                yield DateDone(act="measure", date=date, rows=result.rows, size=self.seen.dumps[date].size)
            elif isinstance(result, Again):
                yield DateAgain("measure", date, result.why)
            else:
                yield from self._fail("measure", date, result)

    def _fail(self, act: str, date: dt.date, error: DateshardError) -> Iterator[DateFailed | DateDropped]:
        """Keeps a failure of the date. A full disk, or a store that cannot hold what its dump gives, stops them all."""
        if isinstance(error, NoRowsError) and self.config.source.empty_date == "drop":
            self.dropped[date] = error
            yield DateDropped(date, error)
            return
        if isinstance(error, DiskFullError) or (isinstance(error, StoreError) and date in self.seen.dumps):
            raise error
        self.failed[date] = error
        yield DateFailed(act, date, error)
        if self.fail_fast:
            raise _FailedFastError

    def _training_keys(self) -> dict[dt.date, str]:
        """Staged keys of the training dates that are measured now."""
        keys = {}
        for plan in self.plan.dates:
            staged = plan.date in self.measured or plan.key in self.seen.staged[plan.date]
            if plan.state != "excluded" and self.plan.training(plan.date) and staged and plan.date not in self.failed:
                keys[plan.date] = plan.key
        return keys

    def _merge(self) -> Generator[Event, None, tuple[Frozen, Merged]]:
        """Merges; a staged date that turns out damaged is measured again first. Returns what is frozen, and the event."""
        root = self.writer.root
        with self.workers.stop.at_once():
            self._name_cuts()
        yield from self._find_lost()
        keys = self._training_keys()
        if not keys:
            first = next(iter([*self.failed.values(), *self.dropped.values()]), None)
            raise account.no_training_date(first) from first
        with self.workers.stop.at_once():
            frozen = merge_statistics(root, keys, self.named, self.table)
        refuse_nothing_observed(self.config, statistics := frozen.statistics, self.seen, self.measured)
        moved: tuple[dict[str, Any], ...] = ()
        if (
            (old := self.old)
            and old.statistics != statistics.id
            and tuple(f.name for f in old.features) == statistics.features
        ):
            with suppress(StoreError):  # damaged: they are being replaced
                moved = tuple(drift(load_statistics(root, old.statistics), statistics))
        self.writer.published(save_frozen(root, frozen))
        return frozen, Merged(statistics.id, len(keys), moved)

    def _name_cuts(self) -> None:
        """Resolves which cuts are of which split; fractions are resolved once, and again for --resplit."""
        split, old = self.config.split, self.current.manifest if self.current else None
        if split is None or split.by in (None, ROW) or not (keys := self._training_keys()):
            return
        same = old is not None and self.seen.sources.get("split") == split_settings(self.config)
        if old is not None and old.split_cuts and same and not self.wish.resplit:
            self.named = self.config.with_cuts(old.split_cuts)
            return
        self.named = self.config.with_cuts(resolve_cuts(split, cut_names(self.writer.root, keys)))

    def _find_lost(self) -> Iterator[Event]:
        """Takes lost partial statistics again from the staged array.

        Lost are those that are gone, damaged or of another transform; a staged array that is damaged too is measured again
        from its dump."""
        lost = {}
        for date, key in self._training_keys().items():
            if error := why_lost(self.writer.root, date, key, self.named):
                lost[date] = key
                if isinstance(error, DamagedError):
                    yield PassedOver(date, error)
        tasks = [(date, take_partial, (self.writer.root, date, key, self.named)) for date, key in lost.items()]
        again = {}
        for date, result in self.workers.run(tasks):
            if isinstance(result, Path):
                self.writer.published([result])
            elif isinstance(result, StoreError) and date in self.seen.dumps:
                again[date] = lost[date]
            elif not isinstance(result, Again):
                yield from self._fail("measure", date, result)
        yield from self._measure(again)

    def _drift(self, frozen: Statistics) -> Iterator[Event]:
        """How far the frozen statistics stand from what is measured now, if a training date was measured again."""
        if not any(self.plan.training(date) for date in self.measured):
            return
        keys = self._training_keys()
        try:
            fresh = merge_statistics(self.writer.root, keys, self.named, self.table).statistics
        except StoreError:
            return  # only a report: the damaged array is named when something needs it
        if all(date in keys for date in {*self.plans} - self.excluded if self.plan.training(date)):
            refuse_nothing_observed(self.config, fresh, self.seen, self.measured)
        if fresh.features == frozen.features and fresh.sources != frozen.sources:
            yield Drifted(tuple(drift(frozen, fresh)))

    def _normalise(self, manifest: Manifest, frozen: Frozen) -> Iterator[Event]:
        old = self.old
        same = old is not None and old.normalise == manifest.normalise
        if old is not None and same:  # the dates that stay as they are
            self.entries = {date: entry for date, entry in old.dates.items() if date not in self.excluded}
        target, at_once = Normaliser.of(frozen, manifest), old is None or same
        lost = (yield from self._store(manifest, target)) if same else []
        tasks: list[Task] = []
        for plan in [*lost, *self.plan.to_normalise]:
            there = stored_as(self.entries.get(plan.date), self.config.store.formats)
            untouched = same and plan.state == "fresh" and plan.date not in self.measured and there
            if plan.date not in self.failed and (plan in lost or not untouched):
                tasks.append((plan, normalise_date, self._to_normalise(plan, target)))
        yield from self._left_behind(old, same=same)
        damaged = yield from self._write("normalise", tasks, manifest, at_once=at_once)
        yield from self._measure({plan.date: plan.key for plan in damaged})
        mended = [task for task in tasks if task[0] in damaged and task[0].date not in self.failed]
        yield from self._write("normalise", mended, manifest, at_once=at_once)

    def _store(self, manifest: Manifest, target: Normaliser) -> Generator[Event, None, list[DatePlan]]:
        """Writes fresh dates in the formats that they lack. Returns those whose shard is damaged, to be normalised."""
        assert self.old is not None, "only what is committed is stored again"
        again = [plan for plan in self.plan.to_store if plan.date not in {*self.failed, *self.measured}]
        tasks = list(storing(self.writer.root, again, self.old, self.config, target.about))
        return (yield from self._write("store", tasks, manifest, at_once=True))

    def _write(
        self, act: str, tasks: Sequence[Task], manifest: Manifest, *, at_once: bool
    ) -> Generator[Event, None, list[DatePlan]]:
        """Stores or normalises and, with `at_once`, commits in groups.

        Returns those whose source is damaged: to be normalised, or measured again from their dumps."""
        damaged: list[DatePlan] = []
        since, waiting = time.monotonic(), 0
        if tasks:
            yield Began(act, len(tasks), self.workers.num_workers)
        for plan, result in self.workers.run(tasks):
            mendable = act == "store" or (plan.date in self.seen.dumps and plan.date not in self.measured)
            if isinstance(result, StoreError) and mendable:
                yield PassedOver(plan.date, result)
                damaged.append(plan)
            elif isinstance(result, Again):
                yield DateAgain(act, plan.date, result.why)
            elif not isinstance(result, Normalised | StoredAgain):
                yield from self._fail(act, plan.date, result)
            else:
                yield self._note_shard(result)
                waiting += 1
            if at_once and waiting and (waiting >= GROUP_DATES or time.monotonic() - since > GROUP_SECONDS):
                yield self._commit(manifest)
                since, waiting = time.monotonic(), 0
        return damaged

    def _left_behind(self, old: Manifest | None, *, same: bool) -> Iterator[Event]:
        """Committed dates that can't follow to another scale: nothing measured of them fits, and their dump is gone."""
        if old is None or same:
            return
        following = {plan.date for plan in self.plan.to_normalise} | set(self.failed) | self.excluded
        for date in sorted(set(old.dates) - following):
            yield from self._fail("normalise", date, account.left_behind(date))

    def _to_normalise(self, plan: DatePlan, target: Normaliser) -> tuple[Any, ...]:
        """Arguments of `normalise_date`."""
        entry = self.current.manifest.dates.get(plan.date) if self.current else None
        shard = entry.parts[0] if entry else None
        return self.writer.root, plan.date, plan.key, self.config, target, self.worker_bytes, shard

    def _note_shard(self, result: Normalised | StoredAgain) -> DateDone:
        changed = self.old is None or self.old.dates.get(result.date) != result.entry
        self.entries[result.date] = result.entry
        self.writer.published(result.folders)
        if isinstance(result, StoredAgain):
            self.stored += 1
            return DateDone(act="store", date=result.date, changed=changed)
        self.made[result.date] = result
        self.changed |= {result.date} if changed else set()
        return DateDone(act="normalise", date=result.date, changed=changed)

    def _commit(self, skeleton: Manifest) -> CommitDone:
        config, dumps = self.config, self.seen.dumps
        failed = account.failures(self.seen, self.plans, config, self.failed)
        manifest = replace(skeleton, dates=dict(sorted(self.entries.items())), failed=tuple(sorted(failed)))
        sources = {
            "basis": self.plan.basis,
            **account.settings_row(config),
            "dates": {str(date): self._source(date) for date in manifest.dates},
            "failed": {str(date): failed[date] for date in sorted(failed)},
            **still_dropped(self.seen.sources, self.plan),
            **cut_account(self.writer.root, dumps, config),
        }
        before = self.current
        sources = account.with_settings(sources, config, before.sources if before else None)
        self.current = self.writer.commit(manifest, sources, before)
        same = before is not None and before.generation == self.current.generation
        return CommitDone(self.current.generation, len(manifest.dates), changed=not same)

    def _source(self, date: dt.date) -> dict[str, Any]:
        """A committed date's row in the sources file: kept, unless its shard was made in this run."""
        made, receipt = self.made.get(date), self.measured.get(date)
        return account.source_row(self.writer.root, self.plans[date], self.seen, self.config, made, receipt)

    def _finished(self, *, cut_short: bool = False) -> Finished:
        seconds, changed = time.monotonic() - self.began, len(self.changed)
        end = account.End(
            plan=self.plan,
            failed=self.failed,
            dropped=self.dropped,
            cut_rows=self.cut_rows,
            seconds=seconds,
            changed=changed,
            stored=self.stored,
            cut_short=cut_short,
        )
        return account.finished(self.writer.root, self.current, self.statistics, self.measured, self.made, end)


class _FailedFastError(Exception):
    """Inside `_Run` only: a date failed, and that was to be the end."""
