"""An evaluation at the front door: which run, which checkpoint, and the table."""

from __future__ import annotations

from collections.abc import Sequence

from dateshard.places import runs_folder, shards_folder
from dateshard.settings import Settings
from shardstore.dataset import Dataset
from shardstore.errors import NotThereError, Where
from trainer import checkpoint
from trainer.evaluate import evaluate, within_reach
from trainer.resume import locate
from trainer.run import TrainingRun, all_runs, data_identity, find_continuable
from trainer.session import make_session
from trainer.state import restore
from trainer.table import Evaluation


def newest_run(like: Settings | None) -> TrainingRun:
    """The newest run of all, or of the dataset and settings of `like`.

    Raises:
        NotThereError: there is none.
    """
    runs = runs_folder()
    with_checkpoints = (run for run in all_runs(runs) if checkpoint.scan(run.checkpoints)[0])
    run = find_continuable(runs, like.trainer, like.dataset) if like else next(with_checkpoints, None)
    if run is None:
        what = "no run of these settings yet" if like else "no run yet"
        raise NotThereError(what, where=Where(file=str(runs)), todo="Run: dateshard train -c CONFIG")
    return run


def evaluate_run(
    name: str, which: str, split: str, baselines: Sequence[str] | None, like: Settings | None = None
) -> tuple[Evaluation, str]:
    """Evaluates a run's checkpoint on the generation that it was trained on.

    Args:
        name: a run, or `latest`: the newest, of the dataset and settings of `like` where that is given.
    """
    from dateshard.training import settings_of_run

    run = newest_run(like) if name == "latest" else locate(name, runs_folder())[0]
    settings = settings_of_run(run)
    found, passed = checkpoint.find(run.checkpoints, which)
    dataset = Dataset.open(shards_folder(settings.dataset), found.state["bound"]["data"]["generation"])
    session = make_session(settings.trainer, dataset, run.checkpoints)
    restore(session, found)
    wanted, notes = _chosen(settings, dataset, split, baselines)
    label = settings.trainer.model.name
    model = (f"{label} (model)" if label in wanted else label, session.model)
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=model)
    result.notes.extend(notes)
    if data_identity(dataset)["id"] != found.state["bound"]["data"]["id"]:
        result.notes.append("note: the store was made anew since: this is not the data that the run was trained on")
    result.notes.extend(f"passed over: {note}" for note in passed)
    place = f"epoch {found.state['epoch'] + 1} batch {found.state['batch']}"
    return result, f"run {run.name}, {which} checkpoint ({place}), generation {dataset.generation}"


def evaluate_config(settings: Settings, split: str, baselines: Sequence[str] | None) -> tuple[Evaluation, str]:
    """The baselines alone on the current generation; nothing is trained."""
    dataset = Dataset.open(shards_folder(settings.dataset))
    wanted, notes = _chosen(settings, dataset, split, baselines)
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=None)
    result.notes.extend(notes)
    return result, f"dataset {settings.dataset}, generation {dataset.generation}"


def _chosen(
    settings: Settings, dataset: Dataset, split: str, baselines: Sequence[str] | None
) -> tuple[Sequence[str], list[str]]:
    """Baselines, and notes. Of the configuration's those that the data reach; those that were asked for as they are."""
    if baselines is not None:
        return baselines, []
    return within_reach(settings.trainer, dataset, split, settings.trainer.baselines)
