"""Normalises or stores the dates of a plan, and commits them in groups."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace

from dateshard.pipeline import account
from dateshard.pipeline.acts import Normalised, normalise_date
from dateshard.pipeline.arrays import Normaliser
from dateshard.pipeline.config import NORMALISE_CODE
from dateshard.pipeline.drop import still_dropped
from dateshard.pipeline.execution.date_parts import parts_of_date, whole_dates
from dateshard.pipeline.execution.job import Job, PreprocessProgress, fail
from dateshard.pipeline.execution.measuring import measure
from dateshard.pipeline.execution.node_facts import names_on
from dateshard.pipeline.execution.storing import StoredAgain, storing
from dateshard.pipeline.planning.plan import DatePlan, split_settings, states_kept, stored_as
from dateshard.pipeline.progress_events import Began, CommitDone, DateAgain, DateDone, Event, PassedOver
from dateshard.pipeline.raw.cut_index import cut_account
from dateshard.pipeline.workers.engine import Again, Task
from dateshard.shardstore.errors import StoreError
from dateshard.shardstore.frozen import Frozen
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.sources import NormaliseRow, SourceRow, Sources

GROUP_DATES, GROUP_SECONDS = 256, 60.0  # a commit at the latest after so many dates or seconds


def normalise(job: Job, progress: PreprocessProgress, manifest: Manifest, frozen: Frozen) -> Iterator[Event]:
    """Brings every date to the scale, in the formats that are asked for; commits in groups where readers stay whole."""
    old, excluded = job.old, progress.excluded
    same = old is not None and old.normalise == manifest.normalise
    if old is not None and same:  # the dates that stay as they are
        progress.entries = {date: entry for date, entry in old.dates.items() if date not in excluded}
    target, at_once = Normaliser.of(frozen, manifest), old is None or same
    lost = (yield from _store(job, progress, manifest, target)) if same else []
    due, kept = list[DatePlan](), states_kept(job.wish)
    for plan in [*lost, *progress.plan.to_normalise]:
        entry = progress.entries.get(plan.date)
        there = entry is not None and stored_as(entry, job.config.store)
        untouched = same and plan.state in kept and plan.date not in progress.measured and there
        if plan.date not in progress.failed and (plan in lost or not untouched):
            due.append(plan)
    yield from _left_behind(job, progress, old, same=same)
    tasks = _normalising(job, progress, due, target)
    damaged = yield from _write(job, progress, "normalise", len(due), tasks, manifest, at_once=at_once)
    yield from measure(job, progress, {plan.date: plan.key for plan in damaged})
    mended = [plan for plan in damaged if plan.date not in progress.failed]
    tasks = _normalising(job, progress, mended, target)
    yield from _write(job, progress, "normalise", len(mended), tasks, manifest, at_once=at_once)


def _store(
    job: Job, progress: PreprocessProgress, manifest: Manifest, target: Normaliser
) -> Generator[Event, None, list[DatePlan]]:
    """Writes fresh dates in the formats that they lack. Returns those whose shard is damaged, to be normalised."""
    assert job.old is not None, "only what is committed is stored again"
    again = [plan for plan in progress.plan.to_store if plan.date not in {*progress.failed, *progress.measured}]
    tasks = storing(job.writer.root, again, job.old, job.config, target.about)
    return (yield from _write(job, progress, "store", len(again), tasks, manifest, at_once=True))


def _write(
    job: Job,
    progress: PreprocessProgress,
    act: str,
    num_dates: int,
    tasks: Iterable[Task],
    manifest: Manifest,
    *,
    at_once: bool,
) -> Generator[Event, None, list[DatePlan]]:
    """Stores or normalises and, with `at_once`, commits in groups.

    Returns those whose source is damaged: to be normalised, or measured again from their dumps.

    Args:
        tasks: of the parts of `num_dates` dates.
    """
    damaged: list[DatePlan] = []
    since, waiting = time.monotonic(), 0
    if num_dates:
        yield Began(act, num_dates, job.workers.num_workers)
    for plan, result in whole_dates(job.workers.run(tasks)) if num_dates else ():
        mendable = act == "store" or (plan.date in progress.seen.dumps and plan.date not in progress.measured)
        if isinstance(result, StoreError) and mendable:
            yield PassedOver(plan.date, result)
            damaged.append(plan)
        elif isinstance(result, Again):
            yield DateAgain(act, plan.date, result.why)
        elif not isinstance(result, Normalised | StoredAgain):
            yield from fail(job, progress, act, plan.date, result)
        else:
            yield _note_shard(job, progress, result)
            waiting += 1
        if at_once and waiting and (waiting >= GROUP_DATES or time.monotonic() - since > GROUP_SECONDS):
            yield commit(job, progress, manifest)
            since, waiting = time.monotonic(), 0
    return damaged


def _left_behind(job: Job, progress: PreprocessProgress, old: Manifest | None, *, same: bool) -> Iterator[Event]:
    """Fails committed dates that cannot follow to another scale: nothing measured of them fits, and their dump is gone."""
    if old is None or same:
        return
    following = {plan.date for plan in progress.plan.to_normalise} | set(progress.failed) | progress.excluded
    for date in sorted(set(old.dates) - following):
        yield from fail(job, progress, "normalise", date, account.left_behind(date))


def _normalising(
    job: Job, progress: PreprocessProgress, plans: Iterable[DatePlan], target: Normaliser
) -> Iterator[Task]:
    """The tasks that normalise dates: one for each part."""
    root, divided = job.writer.root, job.config.store.nodes_per_part is not None
    for plan in plans:
        reach = target.reaching(names_on(root, plan)) if divided and job.config.keeps_unknown else target
        entry = progress.current.manifest.dates.get(plan.date) if progress.current else None
        committed = {shard.nodes: shard for shard in entry.parts} if entry else {}
        for label, nodes in parts_of_date(plan, job.config.store.parts_of(len(reach.nodes.names))):
            old = committed.get(nodes)
            own = nodes if divided else None
            arguments = (root, plan.date, plan.key, job.config, target, job.worker_bytes, old, own)
            yield label, normalise_date, arguments


def _note_shard(job: Job, progress: PreprocessProgress, result: Normalised | StoredAgain) -> DateDone:
    changed = job.old is None or job.old.dates.get(result.date) != result.entry
    progress.entries[result.date] = result.entry
    job.writer.published(result.folders)
    if isinstance(result, StoredAgain):
        progress.stored += 1
        return DateDone(act="store", date=result.date, changed=changed)
    progress.made[result.date] = result
    return DateDone(act="normalise", date=result.date, changed=changed)


def commit(job: Job, progress: PreprocessProgress, skeleton: Manifest) -> CommitDone:
    """Commits the dates that there are, with the account of what each was made of."""
    config, seen, plans = job.config, progress.seen, progress.plans
    failed = account.failures(seen, plans, config, progress.failed)
    manifest = replace(skeleton, dates=dict(sorted(progress.entries.items())), failed=tuple(sorted(failed)))
    before, kept = progress.current, seen.sources.dates
    sources = Sources(
        basis=progress.plan.basis,
        split=split_settings(config),
        normalise=NormaliseRow(config.normalise_settings(), NORMALISE_CODE),
        dates={
            date: kept[date] if date in kept and date not in progress.made else _source(job, progress, plans[date])
            for date in manifest.dates
        },
        failed={date: failed[date] for date in sorted(failed)},
        dropped=still_dropped(seen.sources, progress.plan),
        cut=cut_account(job.writer.root, seen.dumps, config),
    )
    sources = account.with_settings(sources, config, before.sources if before else None)
    progress.current = job.writer.commit(manifest, sources, before)
    same = before is not None and before.generation == progress.current.generation
    return CommitDone(progress.current.generation, len(manifest.dates), changed=not same)


def _source(job: Job, progress: PreprocessProgress, plan: DatePlan) -> SourceRow:
    """Gives a committed date's row in the sources file: kept, unless its shard was made in this run."""
    made, receipt = progress.made.get(plan.date), progress.measured.get(plan.date)
    return account.source_row(job.writer.root, plan, progress.seen, job.config, made, receipt)
