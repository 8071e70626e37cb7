"""Carries out a plan: a generator of events. One lock, many dates, grouped commits; failures are kept per date."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Generator, Iterator, Mapping, Sized
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from pipeline.account import dump_row, failure_row, total
from pipeline.config import NORMALISE_CODE, Pipeline
from pipeline.cuts import cut_account, spilled
from pipeline.drop import still_dropped
from pipeline.dumps import is_one_file
from pipeline.events import (
    CommitDone,
    CutDone,
    Cutting,
    DateDone,
    DateFailed,
    Drifted,
    Event,
    Finished,
    Merged,
    PassedOver,
    Planned,
)
from pipeline.observe import observe, uncut, write_cache
from pipeline.plan import DatePlan, Observed, Plan, Wish, make_plan, normalise_identity, refuse_unknown, split_settings
from pipeline.prepare import (
    Measured,
    Normalised,
    Target,
    measure_date,
    merge_statistics,
    normalise_date,
    take_partial,
)
from pipeline.rows import Rows
from pipeline.storing import StoredAgain, storing
from pipeline.survey import survey
from pipeline.workers import Task, run
from shardstore.calendar import parse_step
from shardstore.commit import Committed, Writer
from shardstore.errors import DamagedError, DateshardError, DiskFullError, DumpError, StoreError, Where
from shardstore.frozen import (
    Frozen,
    Nodes,
    load_nodes,
    load_statistics,
    load_vocabularies,
    save_nodes,
    save_statistics,
    save_vocabularies,
)
from shardstore.manifest import Entry, Manifest
from shardstore.measured import load_arrays, load_partial, load_receipt, partial_key
from shardstore.statistics import Statistics, drift

FREE_SHARE = 0.7  # of the memory that is free when a preprocess begins, for all its workers
GROUP_DATES, GROUP_SECONDS = 256, 60.0  # a commit at the latest after so many dates or seconds


def look(config: Pipeline, root: Path, wish: Wish) -> tuple[Plan, Committed | None, list[str]]:
    """The plan alone: takes no lock and writes nothing."""
    found = survey(config, root, wish)
    return found.plan, found.current, list(found.notes)


def preprocess(
    dataset: str, config: Pipeline, root: Path, wish: Wish, num_workers: int, memory_bytes: int | None = None
) -> Iterator[Event]:
    """Measures, merges, normalises and commits what the plan says. One file of many dates is cut first.

    Whatever happens, `Finished` comes last and what was committed stays. A killed run loses nothing that was
    measured: the next plan finds it.

    Args:
        memory_bytes: what all workers together may use; None for most of what is free now.

    Raises:
        BusyError: another process writes this dataset.
        DumpError: there is nothing usable at all.
    """
    with Writer(root) as writer:
        current, notes = writer.current()
        done = None
        if whole := uncut(config, root):
            from pipeline.cut import cut  # as measuring: a plan should not wait for what reads dumps

            yield Cutting(whole.path, whole.size)
            done = cut(root, config, whole)
            yield CutDone(whole.path, tuple(done.dates), done.rows)
        seen, table, cache = observe(config, root, current)
        if not seen.dumps and current is None:
            where, todo = Where(file=config.source.path), "Check pipeline.source.path, or run: dateshard init"
            raise DumpError("no dump matches the path", where=where, todo=todo)
        write_cache(root, cache)
        plan = make_plan(config, seen, wish)
        refuse_unknown(plan, wish, seen, config.source.path)
        share = (memory_bytes or int(FREE_SHARE * psutil.virtual_memory().available)) // num_workers
        yield Planned(plan, current.generation if current else None, tuple(notes))
        cut_rows = done.rows if done else None
        yield from _Run(dataset, config, writer, current, seen, table, plan, num_workers, share, cut_rows).events()


@dataclass(slots=True)
class _Run:
    """State of one preprocess: what was measured, written and failed so far."""

    dataset: str
    config: Pipeline
    writer: Writer
    current: Committed | None
    seen: Observed
    table: Nodes | None
    plan: Plan
    num_workers: int
    worker_bytes: int
    cut_rows: Rows | None  # of the file of many dates, if it was cut just now
    plans: dict[dt.date, DatePlan] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    measured: dict[dt.date, Measured] = field(default_factory=dict)
    entries: dict[dt.date, Entry] = field(default_factory=dict)
    failed: dict[dt.date, DateshardError] = field(default_factory=dict)
    unknown_nodes: dict[dt.date, int] = field(default_factory=dict)
    unknown_categories: dict[dt.date, Mapping[str, int]] = field(default_factory=dict)
    made: set[dt.date] = field(default_factory=set)  # dates whose shard this run normalised
    written: int = 0
    unchanged: int = 0
    stored: int = 0

    def events(self) -> Iterator[Event]:
        self.plans = {plan.date: plan for plan in self.plan.dates}
        yield from self._measure({plan.date: plan.key for plan in self.plan.to_measure})
        if self.plan.merge:
            frozen, merged = yield from self._merge()
            yield merged
        elif self.current:
            frozen = self._load_frozen(self.current.manifest)
            yield from self._drift(frozen.statistics)
        manifest = self._skeleton(frozen)
        yield from self._normalise(manifest, frozen)
        yield self._commit(manifest, last=True)
        yield self._finished()

    def _measure(self, keys: Mapping[dt.date, str]) -> Iterator[Event]:
        names, tasks = self.seen.node_names, list[Task]()
        config = spilled(self.config) if is_one_file(self.config.source.path) else self.config
        for date, key in keys.items():
            arguments = (self.writer.root, self.seen.dumps[date], date, key, config, names, self.worker_bytes)
            tasks.append((date, measure_date, arguments))
        for date, result in run(tasks, self._workers(tasks)):
            if isinstance(result, Measured):
                self.measured[date] = result
                self.writer.published(result.folders)
                yield DateDone("measure", date, result.rows)
            else:
                yield self._fail("measure", date, result)

    def _workers(self, tasks: Sized) -> int:
        """One date alone is done in this process: a worker would first import what reads dumps, for a second."""
        return max(1, min(self.num_workers, len(tasks)))

    def _fail(self, act: str, date: dt.date, error: DateshardError) -> DateFailed:
        """Keeps a failure of the date. A full disk, or a store that cannot hold what its dump gives, stops them all."""
        if isinstance(error, DiskFullError) or (isinstance(error, StoreError) and date in self.seen.dumps):
            raise error
        self.failed[date] = error
        return DateFailed(act, date, error)

    def _training_keys(self) -> dict[dt.date, str]:
        """Staged keys of the training dates that are measured now."""
        keys = {}
        for plan in self.plan.dates:
            staged = plan.date in self.measured or plan.key in self.seen.staged[plan.date]
            if plan.state != "excluded" and self.plan.training(plan.date) and staged and plan.date not in self.failed:
                keys[plan.date] = plan.key
        return keys

    def _load_frozen(self, manifest: Manifest) -> Frozen:
        """What the generation rests on; of a node table's positions the present ones."""
        root = self.writer.root
        nodes = self.table or load_nodes(root, manifest.nodes)
        self.writer.published([save_nodes(root, nodes)])
        vocabularies = load_vocabularies(root, manifest.vocabularies)
        return Frozen(nodes, vocabularies, load_statistics(root, manifest.statistics))

    def _merge(self) -> Generator[Event, None, tuple[Frozen, Merged]]:
        """Merges; a staged date that turns out damaged is measured again first. Returns what is frozen, and the event."""
        root = self.writer.root
        yield from self._find_lost()
        keys = self._training_keys()
        if not keys:
            first = next(iter(self.failed.values()), None)
            what = "no training date could be measured, so there are no statistics"
            raise DumpError(f"{what}; first failure: {first}" if first else what, todo=_no_training_todo(bool(first)))
        frozen = merge_statistics(root, keys, self.config, self.table)
        statistics = frozen.statistics
        old = self.current.manifest if self.current else None
        moved: tuple[dict[str, Any], ...] = ()
        if old and old.statistics != statistics.id and tuple(f.name for f in old.features) == statistics.features:
            with suppress(StoreError):  # damaged: they are being replaced
                moved = tuple(drift(load_statistics(root, old.statistics), statistics))
        self.writer.published([save_statistics(root, statistics), save_nodes(root, frozen.nodes)])
        if frozen.vocabularies.names:
            self.writer.published([save_vocabularies(root, frozen.vocabularies)])
        return frozen, Merged(statistics.id, len(keys), moved)

    def _find_lost(self) -> Iterator[Event]:
        """Partial statistics that are gone, damaged or of another transform are taken again from the staged array;
        a staged array that is damaged too is measured again from its dump."""
        lost = {}
        for date, key in self._training_keys().items():
            if error := self._lost(date, key):
                lost[date] = key
                if isinstance(error, DamagedError):
                    yield PassedOver(date, error)
        tasks = [(date, take_partial, (self.writer.root, date, key, self.config)) for date, key in lost.items()]
        again = {}
        for date, result in run(tasks, self._workers(tasks)):
            if isinstance(result, Path):
                self.writer.published([result])
            elif isinstance(result, StoreError) and date in self.seen.dumps:
                again[date] = lost[date]
            else:
                yield self._fail("measure", date, result)
        yield from self._measure(again)

    def _lost(self, date: dt.date, key: str) -> StoreError | None:
        """Why the date's measured arrays cannot be merged; partials that were never taken are no damage."""
        partial = self.writer.root / "partials" / str(date) / partial_key(key, self.config.feature_specs())
        try:
            load_receipt(self.writer.root / "staged" / str(date) / key)
            load_partial(partial)
        except StoreError as error:
            return error if partial.exists() else StoreError(error.what)
        return None

    def _drift(self, frozen: Statistics) -> Iterator[Event]:
        """How far the frozen statistics stand from what is measured now, if a training date was measured again."""
        if not any(self.plan.training(date) for date in self.measured):
            return
        try:
            fresh = merge_statistics(self.writer.root, self._training_keys(), self.config, self.table).statistics
        except StoreError:
            return  # only a report: the damaged array is named when something needs it
        if fresh.features == frozen.features and fresh.sources != frozen.sources:
            yield Drifted(tuple(drift(frozen, fresh)))

    def _skeleton(self, frozen: Frozen) -> Manifest:
        """The next manifest without its dates."""
        provisional: set[dt.date] = set()
        if self.plan.merge:
            provisional = {date for date in self.failed if self.plan.training(date)}
        elif self.current:
            provisional = {d for d in self.current.manifest.provisional if d in self.seen.dumps}
        nodes, statistics, vocabularies = frozen.nodes, frozen.statistics.id, frozen.vocabularies.id
        return Manifest(
            dataset=self.dataset,
            timezone=self.config.source.timezone,
            step=parse_step(self.config.step),
            features=self.config.feature_specs(),
            nodes=nodes.id,
            num_nodes=len(nodes.names),
            statistics=statistics,
            vocabularies=vocabularies,
            normalise=normalise_identity(self.config.normalise_settings(), statistics, nodes.id, vocabularies),
            split=dict(self.plan.split),
            provisional=tuple(sorted(provisional - set(self.config.exclude))),
        )

    def _normalise(self, manifest: Manifest, frozen: Frozen) -> Iterator[Event]:
        old = self.current.manifest if self.current else None
        same = old is not None and old.normalise == manifest.normalise
        if old is not None and same:  # the dates that stay as they are
            self.entries = {date: entry for date, entry in old.dates.items() if date not in self.config.exclude}
        target = Target.of(frozen, manifest)
        tasks: list[Task] = []
        if old is not None and same:
            again = [plan for plan in self.plan.to_store if plan.date not in {*self.failed, *self.measured}]
            tasks += storing(self.writer.root, again, old, self.config, target.about)
        for plan in self.plan.to_normalise:
            untouched = same and plan.state == "fresh" and plan.date not in self.measured and plan.date in self.entries
            if plan.date not in self.failed and not untouched:
                tasks.append((plan, normalise_date, self._to_normalise(plan, target)))
        yield from self._left_behind(old, same=same)
        since, waiting = time.monotonic(), 0
        for plan, result in run(tasks, self._workers(tasks)):
            if isinstance(result, StoreError) and plan.store:
                yield PassedOver(plan.date, result)
                _, result = next(iter(run([(plan, normalise_date, self._to_normalise(plan, target))], 1)))
            if isinstance(result, StoreError) and plan.date in self.seen.dumps and plan.date not in self.measured:
                yield PassedOver(plan.date, result)
                result = yield from self._mend(plan, target)
            if not isinstance(result, Normalised | StoredAgain):
                yield self._fail("normalise", plan.date, result)
                continue
            yield self._note_shard(result, old)
            waiting += 1
            overdue = waiting >= GROUP_DATES or time.monotonic() - since > GROUP_SECONDS
            if overdue and (old is None or same):
                yield self._commit(manifest)
                since, waiting = time.monotonic(), 0

    def _left_behind(self, old: Manifest | None, *, same: bool) -> Iterator[Event]:
        """Committed dates that can't follow to another scale: nothing measured of them fits, and their dump is gone."""
        if old is None or same:
            return
        following = {plan.date for plan in self.plan.to_normalise} | set(self.failed) | set(self.config.exclude)
        for date in sorted(set(old.dates) - following):
            what = "the date leaves the dataset: its dump is gone, and nothing measured of it fits the settings"
            todo = "Put its dump back and run the command again"
            yield self._fail("normalise", date, DumpError(what, where=Where(date=date), todo=todo))

    def _to_normalise(self, plan: DatePlan, target: Target) -> tuple[Any, ...]:
        """Arguments of `normalise_date`."""
        entry = self.current.manifest.dates.get(plan.date) if self.current else None
        return self.writer.root, plan.date, plan.key, self.config, target, entry.parts[0] if entry else None

    def _mend(self, plan: DatePlan, target: Target) -> Generator[Event, None, Any]:
        """A staged array that is damaged is measured again from its dump. Returns the result of normalising."""
        yield from self._measure({plan.date: plan.key})
        if plan.date in self.failed:
            return self.failed.pop(plan.date)
        _, result = next(iter(run([(plan, normalise_date, self._to_normalise(plan, target))], 1)))
        return result

    def _note_shard(self, result: Normalised | StoredAgain, old: Manifest | None) -> DateDone:
        changed = old is None or old.dates.get(result.date) != result.entry
        self.entries[result.date] = result.entry
        self.writer.published(result.folders)
        if isinstance(result, StoredAgain):
            self.stored += 1
            return DateDone("store", result.date, changed=changed)
        self.made.add(result.date)
        if result.unknown_nodes:
            self.unknown_nodes[result.date] = result.unknown_nodes
        if result.unknown_categories:
            self.unknown_categories[result.date] = result.unknown_categories
        self.written, self.unchanged = self.written + changed, self.unchanged + (not changed)
        return DateDone("normalise", result.date, changed=changed)

    def _commit(self, skeleton: Manifest, *, last: bool = False) -> CommitDone:
        failed = self._failed_sources()
        manifest = replace(skeleton, dates=dict(sorted(self.entries.items())), failed=tuple(sorted(failed)))
        sources = {
            "basis": self.plan.basis,
            "split": split_settings(self.config),
            "normalise": {"settings": self.config.normalise_settings(), "code": NORMALISE_CODE},
            "dates": {str(date): self._source(date) for date in manifest.dates},
            "failed": {str(date): failed[date] for date in sorted(failed)},
            **still_dropped(self.seen.sources, self.plan),
            **cut_account(self.writer.root, self.seen.dumps, self.config),
        }
        before = self.current
        self.current = self.writer.commit(manifest, sources, before)
        same = before is not None and before.generation == self.current.generation
        return CommitDone(self.current.generation, len(manifest.dates), changed=not same)

    def _source(self, date: dt.date) -> dict[str, Any]:
        """A committed date's row in the sources file: kept, unless its shard was made in this run."""
        known: dict[str, Any] | None = self.seen.sources.get("dates", {}).get(str(date))
        plan = self.plans[date]
        if date not in self.made or date not in self.seen.dumps:
            return known or {"staged": plan.key, "measure": "", "dump": dump_row(None), "rows": {}}
        receipt = self.measured.get(date)
        rows = receipt.rows if receipt else load_arrays(self.writer.root / "staged" / str(date) / plan.key)[1]["rows"]
        measure = self.config.measure_identity(self.seen.node_names)
        return {"staged": plan.key, "measure": measure, "dump": dump_row(self.seen.dumps[date]), "rows": dict(rows)}

    def _failed_sources(self) -> dict[dt.date, dict[str, Any]]:
        """Failures of this run, and older ones whose date was not tried again."""
        kept = {}
        for text, failure in self.seen.sources.get("failed", {}).items():
            date = dt.date.fromisoformat(text)
            plan = self.plans.get(date)
            over = plan is None or plan.state in ("excluded", "fresh") or plan.measure or plan.normalise
            if date in self.seen.dumps and not over:
                kept[date] = failure
        for date, error in self.failed.items():
            dump, tolerated = self.seen.dumps.get(date), self.config.source.tolerated()
            kept[date] = failure_row(error, self.plans[date].key, dump, tolerated)
        return kept

    def _finished(self) -> Finished:
        rows = total({date: receipt.rows for date, receipt in self.measured.items()}, self.cut_rows)
        generation = self.current.generation if self.current else None
        manifest = self.current.manifest if self.current else None
        seconds = time.monotonic() - self.began
        done, unknown = (
            (len(self.measured), self.written, self.unchanged),
            (self.unknown_nodes, self.unknown_categories),
        )
        return Finished(generation, manifest, *done, self.failed, rows, seconds, *unknown, self.stored)


def _no_training_todo(failed: bool) -> str:
    return "Correct the dumps and run the command again" if failed else "Check pipeline.split.train against the dumps"
