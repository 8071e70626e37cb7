"""A forecast of the steps after raw dumps, or after committed dates, with intervals: both stages composed.

Legend: H history steps, W steps of the window, P target steps, N nodes, F features, T targets that are numbers.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dateshard.judging.forecast_table import Made, frame_of
from dateshard.judging.judge import newest_run
from dateshard.judging.silent_nodes import known_targets, silence, silent_nodes, some_names
from dateshard.judging.verdict import Verdict, kept
from dateshard.pipeline.account import total
from dateshard.pipeline.config import Pipeline
from dateshard.pipeline.generation_settings import refuse_other_settings, settings_of, table_of, target_of
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.pipeline.recent import RecentRows, RecentSteps, raw_files, read_history
from dateshard.places import runs_folder, shards_folder
from dateshard.shardstore.commands import by_door, command, to_run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, UsageError, Where
from dateshard.shardstore.layouts.encode import last_record
from dateshard.shardstore.times.calendar import Day, collapse, time_codes
from dateshard.shardstore.times.instants import neighbour, parse_instant, rows_after, rows_before, spell, step_before
from dateshard.terminal.screen import counted
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment.forecaster import Forecaster, load_forecaster
from dateshard.trainer.assessment.intervals import Intervals
from dateshard.trainer.assessment.intervals_file import intervals_of
from dateshard.trainer.binding import data_identity
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.save_dir import refuse_absent
from dateshard.trainer.runs.start import locate
from dateshard.trust import check_trust, code_of, settings_of_run

if TYPE_CHECKING:
    import polars


LATEST = "latest"  # the newest run; the end of what is prepared


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What is to be forecast, and by which weights.

    Attributes:
        history: dumps: files, folders, or patterns with `{date}`. until: the first instant that is not known yet.
        at: instead of both: the first instant after committed steps that are the history; `latest`: after all of them,
            as where neither dumps nor this are given.
        interval: the share of targets that are to lie between low and high; None for no interval.
        pipeline: how dumps are read; None: as the generation keeps it.
        bounds: of features, instead of those of the run (`trainer.bounds`); None: the run's.
        trust: the code that the run and the dataset name may be imported.
    """

    run: str
    history: tuple[str, ...] = ()
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
        silent: {target: nodes of which no value of it is in the history}.
        seconds: of the history, of intervals, and of all.
    """

    run: str
    saved: Checkpoint
    which: str
    dataset: Dataset
    forecaster: Forecaster
    history: RecentSteps
    from_dumps: bool
    intervals: Intervals | None
    level: float | None
    verdict: Verdict | None
    frame: polars.DataFrame
    silent: dict[str, list[str]]
    notes: list[str]
    seconds: dict[str, float]

    @property
    def first(self) -> str:
        """The first instant that is forecast, in the dataset's zone."""
        return spell(_targets(self.forecaster, self.history)[0][0], self.dataset.manifest.timezone)


