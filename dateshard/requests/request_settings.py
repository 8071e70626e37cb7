"""The configurations that a training on a trace takes: of its records, and of its minutes.

That of the records is `configs/requests.yaml`, below it the preset, above it where the dumps lie and how they are divided,
the user's own files, and KEY=VALUE.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from dateshard.requests.trace import Trace
from dateshard.requests.trace_dumps import PARTS, TOKENS, MinuteCounts, by_date, parts_of
from dateshard.settings import Settings, read_layers, validate
from dateshard.settings.presets import preset_file
from dateshard.shardstore.errors import DumpError, UsageError, Where, counted, shorten

MODELS = ("lstm", "dlinear")
OTHERS = ("gru", "cnn", "nlinear")  # an mlp would be told the second at which the next request comes
SAMPLES = {"cpu": 50_000, "gpu": 200_000}  # records, where none were asked for
HISTORY_MINUTES, HORIZON_MINUTES = 60, 15
FEWEST_DATES = 3  # of a trace whose minutes are forecast: one for each part
LEAST_WINDOWS = 20  # in each part
MINUTES: Mapping[str, Any] = {
    "pipeline": {
        "layout": "grid",
        "step": "1m",
        "features": {name: {"aggregate": "sum", "transform": "log1p"} for name in TOKENS},
    },
    "trainer": {
        "window": {"history": HISTORY_MINUTES, "horizon": HORIZON_MINUTES},
        "model": {"name": "mlp", "hidden_units": [64], "dropout_rate": 0.1},
        "training": {
            "epochs": 30,
            "batch_size": 64,
            "learning_rate": 0.002,
            "loss": "negative_binomial",
            "seed": 7,
            "clip_norm": 1.0,
            "sample_size": 20_000,
        },
        "scheduler": {"type": "plateau", "patience": 1, "factor": 0.3},
        "early_stopping": {"patience": 4, "min_delta": 0.0005},
        "checkpoint": {"save_freq": None, "keep_last": 1},
    },
}


def refuse_unknown_models(models: Sequence[str]) -> None:
    """Refuses names of models that cannot forecast the next request.

    Raises:
        UsageError: naming the first, and those that there are.
    """
    for name in models:
        if name not in (*MODELS, *OTHERS):
            todo = f"Choose from {', '.join((*MODELS, *OTHERS))}"
            raise UsageError(f"there is no model '{shorten(name)}' of requests", todo=todo)
    if not models:
        raise UsageError("no model is named", todo="Name some, as --models lstm dlinear")


def records_settings(
    trace: Trace, name: str, dumps: Path, preset: str, own: Sequence[str], overrides: Sequence[str]
) -> Settings:
    """The configuration of a trace's records.

    Args:
        own: the user's files. overrides: KEY=VALUE.

    Raises:
        DumpError: the trace is too short for them; says how many records are needed.
    """
    base = Path(str(files("dateshard.examples") / "configs" / "requests.yaml"))
    source = {"path": f"{dumps}/{{date}}.parquet", "time": "time", "time_format": "iso", "time_origin": None}
    columns = {"request_tokens": {"column": "request_tokens"}, "response_tokens": {"column": "response_tokens"}}
    tree = {"dataset": name, "pipeline": {"source": source, "features": columns}}
    settings = _resolved([base, tree, *own], overrides, preset)
    history = settings.trainer.window.steps
    by_part = _windows(trace, parts_of(trace), history)
    by_date_share = _share_of_long_dates(trace, history)
    if by_date_share < 0.5 and _num_dates(trace) >= 10:  # a history is longer than a date: windows cross midnight
        return settings
    if min(by_part.values()) < LEAST_WINDOWS:
        raise _too_short(trace, history, by_part)
    names = sorted({*parts_of(trace)})
    split = {kind: [name for name in names if name.endswith(f".{kind}")] for kind in PARTS}
    divided = {"pipeline": {"source": {"cut": "part"}, "split": {"by": "part", **split}}}
    return _resolved([base, tree, *own, divided], overrides, preset)


def _resolved(layers: Sequence[str | Path | Mapping[str, Any]], overrides: Sequence[str], preset: str) -> Settings:
    read = read_layers(layers, overrides, preset_file(preset))
    return validate(read.tree, read.places)


def _windows(trace: Trace, parts: Sequence[str], history: int) -> dict[str, int]:
    """Counts the windows of each part: none leaves its date, its part, or crosses a hole."""
    count = dict.fromkeys(PARTS, 0)
    for _, rows in by_date(trace.time_R):
        lengths: dict[str, int] = {}
        for name in parts[rows]:
            lengths[name] = lengths.get(name, 0) + 1
        for name, length in lengths.items():
            count[name.partition(".")[2]] += max(0, length - history)
    return count


def _num_dates(trace: Trace) -> int:
    return sum(1 for _ in by_date(trace.time_R))


def _share_of_long_dates(trace: Trace, history: int) -> float:
    """The share of records that a window of their own date can end with."""
    inside: int = sum(max(0, rows.stop - rows.start - history) for _, rows in by_date(trace.time_R))
    return inside / len(trace)


def _too_short(trace: Trace, history: int, windows: Mapping[str, int]) -> DumpError:
    least = min(windows, key=lambda kind: windows[kind])
    needed = round((history + LEAST_WINDOWS) / 0.15)
    what = (
        f"its {counted(len(trace), 'usable record')} are too few: with a history of {history} records its {least} part has "
        f"{counted(windows[least], 'window')}, and {LEAST_WINDOWS} are needed, about {needed:,} records without a hole"
    )
    todo = "Take a larger --sample-size or a longer trace, or a shorter history: trainer.window.history=20"
    return DumpError(what, where=Where(file=trace.file), todo=todo)


def minutes_settings(minutes: MinuteCounts, name: str, dumps: Path, preset: str) -> Settings | str:
    """The configuration of a trace's minutes; or in words why they cannot be forecast by a model."""
    held_out = held_out_dates(minutes)
    if isinstance(held_out, str):
        return held_out
    (first, second), dates = held_out, [date for date, _ in by_date(minutes.time_M)]
    split = {
        "train": f"{dates[0]}..{before(dates, first)}",
        "validation": f"{first}..{before(dates, second)}",
        "test": f"{second}..{dates[-1]}",
    }
    source = {"path": f"{dumps}/{{date}}.parquet", "time": "time", "node_name": "trace"}
    tree = {"dataset": f"{name}-minutes", "pipeline": {"source": source, "split": split}}
    device = {"trainer": {"training": {"device": "auto" if preset == "gpu" else preset}}}
    read = read_layers([MINUTES, tree, device])
    return validate(read.tree, read.places)


def held_out_dates(minutes: MinuteCounts) -> tuple[dt.date, dt.date] | str:
    """The dates at which validation and the test set begin; or in words why there are too few dates."""
    longest = HISTORY_MINUTES + HORIZON_MINUTES
    dates = by_date(minutes.time_M) if len(minutes.time_M) else ()
    whole = [date for date, rows in dates if rows.stop - rows.start > longest]
    if len(whole) < FEWEST_DATES:
        what = f"the trace has {counted(len(whole), 'date')} of more than {longest} minutes"
        return f"{what}, and a model of minutes needs {FEWEST_DATES}"
    held = max(1, round(0.15 * len(whole)))
    return whole[-2 * held], whole[-held]


def before(dates: Sequence[Any], date: Any) -> Any:
    """The date before one of them."""
    return dates[dates.index(date) - 1]
