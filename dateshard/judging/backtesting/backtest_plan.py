"""What a backtest will do: its origins, its folder, and what that costs. Looks only; all refusals are made here."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dateshard.documents.backtesting import BacktestCost
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.planning.plan import Plan, Wish
from dateshard.pipeline.planning.preview import Survey, cost_of, free_bytes, survey
from dateshard.pipeline.planning.rolling_origins import last_date, origin_settings, rolling_origins
from dateshard.places import backtests_folder, shards_folder
from dateshard.preparing.pace import estimate
from dateshard.settings import Settings
from dateshard.shardstore.commands import to_run
from dateshard.shardstore.errors import UsageError
from dateshard.shardstore.identity import identity
from dateshard.shardstore.manifest import Ranges

JUDGED_ON = "test"
DAY = 86_400 * 10**9  # nanoseconds
REFIT = Wish(refit=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One origin; `number` from 1, the oldest. `dates`: how many each split has."""

    number: int
    run: str
    split: Mapping[str, Ranges]
    dates: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class BacktestPlan:
    """A backtest that is possible.

    Attributes:
        folder: its own data folder: a store, runs, its table and page.
        origins: in the order in which they are trained: the newest, which is the configured split, comes first.
        staged: {date: key} of the measured arrays that the dataset's own store may lend.
        seen: the dataset as it stands.
    """

    settings: Settings
    folder: Path
    every: int
    origins: tuple[Origin, ...]
    staged: Mapping[str, str]
    seen: Survey

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name

    def pipeline_at(self, origin: Origin) -> Pipeline:
        """The pipeline's half as an origin needs it."""
        return origin_settings(self.settings.preparing(), origin.split)


def plan_backtest(settings: Settings, count: int, every: int) -> BacktestPlan:
    """The origins of a backtest. The same settings and data give the same folder, so that the same command goes on.

    Raises:
        UsageError: dates are not what is divided, there is no test set, or there are too few dates.
        DumpError: nothing is prepared, and there is no dump.
    """
    config = settings.preparing()
    _refuse_undivided(config)
    root = shards_folder(settings.dataset)
    seen = survey(config, root, Wish())
    if seen.seen.to_cut:
        raise UsageError(f"{seen.seen.to_cut.why}. Origins need its dates", todo=to_run("preprocess", config=True))
    _refuse_no_test(seen.plan)
    known = [date.date for date in seen.plan.dates if date.state != "excluded"]
    splits = rolling_origins(seen.plan.split, known, count, every, _least_dates(settings))
    origins = tuple(_origin(count - back, split, known) for back, split in enumerate(splits))
    end = last_date(splits[0])
    staged = {str(date.date): date.key for date in seen.plan.dates if date.key and date.date <= end}
    name = f"{settings.dataset}-{count}x{every}-{_content_id(settings, splits, staged, seen)[:8]}"
    return BacktestPlan(
        settings=settings,
        folder=backtests_folder() / name,
        every=every,
        origins=origins,
        staged=staged,
        seen=seen,
    )


def _refuse_undivided(config: Pipeline) -> None:
    if config.source.undated:
        what = "the rows have no date: there is no earlier origin to train at"
        raise UsageError(what, todo="Name a column of times (pipeline.source.time) or a path with {date}")
    if config.split is not None and config.split.by is not None:
        what = (
            f"pipeline.split divides values of '{config.split.by}', not dates: there is no earlier origin to train at"
        )
        raise UsageError(what, todo="Divide dates, or judge this split with evaluate")


def _refuse_no_test(plan: Plan) -> None:
    if JUDGED_ON not in plan.split:
        what = "the split has no test dates, and every origin is judged on its own"
        raise UsageError(what, todo="Set pipeline.split.test, for example to last:30")


def _least_dates(settings: Settings) -> int:
    """How many training dates hold one window, if no record is missing."""
    step, window = settings.preparing().step_length, settings.trainer.window
    return -(-(window.steps + window.horizon) * step // DAY) if step else 1


def _origin(number: int, split: Mapping[str, Ranges], known: Sequence[dt.date]) -> Origin:
    dates = {name: sum(low <= date <= high for date in known for low, high in ranges) for name, ranges in split.items()}
    return Origin(number=number, run=f"origin-{split[JUDGED_ON][0][0]}", split=split, dates=dates)


def _content_id(
    settings: Settings, splits: Sequence[Mapping[str, Ranges]], staged: Mapping[str, str], seen: Survey
) -> str:
    """Identifies all that decides the figures: settings, splits, and what the dumps hold."""
    ranges = [{name: [list(map(str, ends)) for ends in of] for name, of in split.items()} for split in splits]
    pipeline = settings.preparing().normalise_settings()
    return identity([pipeline, seen.seen.nodes_id, settings.trainer.model_dump(mode="json"), ranges, dict(staged)])


def cost_of_backtest(plan: BacktestPlan, left: Sequence[Origin], num_workers: int) -> BacktestCost:
    """What the origins that are left cost; dates are measured once for all of them."""
    root = shards_folder(plan.settings.dataset)
    measure, read, dates, written = set[dt.date](), 0, 0, 0
    for origin in left:
        config = plan.pipeline_at(origin)
        needed = survey(config, root, REFIT)
        new = {date.date for date in needed.plan.to_measure} - measure
        once = [replace(date, measure=date.date in new) for date in needed.plan.dates]
        cost = cost_of(replace(needed, plan=replace(needed.plan, dates=tuple(once))), config, root)
        measure |= new
        read, dates = read + cost.read_bytes, dates + len(needed.plan.to_normalise)
        written = -1 if cost.written_bytes is None or written < 0 else written + cost.written_bytes
    time = estimate(plan.settings.dataset, {"measure": read, "normalise": dates}, num_workers)
    return {
        "generations": len(left),
        "dates": dates,
        "measure": len(measure),
        "read_bytes": read,
        "written_bytes": None if written < 0 else written,
        "free_bytes": free_bytes(plan.folder),
        "seconds": None if time is None else time.seconds,
    }
