"""An evaluation at the front door: which run, which checkpoint, and the table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dateshard.insight.observed_shares import observed_cells, shares_line, shares_of, thin_splits
from dateshard.judging.verdict import Verdict, keep, kept, of_evaluation
from dateshard.judging.window_forecasts import ForecastsFile, write_forecasts
from dateshard.places import runs_folder
from dateshard.settings import Settings
from dateshard.shardstore.commands import to_run
from dateshard.shardstore.dataset import Dataset
from dateshard.shardstore.errors import NotThereError, Where
from dateshard.trainer import checkpoint
from dateshard.trainer.assessment.baselines import within_reach
from dateshard.trainer.assessment.evaluate import LEVEL, evaluate
from dateshard.trainer.assessment.evaluation import Evaluation
from dateshard.trainer.assessment.forecaster import load_forecaster
from dateshard.trainer.assessment.intervals_file import intervals_of, kept_intervals
from dateshard.trainer.binding import data_identity
from dateshard.trainer.checkpoint import Checkpoint
from dateshard.trainer.devices.acceleration import without_acceleration
from dateshard.trainer.models import num_parameters
from dateshard.trainer.runs.observed_targets import unobserved
from dateshard.trainer.runs.run_folder import TrainingRun, find_continuable, newest
from dateshard.trainer.runs.save_dir import refuse_absent
from dateshard.trainer.runs.start import locate
from dateshard.trainer.session import restore
from dateshard.trainer.setup import choose_columns, make_session
from dateshard.training.unprepared_dates import open_of_run, open_to_look
from dateshard.trust import admit, code_of, settings_of_run

CALIBRATED = ("train", "validation")  # of these the model or its intervals were made


def newest_run(like: Settings | None) -> TrainingRun:
    """The newest run of all, or of the dataset and settings of `like`.

    Raises:
        NotThereError: there is none.
    """
    runs = runs_folder()
    if like is None:
        return newest(runs, with_checkpoint=True)
    run = find_continuable(runs, like.trainer, like.dataset)
    if run is None:
        where, todo = Where(file=str(runs)), to_run("train", config=True)
        raise NotThereError("no run of these settings yet", where=where, todo=todo)
    return run


def evaluate_run(
    run: TrainingRun, which: str, split: str, baselines: Sequence[str] | None, baseline_windows: int | None = None
) -> tuple[Evaluation, str]:
    """Evaluates a run's checkpoint on the generation that it was trained on; returns a headline too.

    What is found of the best checkpoint is kept beside the run, whichever baselines were asked for
    (`dateshard.judging.verdict`).
    """
    settings = with_windows(settings_of_run(run), baseline_windows)
    refuse_absent(run.folder)
    saved, passed = checkpoint.find(run.checkpoints, which)
    judged = _judge(run, settings, saved, split, baselines)
    judged.result.notes.extend(f"passed over: {note}" for note in passed)
    if which in ("best", "best_model"):
        _keep(run, judged, saved)
    place = f"epoch {saved.state.epoch + 1} batch {saved.state.batch}"
    headline = f"run {run.name}, {which} checkpoint ({place}), generation {judged.dataset.generation}"
    return judged.result, headline


def keep_forecasts(run: TrainingRun, which: str, split: str, path: Path) -> ForecastsFile:
    """Writes the forecasts of a run's checkpoint for every window of a split, with the intervals that the run has of it."""
    settings = settings_of_run(run)
    saved, _ = checkpoint.find(run.checkpoints, which)
    dataset, _ = open_of_run(settings, saved.state.bound.data)
    forecaster = load_forecaster(settings.trainer, dataset, saved)
    return write_forecasts(forecaster, split, kept_intervals(forecaster, saved, run.folder), path)


def run_of(name: str, like: Settings | None = None, *, trust: bool = False) -> TrainingRun:
    """The run of that name; `latest`: the newest, of the dataset and settings of `like` where that is given.

    Args:
        trust: the code that it names may be imported; that which `like` names may be in any case.
    """
    run = newest_run(like) if name == "latest" else locate(name, runs_folder())[0]
    if like is not None:
        admit(run.folder, code_of(like.trainer))
    if trust:
        settings_of_run(run, trust=True)
    return run


