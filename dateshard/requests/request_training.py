"""Makes trained models of the file of a trace: reads, divides it into dumps, prepares, trains, measures, packs.

Models of the next request and one of the minutes are trained on the same trace; each becomes a folder of its own.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dateshard.judging.loaded_run import load_run
from dateshard.pipeline.planning.plan import Wish
from dateshard.places import data_folder
from dateshard.preparing.carrying_out import carry_out
from dateshard.requests import interval_facts
from dateshard.requests.accuracy import next_request_facts
from dateshard.requests.model_of_run import note_model
from dateshard.requests.packed_model import PackedModel, pack, unpack
from dateshard.requests.request_settings import (
    SAMPLES,
    minutes_settings,
    records_settings,
    refuse_unknown_models,
)
from dateshard.requests.trace import Trace, read_trace
from dateshard.requests.trace_dumps import minutes_of, name_of, write_minute_dumps, write_record_dumps
from dateshard.settings import Settings
from dateshard.settings.presets import preset_file
from dateshard.shardstore.errors import DateshardError, FailedDatesError
from dateshard.terminal.screen import screen_of
from dateshard.terminal.signals import StopSignal
from dateshard.trainer.runs.run_folder import TrainingRun
from dateshard.training.train import TrainRequest, run_training
from dateshard.training.train_command import Shown

INTERVALS = "minutes"  # the name of the model of intervals among the models
STAMP = "%Y%m%d_%H%M%S"
DATA_PATH = "dataset/BurstGPT_1_cleaned.csv"  # where no trace is named


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTraining:
    """What a training on a trace is asked for.

    Attributes:
        columns: {time, input, output: the file's column}, unless its header is a known one. unit: of times that are numbers.
        configs, overrides: settings of the next request's models over `configs/requests.yaml`.
        level: the share of values that shall lie inside the intervals.
        most_r2: a model that explains a larger share of a held-out value, or of its logarithm, is taken for leaking, and refused.
    """

    data_path: str
    sample_size: int | None = None
    models: tuple[str, ...] = ("lstm", "dlinear")
    preset: str = "auto"
    model_dir: Path | None = None
    columns: Mapping[str, str] | None = None
    unit: str | None = None
    configs: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    level: float = 0.9
    most_r2: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutcome:
    """What became of one model: it is packed, or it failed.

    Attributes:
        loss: the best validation loss. error: why it failed; empty if it did not.
    """

    model: str
    packed: PackedModel | None = None
    loss: float | None = None
    epochs: int = 0
    error: str = ""


@dataclass(slots=True, kw_only=True)
class RequestOutcome:
    """What a training on a trace has come to.

    Attributes:
        no_intervals: why there is no model of the minutes; empty if there is one.
    """

    trace: Trace
    models: list[ModelOutcome] = field(default_factory=list)
    intervals: ModelOutcome | None = None
    no_intervals: str = ""
    began: dt.datetime
    preset: str
    model_dir: Path

    @property
    def trained(self) -> list[ModelOutcome]:
        """The models of the next request that did not fail."""
        return [model for model in self.models if not model.error]


Watch = Callable[[RequestOutcome, ModelOutcome | None], None]


def models_folder() -> Path:
    """Where models of requests lie unless another folder is named."""
    return data_folder() / "models"


def train_requests(asked: RequestTraining, watch: Watch, *, progress: bool = False) -> RequestOutcome:
    """Trains all that is asked for.

    Args:
        watch: is called once the trace is read, and with each model that has ended.
        progress: show each training as `train` does.

    Raises:
        UsageError, DumpError: before anything is trained. KeyboardInterrupt: it was interrupted.
    """
    refuse_unknown_models(asked.models)
    preset = preset_file(asked.preset).stem
    size = SAMPLES[preset] if asked.sample_size is None else asked.sample_size
    trace = read_trace(asked.data_path, size, asked.columns, asked.unit)
    outcome = RequestOutcome(
        trace=trace,
        began=dt.datetime.now(dt.UTC).astimezone(),
        preset=preset,
        model_dir=asked.model_dir or models_folder(),
    )
    watch(outcome, None)
    sample = trace.sample
    name = name_of(sample)
    settings = records_settings(sample, name, write_record_dumps(sample, name), preset, asked.configs, asked.overrides)
    prepare(settings)
    for model in dict.fromkeys(asked.models):
        ended = _trained_model(outcome, settings, model, asked, progress=progress)
        outcome.models.append(ended)
        watch(outcome, ended)
    _train_intervals(outcome, asked, progress=progress)
    watch(outcome, outcome.intervals)
    return outcome


def _trained_model(
    outcome: RequestOutcome, settings: Settings, model: str, asked: RequestTraining, *, progress: bool
) -> ModelOutcome:
    """Trains, measures and packs one model of the next request; its failure is its outcome."""
    tree = settings.trainer.model.model_dump() | {"name": model}
    chosen = settings.trainer.model_copy(update={"model": settings.trainer.model.model_validate(tree)})
    name = free_name(outcome, model)
    try:
        run = trained_run(settings.model_copy(update={"trainer": chosen}), name, progress=progress)
        loaded = load_run(run.name, "best")
        facts, arrays = next_request_facts.measured(loaded.forecaster, outcome.trace.sample, asked.level)
        next_request_facts.refuse_leak(facts, asked.most_r2)
        loss, epochs = ended_with(run)
        whole = common_facts(outcome, model, loss, epochs) | facts
        folder = pack(outcome.model_dir / name, loaded.forecaster, loaded.saved, whole, arrays)
        note_model(run.folder, folder)
        return ModelOutcome(model=model, packed=unpack(folder), loss=loss, epochs=epochs)
    except DateshardError as error:
        return ModelOutcome(model=model, error=str(error))


def _train_intervals(outcome: RequestOutcome, asked: RequestTraining, *, progress: bool) -> None:
    """Trains the model of the minutes, if the trace has enough of them."""
    minutes = minutes_of(outcome.trace)
    name = f"{name_of(outcome.trace)}"
    dumps = write_minute_dumps(minutes, name)
    settings = minutes_settings(minutes, name, dumps, outcome.preset)
    if isinstance(settings, str):
        outcome.no_intervals = settings
        return
    packed_name = free_name(outcome, INTERVALS)
    try:
        prepare(settings)
        run = trained_run(settings, packed_name, progress=progress)
        loaded = load_run(run.name, "best")
        facts, arrays = interval_facts.measured(loaded.forecaster, minutes)
        loss, epochs = ended_with(run)
        whole = common_facts(outcome, INTERVALS, loss, epochs) | facts
        folder = pack(outcome.model_dir / packed_name, loaded.forecaster, loaded.saved, whole, arrays)
        note_model(run.folder, folder)
        outcome.intervals = ModelOutcome(model=INTERVALS, packed=unpack(folder), loss=loss, epochs=epochs)
    except DateshardError as error:
        outcome.intervals = ModelOutcome(model=INTERVALS, error=str(error))
        outcome.no_intervals = str(error)


def prepare(settings: Settings) -> None:
    """Prepares the dumps of a trace, as `preprocess` does; dates that are fresh stay as they are.

    Raises:
        FailedDatesError: naming the first date.
    """
    finished = carry_out(settings, Wish(), screen_of(progress=False), "train again", workers=1).finished
    if finished.failed:
        date, error = next(iter(finished.failed.items()))
        raise FailedDatesError(f"{date} of the trace cannot be prepared: {error}", failed=finished.failed)


def trained_run(settings: Settings, name: str, *, progress: bool) -> TrainingRun:
    """Trains a run of that name to its end.

    Raises:
        KeyboardInterrupt: a signal stopped it; its argument is the exit code.
    """
    shown = Shown(screen_of(progress=progress))
    with StopSignal() as stop:
        try:
            ended = run_training(settings, TrainRequest(name=name), watch=shown.watch, should_stop=stop.asked)
        finally:
            shown.close()
    if ended.why == "stopped":
        raise KeyboardInterrupt(stop.exit_code)
    assert shown.view is not None, "a training begins with Started"
    return shown.view.started.run


def ended_with(run: TrainingRun) -> tuple[float | None, int]:
    """Returns the best validation loss and how many epochs there were."""
    losses = [row for row in run.metrics() if "train_loss" in row]
    held = [row["val_loss"] for row in losses if row.get("val_loss") is not None and np.isfinite(row["val_loss"])]
    return (min(held) if held else None), len(losses)


def free_name(outcome: RequestOutcome, model: str) -> str:
    """A name as `cpu_lstm_20250926_143000`, which no model and no run has."""
    stem = f"{outcome.preset}_{model}_{outcome.began.strftime(STAMP)}"
    taken = [outcome.model_dir, data_folder() / "runs"]
    names = (stem, *(f"{stem}_{number}" for number in range(2, 1000)))
    return next(name for name in names if not any((folder / name).exists() for folder in taken))


def common_facts(outcome: RequestOutcome, model: str, loss: float | None, epochs: int) -> dict[str, Any]:
    """What every packed model says of itself."""
    trace = outcome.trace
    return {
        "model": model,
        "preset": outcome.preset,
        "trained": outcome.began.isoformat(timespec="seconds"),
        "loss": loss,
        "epochs": epochs,
        "trace": {
            "file": trace.file,
            "format": trace.format,
            "columns": list(trace.columns),
            "unit": trace.scale.unit,
            "origin": None if trace.scale.origin is None else str(trace.scale.origin),
            "records": trace.counts.kept,
        },
    }


def split_columns(words: Sequence[str]) -> dict[str, str] | None:
    """Takes `time=T,input=I,output=O` apart, in one word or several; None of none."""
    if not words:
        return None
    pairs = [pair.partition("=") for word in words for pair in word.split(",") if pair]
    return {role.strip(): column.strip() for role, _, column in pairs}
