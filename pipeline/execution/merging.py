"""Merges what the training dates measured into the statistics that all dates are scaled by."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from dateshard.pipeline import account
from dateshard.pipeline.acts import cut_names, merge_statistics, take_partial, why_lost
from dateshard.pipeline.execution.job import Job, PreprocessProgress, fail, training_keys
from dateshard.pipeline.execution.measuring import measure
from dateshard.pipeline.planning.plan import split_settings
from dateshard.pipeline.progress_events import Drifted, Event, Merged, PassedOver
from dateshard.pipeline.splits import resolve_cuts
from dateshard.pipeline.unobserved import refuse_nothing_observed
from dateshard.pipeline.workers.engine import Again
from dateshard.shardstore.errors import DamagedError, StoreError
from dateshard.shardstore.frozen import Frozen, load_statistics, save_frozen
from dateshard.shardstore.scaling.statistics import Statistics, drift


def merge(job: Job, progress: PreprocessProgress) -> Generator[Event, None, tuple[Frozen, Merged]]:
    """Merges; a staged date that turns out damaged is measured again first. Returns what is frozen, and the event."""
    root = job.writer.root
    with job.workers.stop.at_once():
        _name_cuts(job, progress)
    yield from _find_lost(job, progress)
    keys = training_keys(progress)
    if not keys:
        first = next(iter([*progress.failed.values(), *progress.dropped.values()]), None)
        raise account.no_training_date(first) from first
    with job.workers.stop.at_once():
        frozen = merge_statistics(root, keys, progress.named, job.about)
    refuse_nothing_observed(job.config, statistics := frozen.statistics, progress.seen, progress.measured)
    moved: tuple[dict[str, Any], ...] = ()
    if (
        (old := job.old)
        and old.statistics != statistics.id
        and tuple(f.name for f in old.features) == statistics.features
    ):
        with suppress(StoreError):  # damaged: they are being replaced
            moved = tuple(drift(load_statistics(root, old.statistics), statistics))
    job.writer.published(save_frozen(root, frozen))
    return frozen, Merged(statistics.id, len(keys), moved)


def _name_cuts(job: Job, progress: PreprocessProgress) -> None:
    """Resolves which cuts are of which split; fractions are resolved once, and again for --resplit."""
    split, old = job.config.split, progress.current.manifest if progress.current else None
    if split is None or split.by is None or job.config.by_row or not (keys := training_keys(progress)):
        return
    same = old is not None and progress.seen.sources.split == split_settings(job.config)
    if old is not None and old.split_cuts and same and not job.wish.resplit:
        progress.named = job.config.with_cuts(old.split_cuts)
        return
    progress.named = job.config.with_cuts(resolve_cuts(split, cut_names(job.writer.root, keys)))


def _find_lost(job: Job, progress: PreprocessProgress) -> Iterator[Event]:
    """Takes lost partial statistics again from the staged array.

    Lost are those that are gone, damaged or of another transform; a staged array that is damaged too is measured again
    from its dump."""
    lost = {}
    for date, key in training_keys(progress).items():
        if error := why_lost(job.writer.root, date, key, progress.named):
            lost[date] = key
            if isinstance(error, DamagedError):
                yield PassedOver(date, error)
    tasks = [(date, take_partial, (job.writer.root, date, key, progress.named)) for date, key in lost.items()]
    again = {}
    for date, result in job.workers.run(tasks):
        if isinstance(result, Path):
            job.writer.published([result])
        elif isinstance(result, StoreError) and date in progress.seen.dumps:
            again[date] = lost[date]
        elif not isinstance(result, Again):
            yield from fail(job, progress, "measure", date, result)
    yield from measure(job, progress, again)


def report_drift(job: Job, progress: PreprocessProgress, frozen: Statistics) -> Iterator[Event]:
    """Tells how far the frozen statistics stand from what is measured now, if a training date was measured again."""
    if not any(progress.plan.training(date) for date in progress.measured):
        return
    keys = training_keys(progress)
    try:
        fresh = merge_statistics(job.writer.root, keys, progress.named, job.about).statistics
    except StoreError:
        return  # only a report: the damaged array is named when something needs it
    if all(date in keys for date in progress.plans.keys() - progress.excluded if progress.plan.training(date)):
        refuse_nothing_observed(job.config, fresh, progress.seen, progress.measured)
    if fresh.features == frozen.features and fresh.sources != frozen.sources:
        yield Drifted(tuple(drift(frozen, fresh)))
