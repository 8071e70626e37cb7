"""An evaluation at the front door: which run, which checkpoint, and the table."""

from __future__ import annotations

from collections.abc import Sequence

from dateshard.places import runs_folder, shards_folder
from dateshard.screen import Screen, number
from dateshard.settings import Settings
from shardstore.dataset import Dataset
from shardstore.errors import NotThereError, Where
from trainer import checkpoint
from trainer.evaluate import evaluate
from trainer.resume import locate
from trainer.run import TrainingRun, all_runs, data_identity, find_continuable
from trainer.session import make_session
from trainer.state import restore
from trainer.table import Evaluation, Row


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
    wanted = settings.trainer.baselines if baselines is None else baselines
    label = settings.trainer.model.name
    model = (f"{label} (model)" if label in wanted else label, session.model)
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=model)
    if data_identity(dataset)["id"] != found.state["bound"]["data"]["id"]:
        result.notes.append("note: the store was made anew since: this is not the data that the run was trained on")
    result.notes.extend(f"passed over: {note}" for note in passed)
    place = f"epoch {found.state['epoch'] + 1} batch {found.state['batch']}"
    return result, f"run {run.name}, {which} checkpoint ({place}), generation {dataset.generation}"


def evaluate_config(settings: Settings, split: str, baselines: Sequence[str] | None) -> tuple[Evaluation, str]:
    """The baselines alone on the current generation; nothing is trained."""
    dataset = Dataset.open(shards_folder(settings.dataset))
    wanted = settings.trainer.baselines if baselines is None else baselines
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=None)
    return result, f"dataset {settings.dataset}, generation {dataset.generation}"


SHOWN_FEATURES = 3  # columns for more do not fit a terminal; --json has all


def show(screen: Screen, result: Evaluation) -> None:
    """The table: scaled error over all targets, then each target in its own unit; the best of a column is starred."""
    features = result.features[:SHOWN_FEATURES] if screen.terminal else result.features
    screen.tell(f"{result.split}: {result.windows:,} windows; features in raw units, * = best")
    figures = [_figures(row, features) for row in result.rows]
    best = [_best(column, position) for position, column in enumerate(zip(*figures, strict=True))]
    lines = _header(features, wide=screen.terminal)
    for row, values in zip(result.rows, figures, strict=True):
        stars = ["*" if value is not None and value == top else " " for value, top in zip(values, best, strict=True)]
        ends = stars if screen.terminal else [""] * len(stars)
        lines.append([row.name, *(number(value) + end for value, end in zip(values, ends, strict=True))])
    screen.table(lines, right=range(1, len(lines[-1])))
    if len(features) < len(result.features):
        screen.tell(f"{len(result.features) - len(features)} more targets: see --json")
    for note in result.notes:
        screen.tell(note)
    if result.beats_baselines is not None:
        screen.tell(_verdict(result))


def _header(features: Sequence[str], *, wide: bool) -> list[list[str]]:
    """Two rows on a terminal (the feature above its figures), one with full names in a pipe."""
    if wide:
        above = [cell for name in features for cell in ("", f"{name} ")]
        return [["", "", "scaled ", *above], ["", "MSE ", "R2 ", *["MAE ", "RMSE "] * len(features)]]
    return [["name", "MSE", "R2", *(f"{name} {figure}" for name in features for figure in ("MAE", "RMSE"))]]


def _figures(row: Row, features: Sequence[str]) -> list[float | None]:
    figures: list[float | None] = [row.scaled["mse"], row.scaled["r2"]]
    for name in features:
        part = row.raw["by_feature"][name]
        figures += [part["mae"], part["rmse"]]
    return figures


def _best(column: Sequence[float | None], position: int) -> float | None:
    """The lowest error; of R2, which stands second, the highest."""
    present = [value for value in column if value is not None]
    return (max if position == 1 else min)(present, default=None)


def _verdict(result: Evaluation) -> str:
    """Whether the model is worth its training, in one sentence."""
    models = [row for row in result.rows if row.kind == "model"]
    told = [row for row in result.rows if row.kind == "baseline" and row.scaled["mse"] is not None]
    best = min(told, key=lambda row: row.scaled["mse"])
    ratio = models[0].scaled["mse"] / best.scaled["mse"]
    if result.beats_baselines:
        return f"The model beats every baseline: {100 * (1 - ratio):.1f} % less squared error than {best.name}."
    return f"The model does NOT beat {best.name} ({100 * (ratio - 1):.1f} % more squared error): use {best.name}."
