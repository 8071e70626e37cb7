"""A forecast of the steps of a grid: those after raw dumps, or after committed dates.

Legend: H history steps, W steps of the window, P target steps, N nodes, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from dateshard.judging.forecast import LATEST, Forecast, KnownHistory, notes_of_dumps, option
from dateshard.judging.forecast_table import Made, frame_of, of_steps
from dateshard.judging.silent_nodes import known_targets, silence, silent_nodes, some_names
from dateshard.pipeline.account import total
from dateshard.pipeline.raw.strangers import Strangers
from dateshard.pipeline.recent.dates_from_dumps import DumpDataset, open_newest
from dateshard.pipeline.recent.known_ahead import KnownAhead, unobserved
from dateshard.pipeline.recent.recent_steps import RecentRows, RecentSteps
from dateshard.shardstore.commands import by_door, command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, Where, counted
from dateshard.shardstore.layouts.encode import last_record
from dateshard.shardstore.times.calendar import Day, collapse, time_codes
from dateshard.shardstore.times.instants import neighbour, parse_instant, rows_after, rows_before, spell, step_before
from dateshard.trainer.assessment.forecaster import Forecaster
from dateshard.trainer.assessment.intervals import Intervals, target_hours

TargetStep = tuple[int, Day, int, int]  # a target step: (instant, date, step of that date, horizon)


def forecast_steps(
    forecaster: Forecaster, history: RecentSteps, intervals: Intervals | None, ahead: KnownAhead | None = None
) -> Forecast:
    """The forecast of one window: of the steps after its history, or with horizon 0 of the history's own.

    Args:
        ahead: what is known of these steps, of a model that looks at it.
    """
    steps, known_NK = targets_of(forecaster, history), known_targets(forecaster, history.observed_HNF.max(axis=0))
    made = make_forecast(forecaster, history, steps, known_NK, intervals, ahead)
    silent = silent_nodes(forecaster, known_NK)
    known = _known(history, forecaster.dataset, silent)
    return Forecast(
        frame=frame_of(made, of_steps(steps, forecaster.dataset.nodes.names)),
        history=known,
        begin=steps[0][0],
        num_steps=len(steps),
        notes=_notes(known, silent, forecaster.dataset)
        + _notes_ahead(forecaster, ahead, intervals=intervals is not None),
        window=history,
    )


def make_forecast(
    forecaster: Forecaster,
    history: RecentSteps,
    steps: Sequence[TargetStep],
    known_NK: NDArray[np.bool_],
    intervals: Intervals | None,
    ahead: KnownAhead | None = None,
) -> Made:
    """Asks the model for the forecast of one window.

    Args:
        steps, known_NK: what `targets_of` and `known_targets` give of the history.
        ahead: what is known of these steps, of a model that looks at it.
    """
    future, codes_W = None if ahead is None else ahead.values_PNF[None], codes_of(forecaster, history)
    outputs = forecaster.outputs_of(history.values_HNF[None], codes_W[None], history.observed_HNF[None], future)
    outputs = {name: tensor[0] for name, tensor in outputs.items()}
    hours_P = target_hours(forecaster, torch.from_numpy(codes_W)[None])[0]
    return Made(
        forecaster=forecaster,
        horizon_P=[horizon for *_, horizon in steps],
        instant_P=[instant for instant, *_ in steps],
        scaled_PNT=forecaster.numbers_in(outputs),
        quantiles_PNTQ=forecaster.quantiles_in(outputs),
        chances=forecaster.chances(outputs),
        reach_2PNT=None if intervals is None else intervals.now.at(hours_P),
        known_PNK=np.broadcast_to(known_NK, (len(steps), *known_NK.shape)),
    )


def _known(history: RecentSteps, dataset: Dataset, silent: dict[str, list[str]]) -> KnownHistory:
    accounts = {piece.day.date: piece.account for piece in history.pieces if piece.account}
    first = history.pieces[0]
    return KnownHistory(
        begin=first.day.start + first.rows.start * dataset.manifest.step,
        end=history.end,
        num_steps=len(history.values_HNF),
        dates=tuple(piece.day.date for piece in history.pieces),
        last=history.last,
        observed=float(history.observed_HNF.mean()),
        rows=total(accounts),
        silent_nodes=silent,
        unknown_nodes=history.unknown_nodes,
        unknown_categories=history.unknown_categories,
    )


def steps_of_shards(at: str, dataset: Dataset, num_steps: int) -> RecentSteps:
    """The committed steps before an instant; of the current generation, where that was scaled as the given one was."""
    dataset, manifest = newest_alike(dataset), dataset.manifest
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
    shape = (num_steps, dataset.manifest.num_nodes, len(manifest.features))
    values, observed = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.bool_)
    dataset.read_rows(chosen, values, observed)
    values, observed = values[:, : manifest.num_nodes], observed[:, : manifest.num_nodes]  # newer nodes come last
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


def newest_alike(dataset: Dataset) -> Dataset:
    """The current generation, if a cell means the same there: it may have dates that came after the training.

    Of a run from dumps with the dates that have a dump and no shard now."""
    newest = Dataset.open(dataset.root)
    same = newest.manifest.normalise == dataset.manifest.normalise
    same = same and newest.manifest.step == dataset.manifest.step
    if isinstance(dataset, DumpDataset):
        return open_newest(newest, dataset.raw.config) if same else dataset
    return newest if same else dataset


def targets_of(forecaster: Forecaster, history: RecentSteps) -> list[TargetStep]:
    """Returns (instant, date, step of that date, horizon) of each target step; with horizon 0 of the history's."""
    window, manifest = forecaster.window, forecaster.dataset.manifest
    first = 1 if window.horizon else 1 - window.history
    spans = [(piece.day, piece.rows) for piece in history.pieces]
    if window.horizon:
        spans = rows_after(history.end, window.horizon, manifest.timezone, manifest.step)
    steps = [(day, row) for day, rows in spans for row in range(rows.start, rows.stop)]
    return [(day.start + row * day.step, day, row, first + number) for number, (day, row) in enumerate(steps)]


