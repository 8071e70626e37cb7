"""Carries out a plan: a generator of events. One lock, many dates, grouped commits; failures are kept per date."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from dateshard.pipeline import account
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.execution.engines import EngineRequest, engine_for
from dateshard.pipeline.execution.hashing import hashing_ahead
from dateshard.pipeline.execution.job import FailedFastError, Job, PreprocessProgress
from dateshard.pipeline.execution.measuring import measure_all
from dateshard.pipeline.execution.merging import merge, report_drift
from dateshard.pipeline.execution.node_facts import find_new_nodes, with_node_facts
from dateshard.pipeline.execution.normalising import commit, normalise
from dateshard.pipeline.memory_shares import give_back_at_once
from dateshard.pipeline.planning.observe import observe, uncut, write_cache
from dateshard.pipeline.planning.plan import Plan, Wish, make_plan, refuse_no_match, refuse_unknown
from dateshard.pipeline.progress_events import CutDone, Cutting, Event, Finished, Planned
from dateshard.pipeline.raw.dumps import one_table
from dateshard.pipeline.workers.stopping import Stop
from dateshard.shardstore.commit import Committed, StoreWriter
from dateshard.shardstore.frozen import load_frozen, save_nodes
from dateshard.shardstore.identity import nothing_to_collect

if TYPE_CHECKING:
    from dateshard.pipeline.workers.dask_client import Cluster


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
    cluster: Cluster | None = None,
) -> Generator[Event, None, None]:
    """Measures, merges, normalises and commits what the plan says. One file of many dates is cut first.

    Whatever happens, `Finished` comes last and what was committed stays. A killed run loses nothing that was
    measured: the next plan finds it.

    Args:
        num_workers: processes at most; None for one a core, as far as memory reaches.
        memory_bytes: what all of them and this one may use together; None for most of what is free now.
        fail_fast: end at the first date that fails; nothing is committed after it.
        stop: to be asked for a stop.
        cluster: whose workers measure and normalise, in place of processes of this machine.

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
            ahead = None if cluster else hashing_ahead(num_workers, start=memory_bytes is None)
            seen, about, cache = observe(config, root, current, ahead)
            plan = make_plan(config, seen, wish)
        if current is None:
            refuse_no_match(seen)
        write_cache(root, cache)
        refuse_unknown(plan, wish, seen, config.source.path)
        yield Planned(plan, current.generation if current else None, tuple(notes))
        asked = EngineRequest(num_workers=num_workers, memory_bytes=memory_bytes, stop=stop, cluster=cluster)
        with engine_for(asked, config, root, plan, seen) as (workers, share):
            job = Job(
                dataset=dataset,
                config=config,
                writer=writer,
                old=current.manifest if current else None,
                about=about,
                wish=wish,
                workers=workers,
                worker_bytes=share,
                cut_rows=done.rows if done else None,
                fail_fast=fail_fast,
                began=time.monotonic(),
            )
            named = _named(config, current, plan)
            yield from _carry_out(job, PreprocessProgress(seen=seen, plan=plan, named=named, current=current))


def _named(config: Pipeline, current: Committed | None, plan: Plan) -> Pipeline:
    """Gives the configuration with the names of the cuts of the current generation, where they stay."""
    known = current.manifest.split_cuts if current and not plan.merge and not config.by_row else {}
    return config.with_cuts(known) if known else config


def _carry_out(job: Job, progress: PreprocessProgress) -> Iterator[Event]:
    try:
        yield from _prepare(job, progress)
    except FailedFastError:
        job.workers.end()
        job.writer.sweep()
        yield _finished(job, progress, cut_short=True)


def _prepare(job: Job, progress: PreprocessProgress) -> Iterator[Event]:
    yield from measure_all(job, progress)
    if progress.plan.merge:
        frozen, merged = yield from merge(job, progress)
        yield merged
    elif progress.current:
        old = progress.current.manifest
        frozen = load_frozen(job.writer.root, old.statistics, job.about.nodes or old.nodes, old.vocabularies)
        job.writer.published([save_nodes(job.writer.root, frozen.nodes)])  # of a table: the present positions
        yield from report_drift(job, progress, frozen.statistics)
    progress.statistics = frozen.statistics
    lacking = account.provisional(progress.plan, progress.failed, progress.current, progress.seen) - progress.excluded
    skeleton = account.skeleton(job.dataset, progress.named, frozen, progress.plan, lacking)
    frozen = replace(frozen, new_nodes=find_new_nodes(job, progress, frozen, skeleton.normalise))
    manifest = with_node_facts(skeleton, job.writer, job.config, job.about, frozen)
    yield from normalise(job, progress, manifest, frozen)
    yield commit(job, progress, manifest)
    yield _finished(job, progress)


def _finished(job: Job, progress: PreprocessProgress, *, cut_short: bool = False) -> Finished:
    before = job.old.dates if job.old else {}
    changed = sum(1 for date, made in progress.made.items() if before.get(date) != made.entry)
    end = account.End(
        plan=progress.plan,
        failed=progress.failed,
        dropped=progress.dropped,
        cut_rows=job.cut_rows,
        seconds=time.monotonic() - job.began,
        changed=changed,
        stored=progress.stored,
        cut_short=cut_short,
    )
    return account.finished(
        job.writer.root, progress.current, progress.statistics, progress.measured, progress.made, end
    )
