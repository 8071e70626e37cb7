"""Measures the dates of a plan, and plans again where they turn out to be empty."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import replace

from dateshard.pipeline.acts import Measured, measure_date
from dateshard.pipeline.drop import without_rows
from dateshard.pipeline.execution.job import Job, PreprocessProgress, fail
from dateshard.pipeline.execution.measuring_parts import measure_in_parts
from dateshard.pipeline.planning.plan import make_plan
from dateshard.pipeline.planning.weights import all_weights
from dateshard.pipeline.progress_events import Began, DateAgain, DateDone, Event, Noted
from dateshard.pipeline.raw.cut_index import spilled
from dateshard.pipeline.workers.engine import Again, Task


def measure_all(job: Job, progress: PreprocessProgress) -> Iterator[Event]:
    """Measures what the plan says.

    Where dates turn out to have no row, or to be almost empty, the rest is planned without them: the split moves, and
    other dates may be training dates."""
    while True:
        known, done = set(progress.dropped), {*progress.measured, *progress.failed}
        due = {plan.date: plan.key for plan in progress.plan.to_measure if plan.date not in done}
        yield from measure(job, progress, due)
        plans = progress.plans
        keys = {date: plans[date].key for date in progress.dropped if date not in known}
        weights = all_weights(progress.plan, progress.seen, progress.measured, job.config, job.writer.root)
        if not keys and weights == progress.seen.weights:
            return
        progress.seen = replace(progress.seen, weights=weights)
        if keys:
            progress.seen = without_rows(progress.seen, keys, job.config, job.writer.root, progress.current)
        before = progress.plan.remarks
        progress.plan = make_plan(job.config, progress.seen, job.wish)
        yield from (Noted(remark) for remark in progress.plan.remarks if remark not in before)


def measure(job: Job, progress: PreprocessProgress, keys: Mapping[dt.date, str]) -> Iterator[Event]:
    """Measures these dates, each under its staged key. Several workers begin with the largest dumps: they end together."""
    names, tasks = progress.seen.node_names, list[Task]()
    config = spilled(progress.named) if job.config.source.cut_first else progress.named
    dates = keys if job.workers.num_workers == 1 else sorted(keys, key=lambda date: -progress.seen.dumps[date].size)
    for date in dates:
        key = keys[date]
        arguments = (job.writer.root, progress.seen.dumps[date], date, key, config, names, job.worker_bytes)
        act = measure_date if config.store.nodes_per_part is None else measure_in_parts
        tasks.append((date, act, arguments))
    if tasks:
        yield Began("measure", len(tasks), job.workers.num_workers)
    for date, result in job.workers.run(tasks):
        if isinstance(result, Measured):
            progress.measured[date] = result
            job.writer.published(result.folders)
            yield DateDone(act="measure", date=date, rows=result.rows, size=progress.seen.dumps[date].size)
        elif isinstance(result, Again):
            yield DateAgain("measure", date, result.why)
        else:
            yield from fail(job, progress, "measure", date, result)