def codes_of(forecaster: Forecaster, history: RecentSteps) -> NDArray[np.int32]:
    """Returns [W] time codes of the history and of what is forecast."""
    window, manifest = forecaster.window, forecaster.dataset.manifest
    spans = [(piece.day, piece.rows) for piece in history.pieces]
    spans += rows_after(history.end, window.horizon, manifest.timezone, manifest.step)
    return np.concatenate([time_codes(day, manifest.timezone)[rows] for day, rows in spans])


def notes_of_end(history: RecentSteps, dataset: Dataset, *, from_dumps: bool, given: bool) -> list[str]:
    """Tells that the last date may not be over, where the history ends with its last value.

    Args:
        given: whether it was said where the history ends.
    """
    day, zone_name, step = history.pieces[-1].day, dataset.manifest.timezone, dataset.manifest.step
    if given or history.end >= day.end:
        return []
    begun, over = spell(history.end - step, zone_name), neighbour(day, zone_name, 1).date
    if history.last is not None and history.last >= history.end - step:
        begun = spell(history.last, zone_name)
    until = (
        f"{option('until', day.date)}: the date is over; {option('until', begun[:16])}: only steps that ended by then"
    )
    options = until if from_dumps else f"{option('at', over)}: the date is over"
    return [
        f"The last value is of {begun}: its step is taken as complete, and later ones as not known yet ({options})."
    ]


def _notes_ahead(forecaster: Forecaster, ahead: KnownAhead | None, *, intervals: bool) -> list[str]:
    features = [forecaster.dataset.features[place] for place in forecaster.columns.futures]
    return [] if ahead is None else unobserved(features, ahead, intervals=intervals)


def steps_ahead(forecaster: Forecaster, end: int) -> list[tuple[Day, slice]]:
    """The dates and their rows that are forecast after a history."""
    manifest = forecaster.dataset.manifest
    return rows_after(end, forecaster.window.horizon, manifest.timezone, manifest.step)


def _notes(history: KnownHistory, silent: dict[str, list[str]], dataset: Dataset) -> list[str]:
    notes = list[str]()
    if names := history.unknown_nodes:
        strangers = Strangers.of(names, dataset.nodes.names)
        hint = strangers.hint() if strangers.alike else ""
        unseen = f"{counted(len(names), 'node')} that training never saw left out: {some_names(names)}{hint}."
        notes.append(unseen)
    return [*notes, *notes_of_dumps(history), *silence(silent)]
