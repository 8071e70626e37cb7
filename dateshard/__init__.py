"""The front door: what a person or a client touches. Names are loaded on first use, so that `--help` stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dateshard.judging.prediction import predict
    from dateshard.judging.predictor import Predictor
    from dateshard.notebooks.date_batched import DateBatchedLoader
    from dateshard.notebooks.epoch_benches import bench_epoch
    from dateshard.notebooks.opened import Opened
    from dateshard.notebooks.opened import open_dataset as open  # noqa: A004, F401 - dateshard.open
    from dateshard.notebooks.stages import backtest, measure_statistics, preprocess, train
    from dateshard.notebooks.training_runs import Run, runs
    from dateshard.notebooks.windows import Windows
    from dateshard.requests.request_predictor import RequestPredictor
    from dateshard.requests.simple_trainer import SimpleTrainer
    from dateshard.shardstore.errors import DateshardError
    from dateshard.trainer.loop import train as train_events

__version__ = "0.1.0"
_LAZY = {
    "DateBatchedLoader": ("dateshard.notebooks.date_batched", "DateBatchedLoader"),
    "DateshardError": ("dateshard.shardstore.errors", "DateshardError"),
    "Opened": ("dateshard.notebooks.opened", "Opened"),
    "Predictor": ("dateshard.judging.predictor", "Predictor"),
    "RequestPredictor": ("dateshard.requests.request_predictor", "RequestPredictor"),
    "SimpleTrainer": ("dateshard.requests.simple_trainer", "SimpleTrainer"),
    "open": ("dateshard.notebooks.opened", "open_dataset"),
    "backtest": ("dateshard.notebooks.stages", "backtest"),
    "bench_epoch": ("dateshard.notebooks.epoch_benches", "bench_epoch"),
    "measure_statistics": ("dateshard.notebooks.stages", "measure_statistics"),
    "predict": ("dateshard.judging.prediction", "predict"),
    "preprocess": ("dateshard.notebooks.stages", "preprocess"),
    "Run": ("dateshard.notebooks.training_runs", "Run"),
    "runs": ("dateshard.notebooks.training_runs", "runs"),
    "Windows": ("dateshard.notebooks.windows", "Windows"),
    "train": ("dateshard.notebooks.stages", "train"),
    "train_events": ("dateshard.trainer.loop", "train"),
}
__all__ = [
    "DateBatchedLoader",
    "DateshardError",
    "Opened",
    "Predictor",
    "RequestPredictor",
    "Run",
    "SimpleTrainer",
    "Windows",
    "__version__",
    "backtest",
    "bench_epoch",
    "measure_statistics",
    "predict",
    "preprocess",
    "runs",
    "train",
    "train_events",
]  # not `open`: `from dateshard import *` would hide the built-in


def __dir__() -> list[str]:
    return sorted({*__all__, *_LAZY})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'dateshard' has no attribute '{name}'")
    module, attribute = _LAZY[name]
    return getattr(import_module(module), attribute)