def predict(
    run: str,
    history: str | Sequence[str] = (),
    *,
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
    names = (history,) if isinstance(history, str) else tuple(history)
    return predict_run(
        PredictRequest(
            run=run, history=names, until=until, at=at, checkpoint=checkpoint, interval=interval, trust=trust
        )
    ).frame


def predict_run(asked: PredictRequest) -> Prediction:
    """Makes one forecast of a run.

    Memory: the model, the window, one date as in preparing; with intervals that are not kept yet those of
    `dateshard.trainer.assessment.intervals.calibrate`.
    """
    began = time.perf_counter()
    run, which = _run_of(asked)
    settings = settings_of_run(run, trust=asked.trust)
    refuse_absent(run.folder)
    saved, passed = checkpoint.find(run.checkpoints, which)
    dataset = Dataset.open(shards_folder(settings.dataset), saved.state["bound"]["data"]["generation"])
    if not dataset.manifest.step:
        what = (
            f"predict forecasts the steps that come after a grid, and dataset {dataset.manifest.dataset} is of records"
        )
        judge = to_run("evaluate", run.name)
        raise UsageError(
            what, where=Where(file=str(dataset.root)), todo=f"Judge the model on the records it held out. {judge}"
        )
    notes = [f"passed over: {note}" for note in passed]
    if data_identity(dataset)["id"] != saved.state["bound"]["data"]["id"]:
        notes.append("the store was made anew since: this is not the data that the run was trained on")
    given = {} if asked.bounds is None else {"bounds": dict(asked.bounds)}
    forecaster = load_forecaster(settings.trainer.model_copy(update=given), dataset, saved)
    history = _history(asked, dataset, forecaster)
    decoded = time.perf_counter()
    scaled, chances = forecaster.of_window(history.values_HNF, _codes(forecaster, history), history.observed_HNF)
    intervals, note = None, ""
    if asked.interval is not None and forecaster.numbers:
        intervals, note = intervals_of(forecaster, saved, asked.interval, run.folder)
    calibrated = time.perf_counter()
    made = Made(
        forecaster=forecaster,
        steps=_targets(forecaster, history),
        scaled_PNT=scaled,
        chances=chances,
        intervals=intervals,
        known_NK=known_targets(forecaster, history),
    )
    frame = frame_of(made)
    silent = silent_nodes(forecaster, made.known_NK)
    notes += [*_notes(history, asked, dataset), *silence(silent), *([note] if note else [])]
    seconds = {"history": decoded - began, "intervals": calibrated - decoded, "all": time.perf_counter() - began}
    known = [verdict for split in ("validation", "test") if (verdict := kept(run, split, saved)) is not None]
    return Prediction(
        run=run.name,
        saved=saved,
        which=which,
        dataset=dataset,
        forecaster=forecaster,
        history=history,
        from_dumps=bool(asked.history),
        intervals=intervals,
        level=asked.interval,
        verdict=max(known, key=lambda verdict: len(verdict.document["comparisons"]), default=None),  # of most baselines
        frame=frame,
        silent=silent,
        notes=notes,
        seconds=seconds,
    )


def _run_of(asked: PredictRequest) -> tuple[TrainingRun, str]:
    """Returns (run, which of its checkpoints); a checkpoint's folder names both."""
    history, until, at = by_door("--history", "history"), by_door("--until", "until"), by_door("--at", "at")
    if asked.history and asked.at:
        what = "the history of a forecast is either dumps, or what is prepared before an instant"
        raise UsageError(what, todo=f"Give one of {history} and {at}")
    if asked.until and not asked.history:
        raise UsageError(f"{until} is for dumps ({history})", todo=f"Say with {at} where what is prepared ends")
    if asked.run == LATEST:
        return newest_run(None), asked.checkpoint
    run, which = locate(asked.run, runs_folder())
    return run, asked.checkpoint if which == "latest" else which


def _history(asked: PredictRequest, dataset: Dataset, forecaster: Forecaster) -> RecentSteps:
    zone_name = dataset.manifest.timezone
    if not asked.history:
        return _from_shards(asked.at or LATEST, dataset, forecaster.window.history)
    config = asked.pipeline or settings_of(dataset)
    if asked.pipeline is None:
        check_trust(dataset.root, code_of(config), f"dataset {dataset.manifest.dataset}", trust=asked.trust)
    refuse_other_settings(config, dataset)
    until = parse_instant(asked.until, zone_name, end=True) if asked.until else None
    with raw_files(asked.history, config) as raw:
        return read_history(raw, target_of(dataset), table_of(dataset, config), forecaster.window.history, until)


def _from_shards(at: str, dataset: Dataset, num_steps: int) -> RecentSteps:
    """The committed steps before an instant; of the current generation, where that was scaled as the given one was."""
    dataset, manifest = _newest_alike(dataset), dataset.manifest
    if at == LATEST:
        end = _end_of_values(dataset)
    else:
        end = step_before(parse_instant(at, manifest.timezone, end=False), manifest.timezone, manifest.step)
    chosen = rows_before(end, num_steps, manifest.timezone, manifest.step)
    if lacking := [day.date for day, _ in chosen if day.date not in dataset.manifest.dates]:
        what = f"generation {dataset.generation} lacks {collapse(lacking)} of the {num_steps:,} steps before that"
        todo = (
            f"Prepare them: {command('preprocess', config=True)}; or name dumps with {by_door('--history', 'history=')}"
        )
        raise NotThereError(what, where=Where(file=str(dataset.root)), todo=todo)
    shape = (num_steps, manifest.num_nodes, len(manifest.features))
    values, observed, first = np.empty(shape, dtype=np.float32), np.ones(shape, dtype=np.bool_), 0
    for day, rows in chosen:
        stop = first + rows.stop - rows.start
        dataset.read(day.date, rows, values[first:stop])
        dataset.read_observed(day.date, rows, observed[first:stop])
        first = stop
    pieces = tuple(RecentRows(day, rows, {}, None) for day, rows in chosen)
    return RecentSteps(
        values_HNF=values,
        observed_HNF=observed,
        end=end,
        last=None,
        pieces=pieces,
        unknown_nodes=(),
        unknown_categories={},
    )


def _end_of_values(dataset: Dataset) -> int:
    """The first instant after the last step with a value, as of dumps: a date may not be over yet.

    Raises:
        NotThereError: no date has one.
    """
    for day in reversed(dataset.days):
        values, mask = (dataset.map(day.date, array) for array in ("values", "observed"))
        seen = None if mask is None else np.asarray(mask, dtype=np.bool_)
        last = last_record(np.asarray(values, dtype=np.float32), seen, dataset.features, dataset.scale)
        if last is not None:
            return day.start + (last + 1) * day.step
    where, todo = Where(file=str(dataset.root)), f"See: {command('inspect', config=True)}"
    raise NotThereError(f"generation {dataset.generation} has no observed cell", where=where, todo=todo)


def _newest_alike(dataset: Dataset) -> Dataset:
    """The current generation, if a cell means the same there: it may have dates that came after the training."""
    newest = Dataset.open(dataset.root)
    same = newest.manifest.normalise == dataset.manifest.normalise
    return newest if same and newest.manifest.step == dataset.manifest.step else dataset


def _targets(forecaster: Forecaster, history: RecentSteps) -> list[tuple[int, Day, int, int]]:
    """Returns (instant, date, step of that date, horizon) of each target step; with horizon 0 of the history's."""
    window, manifest = forecaster.window, forecaster.dataset.manifest
    first = 1 if window.horizon else 1 - window.history
    spans = [(piece.day, piece.rows) for piece in history.pieces]
    if window.horizon:
        spans = rows_after(history.end, window.horizon, manifest.timezone, manifest.step)
    steps = [(day, row) for day, rows in spans for row in range(rows.start, rows.stop)]
    return [(day.start + row * day.step, day, row, first + number) for number, (day, row) in enumerate(steps)]


def _codes(forecaster: Forecaster, history: RecentSteps) -> NDArray[np.int32]:
    """Returns [W] time codes of the history and of what is forecast."""
    window, manifest = forecaster.window, forecaster.dataset.manifest
    spans = [(piece.day, piece.rows) for piece in history.pieces]
    spans += rows_after(history.end, window.horizon, manifest.timezone, manifest.step)
    return np.concatenate([time_codes(day, manifest.timezone)[rows] for day, rows in spans])


def _option(name: str, value: object) -> str:
    return by_door(f"--{name} {shlex.quote(str(value))}", f"{name}={str(value)!r}")


def account_of(history: RecentSteps) -> dict[str, object]:
    """What became of the rows of its dumps, as preprocess tells it."""
    return total({piece.day.date: piece.account for piece in history.pieces if piece.account})


def _notes(history: RecentSteps, asked: PredictRequest, dataset: Dataset) -> list[str]:
    """What a person should know of the history: where it ends, what was left out of it."""
    notes, day = list[str](), history.pieces[-1].day
    zone_name, step = dataset.manifest.timezone, dataset.manifest.step
    if history.end < day.end and (asked.at == LATEST or not (asked.at or asked.until)):
        begun, over = spell(history.end - step, zone_name), neighbour(day, zone_name, 1).date
        if history.last is not None and history.last >= history.end - step:
            begun = spell(history.last, zone_name)
        until = f"{_option('until', day.date)}: the date is over; {_option('until', begun[:16])}: only steps that ended by then"
        options = until if asked.history else f"{_option('at', over)}: the date is over"
        notes.append(
            f"The last value is of {begun}: its step is taken as complete, and later ones as not known yet ({options})."
        )
    if names := history.unknown_nodes:
        hint = Strangers.of(names, dataset.nodes.names).hint()
        notes.append(f"{counted(len(names), 'node')} that training never saw left out: {some_names(names)}{hint}.")
    for feature, unseen in history.unknown_categories.items():
        most = f"up to {unseen.count} on a date{unseen.hint()}"
        notes.append(f"Categories of '{feature}' that no training date has get code 0: {most}.")
    rows = account_of(history)
    for kind, what in (("rejected", "rows left out"), ("changed", "values changed")):
        counts = rows[kind]
        assert isinstance(counts, dict)
        notes += [f"{count:,} {what}: {reason}." for reason, count in counts.items()]
    return notes
