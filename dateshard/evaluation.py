"""An evaluation at the front door: which run, which checkpoint, and the table."""

from __future__ import annotations

from collections.abc import Sequence

from dateshard.places import runs_folder, shards_folder
from dateshard.screen import Screen, number
from dateshard.settings import Settings
from shardstore.dataset import Dataset
from shardstore.errors import NotThereError, Where
from trainer import checkpoint
from trainer.evaluate import Evaluation, Row, evaluate
from trainer.loop import restore
from trainer.resume import locate
from trainer.run import all_runs
from trainer.session import make_session


def evaluate_run(name: str, which: str, split: str, baselines: Sequence[str] | None) -> tuple[Evaluation, str]:
    """Evaluates a run's checkpoint on the generation that it was trained on."""
    from dateshard.training import settings_of_run

    if name == "latest":
        newest = next(iter(all_runs(runs_folder())), None)
        if newest is None:
            raise NotThereError(
                "no run yet", where=Where(file=str(runs_folder())), todo="Run: dateshard train -c CONFIG"
            )
        name = newest.name
    run, _ = locate(name, runs_folder())
    settings = settings_of_run(run)
    found, passed = checkpoint.find(run.checkpoints, which)
    dataset = Dataset.open(shards_folder(settings.dataset), found.state["bound"]["data"]["generation"])
    session = make_session(settings.trainer, dataset, run.checkpoints)
    restore(session, found)
    wanted = settings.trainer.baselines if baselines is None else baselines
    label = settings.trainer.model.name
    model = (f"{label} (model)" if label in wanted else label, session.model)
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=model)
    result.notes.extend(f"passed over: {note}" for note in passed)
    place = f"epoch {found.state['epoch'] + 1} batch {found.state['batch']}"
    return result, f"run {run.name}, {which} checkpoint ({place}), generation {dataset.generation}"


def evaluate_config(settings: Settings, split: str, baselines: Sequence[str] | None) -> tuple[Evaluation, str]:
    """The baselines alone on the current generation; nothing is trained."""
    dataset = Dataset.open(shards_folder(settings.dataset))
    wanted = settings.trainer.baselines if baselines is None else baselines
    result = evaluate(settings.trainer, dataset, split=split, baselines=wanted, model=None)
    return result, f"dataset {settings.dataset}, generation {dataset.generation}"


def show(screen: Screen, result: Evaluation) -> None:
    """The table: scaled MSE over everything, then each target in its own unit; the best of a column is starred."""
    features = result.features
    dates = f"{result.split}: {result.windows:,} windows"
    screen.tell(f"{dates}; lower is better but for R2, * = best; MAE and RMSE in raw units")
    header = ["", "MSE scaled", "R2"]
    for name in features:
        header += [f"{name} MAE", "RMSE", "R2"] if len(features) > 1 else ["MAE", "RMSE"]
    figures = [_figures(row, features) for row in result.rows]
    columns = list(zip(*figures, strict=True))
    lines = [header]
    for row, values in zip(result.rows, figures, strict=True):
        cells = [row.name]
        for k, value in enumerate(values):
            present = [v for v in columns[k] if v is not None]
            best = present and value == (max(present) if header[k + 1] == "R2" else min(present))
            cells.append(number(value) + ("*" if best else " "))
        lines.append(cells)
    screen.table(lines, right=range(1, len(header)))
    for note in result.notes:
        screen.tell(note)
    if result.beats_baselines is not None:
        screen.tell(_verdict(result))


def _figures(row: Row, features: Sequence[str]) -> list[float | None]:
    scaled, raw = row.scaled, row.raw
    figures: list[float | None] = [scaled["mse"], scaled["r2"]]
    for name in features:
        part = raw["by_feature"][name]
        figures += [part["mae"], part["rmse"], part["r2"]] if len(features) > 1 else [part["mae"], part["rmse"]]
    return figures


def _verdict(result: Evaluation) -> str:
    """Whether the model is worth its training, in one sentence."""
    models = [row for row in result.rows if row.kind == "model"]
    best = min((row for row in result.rows if row.kind == "baseline"), key=lambda row: row.scaled["mse"])
    ratio = models[0].scaled["mse"] / best.scaled["mse"]
    if result.beats_baselines:
        return f"The model beats every baseline: {100 * (1 - ratio):.1f} % less squared error than {best.name}."
    return f"The model does NOT beat {best.name} ({100 * (ratio - 1):.1f} % more squared error): use {best.name}."
