"""One pass over the dumps of a dataset that measures its statistics. It keeps partial statistics alone, in memory."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dateshard.pipeline.account import no_training_date
from dateshard.pipeline.acts import Measured, merge_dates, partial_of, refuse_changed
from dateshard.pipeline.arrays import stage
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.drop import without_rows
from dateshard.pipeline.execution.node_facts import with_unseen
from dateshard.pipeline.memory_shares import shares
from dateshard.pipeline.planning.observe import AboutNodes, StagedKeys
from dateshard.pipeline.planning.plan import DatePlan, Observed, Plan, Wish, make_plan
from dateshard.pipeline.planning.weights import all_weights, weight_of
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.unobserved import refuse_nothing_observed
from dateshard.pipeline.workers.engine import Again
from dateshard.pipeline.workers.pool import Workers
from dateshard.shardstore.errors import DateshardError, FailedDatesError, NoRowsError
from dateshard.shardstore.frozen import NO_NODES, Frozen
from dateshard.shardstore.scaling.partials import PartialStatistics
from dateshard.shardstore.times.calendar import collapse


@dataclass(frozen=True, slots=True, kw_only=True)
class PassedDate:
    """What the pass keeps of a date: `measured`, its partial statistics, and its own nodes and categories."""

    measured: Measured
    partial: PartialStatistics
    nodes: tuple[str, ...]
    vocabularies: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """What a pass gives: what is frozen, the plan of the dates that have rows, and what that plan looked at."""

    frozen: Frozen
    plan: Plan
    seen: Observed


@dataclass(slots=True, kw_only=True)
class _Pass:
    """How far the pass has come: what is planned now, and what became of each date."""

    seen: Observed
    plan: Plan
    dates: dict[dt.date, PassedDate] = field(default_factory=dict)
    dropped: dict[dt.date, DateshardError] = field(default_factory=dict)
    failed: dict[dt.date, DateshardError] = field(default_factory=dict)


def measuring_pass(
    config: Pipeline, folder: Path, seen: Observed, about: AboutNodes, num_workers: int | None
) -> Passed:
    """Measures every dump as preprocess does, and merges the statistics of the training dates to the same bits.

    Memory: the partial statistics of all dates, 48 bytes a node and feature each, and one date in each process.

    Args:
        folder: for records of a date that do not fit into memory.
        seen: the dumps of all dates; nothing of the dataset is committed.

    Raises:
        FailedDatesError: dumps that cannot be used; `.failed` says why.
        DumpError: no training date, or nothing observed on any.
    """
    seen = replace(seen, staged=StagedKeys(folder))  # none, whatever a preprocess that was cut off left
    progress = _Pass(seen=seen, plan=make_plan(config, seen, Wish()))
    dates = [plan.date for plan in progress.plan.to_measure]
    largest = max((seen.dumps[date].size for date in dates), default=0)
    num_nodes = len(about.nodes.names) if about.nodes else 0
    most, memory = shares(dates, dates, config, num_workers, None, num_nodes, largest)
    with Workers(most) as workers:
        while _pass_over(progress, config, folder, memory, workers):
            progress.plan = _planned(progress, config, folder)
    if progress.failed:
        raise _failed(progress.failed)
    return Passed(frozen=_merged(progress, config, about), plan=progress.plan, seen=progress.seen)


def pass_over_date(
    dump: Dump, plan: DatePlan, config: Pipeline, nodes: tuple[str, ...] | None, memory_bytes: int, folder: Path
) -> PassedDate:
    """Decodes one dump, and keeps its partial statistics alone.

    Raises:
        DumpError: as preprocess.
    """
    staged = stage(dump, plan.date, config, nodes, memory_bytes, folder / f"records-{plan.date}")
    refuse_changed(dump, plan.date, config, staged.hashes)
    partial = partial_of(staged.values_TNF, plan.date, staged.beside, config, staged.nodes)
    assert partial is not None, "dates are divided, and not cuts"
    weight = weight_of(staged.values_TNF, staged.rows, config)
    measured = Measured(date=plan.date, key=plan.key, rows=dict(staged.rows), weight=weight)
    return PassedDate(measured=measured, partial=partial, nodes=staged.nodes, vocabularies=staged.vocabularies)


def _pass_over(progress: _Pass, config: Pipeline, folder: Path, memory_bytes: int, workers: Workers) -> bool:
    """Measures what is planned and was not measured yet; returns whether there was anything."""
    done, names = {*progress.dates, *progress.dropped, *progress.failed}, progress.seen.node_names
    due = [plan for plan in progress.plan.to_measure if plan.date not in done]
    tasks = [
        (plan.date, pass_over_date, (progress.seen.dumps[plan.date], plan, config, names, memory_bytes, folder))
        for plan in due
    ]
    for date, result in workers.run(tasks):
        if isinstance(result, PassedDate):
            progress.dates[date] = result
        elif isinstance(result, NoRowsError) and config.source.empty_date == "drop":
            progress.dropped[date] = result
        elif not isinstance(result, Again):
            progress.failed[date] = result
    return bool(due)


def _planned(progress: _Pass, config: Pipeline, folder: Path) -> Plan:
    """The plan without the dates that have no row, whose split rests on what the others hold."""
    measured = {date: passed.measured for date, passed in progress.dates.items()}
    weights = all_weights(progress.plan, progress.seen, measured, config, folder)
    keys = {plan.date: plan.key for plan in progress.plan.dates if plan.date in progress.dropped}
    progress.seen = without_rows(replace(progress.seen, weights=weights), keys, config, folder, None)
    return make_plan(config, progress.seen, Wish())


def _merged(progress: _Pass, config: Pipeline, about: AboutNodes) -> Frozen:
    plan, passed = progress.plan, progress.dates
    training = sorted(date for date in passed if plan.training(date))
    if not training:
        first = next(iter(progress.dropped.values()), None)
        raise no_training_date(first) from first
    frozen = merge_dates(
        training,
        lambda date: passed[date].nodes,
        lambda date: passed[date].partial,
        lambda date: passed[date].vocabularies,
        config,
        about,
    )
    measured = {date: each.measured for date, each in passed.items()}
    refuse_nothing_observed(config, frozen.statistics, progress.seen, measured)
    if not config.keeps_unknown:
        return frozen
    names = (passed[date].nodes for date in sorted(passed))
    return replace(frozen, new_nodes=with_unseen(NO_NODES, names, frozen.nodes, about))


def _failed(failed: Mapping[dt.date, DateshardError]) -> FailedDatesError:
    dates = sorted(failed)
    what = f"{len(dates)} date{'s' * (len(dates) > 1)} cannot be read: {collapse(dates)}"
    todo = f"First: {failed[dates[0]]} Correct it, or leave it out with pipeline.exclude"
    return FailedDatesError(what, todo=todo, failed=dict(failed))
