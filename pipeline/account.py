"""What is written down of a preprocess: rows of the sources file, and the account of all rows at its end."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.plan import DatePlan, Observed, Plan, normalise_identity
from dateshard.pipeline.progress_events import Finished
from dateshard.pipeline.raw.dumps import Dump
from dateshard.pipeline.raw.row_counts import RowCounts, with_columns
from dateshard.pipeline.unobserved import about_unobserved
from dateshard.shardstore.commit import Committed
from dateshard.shardstore.coverage.observed import by_split
from dateshard.shardstore.coverage.spacing import too_short_a_step
from dateshard.shardstore.coverage.split_names import about_cuts_in_no_split
from dateshard.shardstore.errors import DateshardError, DumpError, ResourceError, Where
from dateshard.shardstore.frozen import Frozen
from dateshard.shardstore.layouts.row_buckets import ROW
from dateshard.shardstore.manifest import Manifest
from dateshard.shardstore.measured import load_receipt
from dateshard.shardstore.scaling.statistics import Statistics
from dateshard.shardstore.sources import DumpRow, FailedRow, SourceRow, Sources

if TYPE_CHECKING:
    from dateshard.pipeline.acts import Measured, Normalised
    from dateshard.shardstore.commit import Committed


def dump_row(dump: Dump | None) -> DumpRow:
    """Which bytes a date was made of."""
    return DumpRow(dump.name, dump.size, dump.hash) if dump else DumpRow()


def with_settings(sources: Sources, config: Pipeline, before: Sources | None) -> Sources:
    """Returns the sources with all settings that a dump is encoded by, resolved (not `store`).

    Where nothing else differs they stay those that made the generation: another path or tolerance alone makes no new
    one, nor does a date that fails again with the same dump. Features stand as a list: their order counts, and JSON
    sorts keys."""
    if before and before.settings is not None and _failed_alike(sources, before):
        same = replace(sources, settings=before.settings, failed=before.failed)
        if same == before:
            return same
    settings = config.model_dump(mode="json", exclude={"store"})
    settings["features"] = [[name, feature] for name, feature in settings["features"].items()]
    return replace(sources, settings=settings)


def _failed_alike(sources: Sources, before: Sources) -> bool:
    """Whether the same dates failed, of the same dumps and for the same kind of reason, whatever was tolerated."""
    now, then = ({d: (row.staged, row.dump, row.kind) for d, row in s.failed.items()} for s in (sources, before))
    return now == then


def skeleton(dataset: str, config: Pipeline, frozen: Frozen, plan: Plan, provisional: Collection[dt.date]) -> Manifest:
    """The next manifest without its dates.

    Args:
        config: with the names of cuts in place of fractions, where cuts are divided.
    """
    nodes, statistics, vocabularies = frozen.nodes, frozen.statistics.id, frozen.vocabularies.id
    return Manifest(
        dataset=dataset,
        timezone=config.source.timezone,
        step=config.step_length,
        layout=config.layout,
        cut=config.cut,
        cut_column=config.layout == "table" and config.source.cut == ROW,
        features=config.feature_specs(),
        nodes=nodes.id,
        num_nodes=len(nodes.names),
        statistics=statistics,
        vocabularies=vocabularies,
        normalise=normalise_identity(config.normalise_settings(), statistics, nodes.id, vocabularies),
        split=dict(plan.split),
        split_cuts=config.cuts_by_split,
        provisional=tuple(sorted(provisional)),
    )


def provisional(plan: Plan, failed: Collection[dt.date], current: Committed | None, seen: Observed) -> set[dt.date]:
    """Training dates that the statistics lack, because they failed."""
    if plan.merge:
        return {date for date in failed if plan.training(date)}
    return {date for date in current.manifest.provisional if date in seen.dumps} if current else set()


def no_training_date(first: DateshardError | None) -> DumpError:
    """Makes the error of a dataset without statistics; `first`: why a date could not be measured."""
    lacking = isinstance(first, ResourceError)  # memory, disk: nothing is wrong with the dumps
    mend = "Give it what it lacks, as said above" if lacking else "Correct the dumps as said above"
    todo = f"{mend}, and run the command again" if first else "Check pipeline.split.train against the dumps"
    return DumpError("no training date could be measured, so there are no statistics", todo=todo)


def left_behind(date: dt.date) -> DumpError:
    """Makes the error of a committed date that cannot follow to another scale."""
    what = "the date leaves the dataset: its dump is gone, and it was not measured with these settings"
    return DumpError(what, where=Where(date=date), todo="Put its dump back and run the command again")


def failure_row(error: DateshardError, key: str, dump: Dump | None, tolerated: str) -> FailedRow:
    """Why a date failed, and under which tolerance: when either changes, it is tried again.

    Where the machine failed the date, and not its dump, no tolerance is that one: whenever it is measured, it is mended.
    """
    tolerated = "" if isinstance(error, ResourceError) else tolerated
    return FailedRow(staged=key, what=str(error), kind=error.kind, dump=dump_row(dump), tolerated=tolerated)


def failures(
    seen: Observed, plans: Mapping[dt.date, DatePlan], config: Pipeline, failed: Mapping[dt.date, DateshardError]
) -> dict[dt.date, FailedRow]:
    """Failures of this run, and older ones whose date was not tried again."""
    kept = {}
    for date, failure in seen.sources.failed.items():
        plan = plans.get(date)
        over = plan is None or plan.state in ("excluded", "fresh") or plan.measure or plan.normalise
        if date in seen.dumps and not over:
            kept[date] = failure
    tolerated = config.source.tolerated()
    new = {date: failure_row(error, plans[date].key, seen.dumps.get(date), tolerated) for date, error in failed.items()}
    return kept | new


def source_row(
    root: Path, plan: DatePlan, seen: Observed, config: Pipeline, made: Normalised | None, receipt: Measured | None
) -> SourceRow:
    """A committed date's row in the sources file: the one it had, unless its shard was `made` in this run."""
    known = seen.sources.dates.get(plan.date, SourceRow(staged=plan.key))
    if made is None:
        return known
    if plan.date not in seen.dumps:
        return known._replace(observed=made.observed, weight=made.weight)
    rows = receipt.rows if receipt else load_receipt(root / "staged" / str(plan.date) / plan.key)["rows"]
    return SourceRow(
        staged=plan.key,
        measure=config.measure_identity(seen.node_names),
        dump=dump_row(seen.dumps[plan.date]),
        rows=dict(rows),
        observed=made.observed,
        weight=made.weight,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """What a preprocess did, beside the receipts of its dates. `changed`: shards that are others than before."""

    plan: Plan
    failed: Mapping[dt.date, DateshardError]
    dropped: Mapping[dt.date, DateshardError]
    cut_rows: RowCounts | None
    seconds: float
    changed: int
    stored: int
    cut_short: bool


def finished(
    root: Path,
    current: Committed | None,
    statistics: Statistics | None,
    measured: Mapping[dt.date, Measured],
    made: Mapping[dt.date, Normalised],
    end: End,
) -> Finished:
    """The last event: what was done, which names nobody knows, what was observed.

    Args:
        statistics: those that the dates are scaled by; None where it ended before it had them.
    """
    strangers = {date: receipt.unknown_nodes for date, receipt in measured.items() if receipt.unknown_nodes.count}
    strangers |= {date: receipt.unknown_nodes for date, receipt in made.items() if receipt.unknown_nodes.count}
    by_date = {date: with_columns(receipt.rows, receipt.conflicts) for date, receipt in measured.items()}
    return Finished(
        plan=end.plan,
        generation=current.generation if current else None,
        manifest=current.manifest if current else None,
        measured=len(measured),
        written=end.changed,
        unchanged=len(made) - end.changed,
        failed=end.failed,
        rows=total(by_date, end.cut_rows),
        seconds=end.seconds,
        unknown_nodes=strangers,
        unknown_categories={d: receipt.unknown_categories for d, receipt in made.items() if receipt.unknown_categories},
        stored=end.stored,
        cut_short=end.cut_short,
        dropped=end.dropped,
        observed=by_split(current.manifest, current.sources.dates) if current else {},
        short_step=_short_step(root, current) if current else "",
        cuts_in_no_split=about_cuts_in_no_split(root, current.generation, current.manifest) if current else "",
        empty=tuple(sorted(date for date, receipt in made.items() if not any(receipt.observed))),
        unobserved=about_unobserved(current, statistics) if current else (),
    )


def _short_step(root: Path, current: Committed) -> str:
    return too_short_a_step(root, current.generation, current.manifest, current.sources.dates)


def total(rows_by_date: Mapping[dt.date, Mapping[str, Any]], cut: RowCounts | None = None) -> dict[str, Any]:
    """Returns {read, accepted, rejected: {reason: rows}, changed: {reason: values}, by_date} over all dates.

    Args:
        cut: of the file of many dates that was cut before: rows that it left out belong to no date. Adds `cut`.
    """
    rows: dict[str, Any] = {"read": 0, "accepted": 0, "rejected": {}, "changed": {}}
    outside = [{**asdict(cut), "read": cut.read - cut.accepted, "accepted": 0}] if cut else []
    for row_counts in [*rows_by_date.values(), *outside]:
        rows["read"] += row_counts["read"]
        rows["accepted"] += row_counts["accepted"]
        for kind in ("rejected", "changed"):
            for reason, count in row_counts[kind].items():
                rows[kind][reason] = rows[kind].get(reason, 0) + count
    rows |= {"cut": asdict(cut)} if cut else {}
    return rows | {"by_date": {str(date): dict(row_counts) for date, row_counts in sorted(rows_by_date.items())}}
