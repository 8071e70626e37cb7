"""A run's checkpoint opened for forecasting: its dataset, its model, and its intervals."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from dateshard.judging.forecast import LATEST
from dateshard.judging.judge import newest_run
from dateshard.places import runs_folder
from dateshard.shardstore.commands import command
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import DateshardError, UsageError
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment.forecaster import Forecaster, load_forecaster
from dateshard.trainer.assessment.intervals import Intervals
from dateshard.trainer.assessment.intervals_file import intervals_of
from dateshard.trainer.binding import data_identity
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.config import is_own
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.trainer.runs.save_dir import refuse_absent
from dateshard.trainer.runs.start import locate
from dateshard.training.unprepared_dates import open_of_run
from dateshard.trust import settings_of_run


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """A run with one of its checkpoints loaded.

    Attributes:
        which: the checkpoint as it was asked for.
        notes: what a person should know of it.
    """

    run: TrainingRun
    which: str
    saved: Checkpoint
    dataset: Dataset
    forecaster: Forecaster
    notes: list[str]


def load_run(
    name: str,
    which: str,
    *,
    bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
    trust: bool = False,
) -> LoadedRun:
    """Opens a run's dataset and loads the model of one of its checkpoints.

    Args:
        name: a run, the folder of a checkpoint, which is then taken, or `latest`.
        bounds: of features, instead of those of the run; None: the run's.
        trust: the code that the run names may be imported.

    Raises:
        UsageError, StoreError: what happened, where, and what to do next.
    """
    run, which = _named(name, which)
    settings = settings_of_run(run, trust=trust)
    refuse_absent(run.folder)
    saved, passed = checkpoint.find(run.checkpoints, which)
    dataset, left_out = open_of_run(settings, saved.state.bound.data, needs_dates=False)
    notes = [*(f"passed over: {note}" for note in passed), *left_out]
    if data_identity(dataset).id != saved.state.bound.data.id:
        notes.append("the store was made anew since: this is not the data that the run was trained on")
    changed = {} if bounds is None else {"bounds": dict(bounds)}
    forecaster = load_forecaster(settings.trainer.model_copy(update=changed), dataset, saved)
    return LoadedRun(run=run, which=which, saved=saved, dataset=dataset, forecaster=forecaster, notes=notes)


def with_nodes_since(loaded: LoadedRun, names: Sequence[str]) -> Forecaster:
    """The forecaster with the named nodes behind those of its generation, where it keeps nodes that training never saw.

    It is the same one where all of them are there, and where a model of the user's own has weights for each node.
    """
    dataset = loaded.dataset
    new = [name for name in names if name not in set(dataset.nodes.names)]
    if not (new and dataset.manifest.keeps_unknown):
        return loaded.forecaster
    try:
        return load_forecaster(loaded.forecaster.config, dataset.with_new_nodes(new), loaded.saved)
    except DateshardError:
        if not is_own(loaded.forecaster.config.model.name):
            raise
        return loaded.forecaster


def on_nodes(intervals: Intervals | None, num_nodes: int) -> Intervals | None:
    """The intervals with none for nodes behind those that they were made of."""
    if intervals is None:
        return None
    begin, now = (reach.with_nodes(num_nodes) for reach in (intervals.begin, intervals.now))
    return replace(intervals, begin=begin, now=now)


def refuse_known_ahead(loaded: LoadedRun, door: str) -> None:
    """Refuses a model that looks at what is known of the steps ahead, where nobody can say what that is.

    Raises:
        UsageError: naming the features, and the command that takes them.
    """
    if getattr(loaded.forecaster.model, "uses_future", False):
        names = ", ".join(loaded.dataset.feature_names[place] for place in loaded.forecaster.columns.futures)
        what = f"{door} takes nothing that is known ahead, and the model looks at {names} of the steps ahead"
        raise UsageError(what, todo=f"Forecast with {command('predict', loaded.run.name, '--future', 'FILE')}")


def _named(name: str, which: str) -> tuple[TrainingRun, str]:
    """Returns (run, which of its checkpoints); a checkpoint's folder names both."""
    if name == LATEST:
        return newest_run(None), which
    run, own = locate(name, runs_folder())
    return run, which if own == "latest" else own


class Calibrated:
    """The intervals of some weights, kept or made when they are first asked for, and what that took."""

    def __init__(self, loaded: LoadedRun, level: float | None) -> None:
        self.loaded, self.level = loaded, level
        self.note, self.seconds = "", 0.0

    @cached_property
    def intervals(self) -> Intervals | None:
        """Gives None where none were asked for, or none can be made."""
        if self.level is None:
            return None
        forecaster = self.loaded.forecaster
        began = time.perf_counter()
        intervals, self.note = intervals_of(forecaster, self.loaded.saved, self.level, self.loaded.run.folder)
        self.seconds = time.perf_counter() - began
        return intervals
