"""A forecast of the steps after raw dumps, or after committed dates, with intervals: both stages composed.

Legend: H history steps, W steps of the window, P target steps, N nodes, F features, T targets that are numbers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from dateshard.judging.forecast import LATEST, Forecast, without_time
from dateshard.judging.loaded_run import Calibrated, load_run, on_nodes, with_nodes_since
from dateshard.judging.record_forecast import forecast_records
from dateshard.judging.silent_nodes import some_names
from dateshard.judging.step_forecast import forecast_steps, newest_alike, notes_of_end, steps_ahead, steps_of_shards
from dateshard.judging.verdict import Verdict, kept
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.generation_settings import refuse_other_settings, settings_of, table_of, target_of
from dateshard.pipeline.recent.known_ahead import KnownAhead, ahead_of_calendar, ahead_of_dumps, ahead_of_shards
from dateshard.pipeline.recent.raw_files import raw_files
from dateshard.pipeline.recent.recent_records import DumpRecords, ShardRecords, reading
from dateshard.pipeline.recent.recent_steps import read_history
from dateshard.shardstore.commands import by_door, command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import UsageError, Where, counted
from dateshard.shardstore.layouts.feature import CALENDAR
from dateshard.shardstore.times.instants import parse_instant, spell
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.intervals import Intervals
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trust import check_trust, code_of

if TYPE_CHECKING:
    import polars


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What is to be forecast, and by which weights.

    Attributes:
        history: dumps: files, folders, or patterns with `{date}`.
        future: dumps of what comes, for a model that looks at features that are known ahead.
        until: the first instant that is not known yet.
        at: instead of both: the first instant after committed steps that are the history; `latest`: after all of them,
            as where neither dumps nor this are given.
        interval: the share of targets that are to lie between low and high; None for no interval.
        pipeline: how dumps are read; None: as the generation keeps it.
        bounds: of features, instead of those of the run (`trainer.bounds`); None: the run's.
        trust: the code that the run and the dataset name may be imported.
    """

    run: str
    history: tuple[str, ...] = ()
    future: tuple[str, ...] = ()
    until: str | None = None
    at: str | None = None
    checkpoint: str = "best"
    interval: float | None = 0.9
    pipeline: Pipeline | None = None
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None
    trust: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A forecast with all that a person should know of it.

    Attributes:
        verdict: what the last evaluation of these weights found; None where nothing is kept.
        seconds: of the history, of intervals, and of all.
    """

    run: str
    saved: Checkpoint
    which: str
    dataset: Dataset
    forecaster: Forecaster
    from_dumps: bool
    intervals: Intervals | None
    level: float | None
    verdict: Verdict | None
    forecast: Forecast
    notes: list[str]
    seconds: dict[str, float]

    @property
    def frame(self) -> polars.DataFrame:
        """The table in raw units."""
        return self.forecast.frame

    @property
    def first(self) -> str | None:
        """The first instant that is forecast, in the dataset's zone; None where rows have no time."""
        return None if self.forecast.begin is None else spell(self.forecast.begin, self.dataset.manifest.timezone)


def predict(
    run: str,
    history: str | Sequence[str] = (),
    *,
    future: str | Sequence[str] = (),
    until: str | None = None,
    at: str | None = None,
    checkpoint: str = "best",
    interval: float | None = 0.9,
    trust: bool = False,
) -> polars.DataFrame:
    """Returns the table that the command prints: `dateshard.predict("latest", history="data/raw/flights/{date}.csv")`.

    Columns: date, step (of that date, from 0), node, feature, horizon, value, low, high (raw units), time; with a
    categorical target also category and probability, before time.

    Args:
        trust: import the code that the run and the dataset name, though they were made elsewhere; from now on.

    Raises:
        UsageError, DumpError, StoreError: what happened, where, and what to do next.
    """
    names, ahead = ((given,) if isinstance(given, str) else tuple(given) for given in (history, future))
    return predict_run(
        PredictRequest(
            run=run,
            history=names,
            future=ahead,
            until=until,
            at=at,
            checkpoint=checkpoint,
            interval=interval,
            trust=trust,
        )
    ).frame


def predict_run(asked: PredictRequest) -> Prediction:
    """Makes one forecast of a run.

    Memory: the model, the window, one date as in preparing; with intervals that are not kept yet those of
    `dateshard.trainer.assessment.intervals.calibrate`.
    """
    began = time.perf_counter()
    _refuse_contradiction(asked)
    loaded = load_run(asked.run, asked.checkpoint, bounds=asked.bounds, trust=asked.trust)
    dataset, forecaster, saved = loaded.dataset, loaded.forecaster, loaded.saved
    calibrated = Calibrated(loaded, asked.interval)
    forecast = (_of_grid if dataset.manifest.step else _of_records)(asked, dataset, forecaster, calibrated)
    notes = [*loaded.notes, *forecast.notes, *([calibrated.note] if calibrated.note else [])]
    spent = time.perf_counter() - began
    seconds = {"history": spent - calibrated.seconds, "intervals": calibrated.seconds, "all": spent}
    verdicts = (kept(loaded.run, split, saved) for split in ("validation", "test"))
    known = [verdict for verdict in verdicts if verdict is not None]
    return Prediction(
        run=loaded.run.name,
        saved=saved,
        which=loaded.which,
        dataset=dataset,
        forecaster=forecaster,
        from_dumps=bool(asked.history),
        intervals=calibrated.intervals,
        level=asked.interval,
        verdict=max(known, key=lambda verdict: len(verdict.document["comparisons"]), default=None),  # of most baselines
        forecast=forecast,
        notes=notes,
        seconds=seconds,
    )