def verdict_on(run: TrainingRun, split: str) -> tuple[Verdict, bool]:
    """Returns (the verdict on a run's best checkpoint on a split, whether it was evaluated just now).

    Without a best checkpoint (no epoch is whole yet) it is the newest one's.

    Raises:
        NotThereError: no checkpoint verifies. UsageError: the split has no window.
    """
    run.facts()  # a damaged run.json is told before anything else of the run
    refuse_absent(run.folder)
    saved = checkpoint.best(run.checkpoints)[0]
    if saved is None:
        saved, _ = checkpoint.find(run.checkpoints, "latest")
    if (known := kept(run, split, saved)) is not None:
        return known, False
    return _keep(run, _judge(run, settings_of_run(run), saved, split, None), saved), True


@dataclass(frozen=True, slots=True)
class _Judged:
    result: Evaluation
    dataset: Dataset
    seconds: float
    parameters: int


def _judge(
    run: TrainingRun, settings: Settings, saved: Checkpoint, split: str, baselines: Sequence[str] | None
) -> _Judged:
    began = time.perf_counter()
    dataset, left_out = open_of_run(settings, saved.state.bound.data)
    session = make_session(without_acceleration(settings.trainer), dataset, run.checkpoints)
    restore(session, saved)
    wanted, notes = _chosen(settings, dataset, split, baselines)
    label = settings.trainer.model.name
    model = (f"{label} (model)" if label in wanted else label, session.model)
    intervals = None
    if split not in CALIBRATED:
        forecaster = load_forecaster(settings.trainer, dataset, saved)
        intervals, note = intervals_of(forecaster, saved, LEVEL, run.folder)
        notes = [*notes, *([note] if note else [])]
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=model, intervals=intervals)
    _look(result, settings, dataset)
    result.notes.extend([*notes, *(f"note: {sentence}" for sentence in left_out)])
    if (precision := settings.trainer.training.precision) != "fp32":
        result.notes.append(f"note: trained in {precision}; its forecasts, here and elsewhere, are computed in fp32")
    if data_identity(dataset).id != saved.state.bound.data.id:
        result.notes.append("note: the store was made anew since: this is not the data that the run was trained on")
    return _Judged(result, dataset, time.perf_counter() - began, num_parameters(session.model))


def _keep(run: TrainingRun, judged: _Judged, saved: Checkpoint) -> Verdict:
    verdict = of_evaluation(judged.result, saved, judged.seconds, judged.parameters)
    if failure := keep(run, verdict):
        judged.result.notes.append(f"note: {failure}")
    return verdict


def evaluate_config(settings: Settings, split: str, baselines: Sequence[str] | None) -> tuple[Evaluation, str]:
    """The baselines alone on the current generation; nothing is trained."""
    dataset = open_to_look(settings)
    wanted, notes = _chosen(settings, dataset, split, baselines)
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=None)
    _look(result, settings, dataset)
    result.notes.extend(notes)
    return result, f"dataset {settings.dataset}, generation {dataset.generation}"


def _look(result: Evaluation, settings: Settings, dataset: Dataset) -> None:
    """Notes how much of each split's targets was observed."""
    targets = choose_columns(settings.trainer, dataset).targets
    cells = observed_cells(dataset, targets)
    result.observed.update(shares_of(cells))
    result.notes.extend(filter(None, [shares_line(cells, "target cells")]))
    result.notes.extend(f"warning: {sentence}" for sentence in thin_splits(cells))
    result.notes.extend(
        f"warning: no cell of {dataset.feature_names[place]} was observed in the training data: mean, ridge and every "
        "model know nothing of it"
        for place in unobserved(dataset, "train", targets)
    )


def with_windows(settings: Settings, baseline_windows: int | None) -> Settings:
    """The settings with another number of windows for slow baselines, where one is given."""
    if baseline_windows is None:
        return settings
    changed = settings.trainer.model_copy(update={"baseline_windows": baseline_windows})
    return settings.model_copy(update={"trainer": changed})


def _chosen(
    settings: Settings, dataset: Dataset, split: str, baselines: Sequence[str] | None
) -> tuple[Sequence[str], list[str]]:
    """Baselines, and notes. Of the configuration's those that the data reach; those that were asked for as they are."""
    if baselines is not None:
        return baselines, []
    return within_reach(settings.trainer, dataset, split, settings.trainer.baselines)