def _refuse_contradiction(asked: PredictRequest) -> None:
    history, until, at = by_door("--history", "history"), by_door("--until", "until"), by_door("--at", "at")
    if asked.history and asked.at:
        what = "the history of a forecast is either dumps, or prepared dates before an instant"
        raise UsageError(what, todo=f"Give one of {history} and {at}")
    if asked.until and not asked.history:
        raise UsageError(f"{until} is for dumps ({history})", todo=f"Say with {at} where the prepared history ends")


def _of_grid(asked: PredictRequest, dataset: Dataset, forecaster: Forecaster, calibrated: Calibrated) -> Forecast:
    """The forecast of the steps after those of dumps, or of committed dates."""
    if not asked.history:
        since = newest_alike(dataset).nodes.names if dataset.manifest.keeps_unknown else ()
        forecaster = with_nodes_since(calibrated.loaded, since)
        history = steps_of_shards(asked.at or LATEST, forecaster.dataset, forecaster.window.history)
    else:
        config, until = _settings(asked, dataset), _until(asked, dataset)
        with raw_files(asked.history, config) as raw:
            nodes, steps = table_of(dataset, config), forecaster.window.history
            history = read_history(raw, target_of(dataset), nodes, steps, until)
            forecaster = with_nodes_since(calibrated.loaded, history.unknown_nodes)
            if forecaster is not calibrated.loaded.forecaster:  # the same dumps again, with a place for the new nodes
                history = read_history(raw, target_of(forecaster.dataset), nodes, steps, until)
    dataset = forecaster.dataset
    ahead = _known_ahead(asked, dataset, forecaster, history.end) if forecaster.columns.futures else None
    intervals = on_nodes(calibrated.intervals, dataset.manifest.num_nodes)
    forecast = forecast_steps(forecaster, history, intervals, ahead)
    given = bool(asked.until or (asked.at and asked.at != LATEST))
    end = notes_of_end(history, dataset, from_dumps=bool(asked.history), given=given)
    return replace(forecast, notes=[*end, *forecast.notes, *_notes_of_unseen(forecaster, calibrated)])


def _notes_of_unseen(forecaster: Forecaster, calibrated: Calibrated) -> list[str]:
    """Tells which nodes are forecast although training never saw them."""
    manifest = forecaster.dataset.manifest
    if not manifest.num_new_nodes:
        return []
    names = forecaster.dataset.nodes.names[manifest.num_frozen_nodes :]
    what = f"{counted(len(names), 'node')} unseen by training, forecast as an unknown node: {some_names(names)}"
    since = manifest.num_new_nodes - calibrated.loaded.dataset.manifest.num_new_nodes
    bare = f" ({since:,} of them without an interval: the run's own generation does not have them)" if since else ""
    return [f"{what}{bare if calibrated.level is not None else ''}."]


def _known_ahead(asked: PredictRequest, dataset: Dataset, forecaster: Forecaster, end: int) -> KnownAhead:
    """What is known of the steps after a history: of the dumps that were named, or of committed dates."""
    spans, places = steps_ahead(forecaster, end), forecaster.columns.futures
    names = asked.future or asked.history
    if all(dataset.features[place].aggregate == CALENDAR for place in places):
        return ahead_of_calendar(_settings(asked, dataset), dataset.manifest.num_nodes, spans)
    if not names:
        return ahead_of_shards(newest_alike(dataset), places, spans)
    config = _settings(asked, dataset)
    with raw_files(names, reading(config, [dataset.feature_names[place] for place in places])) as raw:
        return ahead_of_dumps(raw, config, target_of(dataset), table_of(dataset, config), spans)


def _of_records(asked: PredictRequest, dataset: Dataset, forecaster: Forecaster, calibrated: Calibrated) -> Forecast:
    """The forecast of the records of dumps, or of those after them; or after committed records."""
    if forecaster.columns.futures:
        what = "the model knows features ahead, and of records that have not come nobody can say when they come"
        raise UsageError(what, todo=f"Judge it on records that have come: {command('evaluate', asked.run)}")
    if asked.history:
        config = _settings(asked, dataset)
        if asked.until and not config.source.time_columns:
            what = f"{by_door('--until', 'until')} is an instant, and the rows of this dataset have no time"
            raise UsageError(what, todo="Leave it out: every row is forecast")
        inputs = [dataset.feature_names[place] for place in forecaster.columns.inputs]
        with raw_files(asked.history, reading(config, inputs)) as raw:
            source = DumpRecords(raw, target_of(dataset), config)
            place = Where(file=asked.history[0])
            forecast = forecast_records(forecaster, source, calibrated.intervals, _until(asked, dataset), place)
        return forecast if config.source.time_columns else without_time(forecast)
    if not forecaster.window.horizon:
        judge = command("evaluate", asked.run)
        what = "the model forecasts the targets of each record (horizon 0), and no records are given"
        todo = f"Name their dumps with {by_door('--history', 'history')}, or evaluate it on the test records: {judge}"
        raise UsageError(what, todo=todo)
    newest = newest_alike(dataset)
    at = None if asked.at in (None, LATEST) else parse_instant(str(asked.at), dataset.manifest.timezone, end=False)
    place = Where(file=str(dataset.root))
    return forecast_records(forecaster, ShardRecords(newest), calibrated.intervals, at, place)


def _settings(asked: PredictRequest, dataset: Dataset) -> Pipeline:
    """How dumps are read: as the generation's were."""
    config = asked.pipeline or settings_of(dataset)
    if asked.pipeline is None:
        check_trust(dataset.root, code_of(config), f"dataset {dataset.manifest.dataset}", trust=asked.trust)
    refuse_other_settings(config, dataset)
    return config


def _until(asked: PredictRequest, dataset: Dataset) -> int | None:
    return parse_instant(asked.until, dataset.manifest.timezone, end=True) if asked.until else None
